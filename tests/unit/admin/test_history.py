"""The counters of the last hour, in slots of ten seconds."""

from __future__ import annotations

import pytest

from goproxyai.admin.events import STATE_SECONDS
from goproxyai.admin.history import MAX_SLOTS, RANGES, SLOT_SECONDS, CounterHistory, RouteCounts
from goproxyai.admin.situation import Traffic
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.failure_cause import FailureCause
from goproxyai.telemetry.outcome import CacheOutcome


def test_history_covers_last_hour() -> None:
    counters = Counters()
    history = CounterHistory(counters, 0.0)
    for number in range(1, 2 * MAX_SLOTS):
        counters.finished.add_outcome("/v1/models", b"GET", 200, "HIT" if number % 2 else "MISS", 3)
        counters.finished.add_outcome("/health", b"GET", 200, "-", 9)
        counters.finished.add_outcome("/v1/files", b"POST", 502, "path", 1)
        counters.finished.add_outcome("/v1/files", b"POST", 499, "path", 1)
        counters.finished.add_outcome("/", b"GET", 302, "-", 5)
        counters.finished.causes[FailureCause.UPSTREAM_5XX] += 1
        counters.bypass_reasons["path"] += 2
        history.close_slot(number * 10.0)
    slots = history.slots()
    assert len(slots) == MAX_SLOTS
    assert {tuple(slot[1:6]) for slot in slots} == {(5, 3, 3, 1, 0), (5, 0, 3, 1, 0)}
    assert slots[-1][0] == (2 * MAX_SLOTS - 2) * 10.0
    assert history.latest_slot() == slots[-1:]
    current = history.current(2 * MAX_SLOTS * 10.0)
    hour = current.ranges["1 h"]
    assert current.slot.total() == (0, 0, 0, 0, 0)
    assert hour.total() == (5 * MAX_SLOTS, 3 * MAX_SLOTS // 2, 3 * MAX_SLOTS, MAX_SLOTS, 0)
    assert [route for route, _ in hour.routes()] == ["/v1/models", "/v1/files"]
    assert hour.causes() == {FailureCause.UPSTREAM_5XX: MAX_SLOTS}
    assert hour.bypasses() == {"path": 2 * MAX_SLOTS}
    assert len(current.traffic) == MAX_SLOTS + 1
    assert current.traffic[0] == Traffic(5, {FailureCause.UPSTREAM_5XX: 1})
    assert current.traffic[-1] == Traffic()


def test_requests_that_the_rate_limit_refuses_are_no_errors() -> None:
    counters = Counters()
    history = CounterHistory(counters, 0.0)
    counters.finished.add_outcome("/v1/models", b"GET", 429, "-", 2)
    counters.finished.causes[FailureCause.RATE_LIMITED] += 2
    counters.finished.add_outcome("/v1/models", b"GET", 429, "MISS", 1)
    counters.finished.causes[FailureCause.UPSTREAM_429] += 1
    current = history.current(1.0).slot
    assert current.total() == RouteCounts(requests=3, hits=0, lookups=1, errors=1, limited=2)
    assert current.routes() == [("/v1/models", current.total())]


@pytest.mark.parametrize(("slots", "expected"), [(3, (3, 3, 3)), (50, (31, 50, 50))])
def test_ranges_end_now_and_include_the_open_slot(
    slots: int, expected: tuple[int, int, int]
) -> None:
    counters = Counters()
    history = CounterHistory(counters, 0.0)
    for number in range(1, slots):
        counters.finished.add_outcome("/v1/models", b"GET", 200, "HIT", 1)
        history.close_slot(number * 10.0)
    counters.finished.add_outcome("/v1/models", b"GET", 200, "HIT", 1)
    ranges = history.current(slots * 10.0).ranges
    assert list(ranges) == list(RANGES)
    assert tuple(each.total().requests for each in ranges.values()) == expected


def test_latency_is_split_into_upstream_overhead_and_hits() -> None:
    counters = Counters()
    history = CounterHistory(counters, 0.0)
    counters.durations.upstream.add(1.0)
    counters.durations.overhead.add(0.002)
    counters.durations.request[CacheOutcome.HIT].add(0.0002)
    interval = history.current(1.0).ranges["5 min"]
    upstream, overhead, hits = (
        interval.percentiles(name)[1] or 0.0 for name in ("upstream", "overhead", "hits")
    )
    assert hits < 1 < overhead < 10 < 800 < upstream < 1700
    assert interval.percentiles()[1] == hits


def test_new_history_has_no_closed_slot() -> None:
    history = CounterHistory(Counters(), 0.0)
    assert history.latest_slot() == history.slots() == []


def test_intervals_match_dashboard_scripts() -> None:
    """``stream.js`` expects an event every second, ``history.js`` one hour of slots."""
    assert (STATE_SECONDS, SLOT_SECONDS * MAX_SLOTS) == (1.0, 3600)
