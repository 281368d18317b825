"""The counters of the last hour, in slots of ten seconds."""

from __future__ import annotations

from goproxyai.admin.events import STATE_SECONDS
from goproxyai.admin.history import MAX_SLOTS, SLOT_SECONDS, CounterHistory
from goproxyai.telemetry.counters import Counters


def test_history_covers_last_hour() -> None:
    counters = Counters()
    history = CounterHistory(counters, 0.0)
    for number in range(1, 2 * MAX_SLOTS):
        counters.finished.add_outcome("/v1/models", b"GET", 200, "HIT" if number % 2 else "MISS", 3)
        counters.finished.add_outcome("/health", b"GET", 200, "-", 9)
        counters.finished.add_outcome("/v1/files", b"POST", 502, "path", 1)
        counters.finished.add_outcome("/v1/files", b"POST", 499, "path", 1)
        history.close_slot(number * 10.0)
    slots = history.slots()
    assert len(slots) == MAX_SLOTS
    assert {tuple(slot[1:5]) for slot in slots} == {(5, 3, 3, 1), (5, 0, 3, 1)}
    assert slots[-1][0] == (2 * MAX_SLOTS - 2) * 10.0
    assert history.latest_slot() == slots[-1:]
    open_slot, hour = history.current(2 * MAX_SLOTS * 10.0)
    assert open_slot.total() == (0, 0, 0, 0)
    assert hour.total() == (5 * MAX_SLOTS, 3 * MAX_SLOTS // 2, 3 * MAX_SLOTS, MAX_SLOTS)
    assert [route for route, _ in hour.routes()] == ["/v1/models", "/v1/files"]


def test_new_history_has_no_closed_slot() -> None:
    history = CounterHistory(Counters(), 0.0)
    assert history.latest_slot() == history.slots() == []


def test_intervals_match_dashboard_scripts() -> None:
    """``stream.js`` expects an event every second, ``history.js`` one hour of slots."""
    assert (STATE_SECONDS, SLOT_SECONDS * MAX_SLOTS) == (1.0, 3600)
