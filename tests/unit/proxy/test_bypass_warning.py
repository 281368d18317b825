"""The warning about a header that makes most requests bypass the cache."""

from __future__ import annotations

import pytest
from twisted.logger import LogEvent, globalLogPublisher

from goproxyai.proxy.bypass_warning import MAX_NAMES, WINDOW_SECONDS, BypassWarning
from goproxyai.telemetry.counters import Counters
from tests.support.harness import lines


class Traffic:
    """Requests in windows of ten minutes, and the warnings about them."""

    def __init__(self, events: list[LogEvent]) -> None:
        self.now = 0.0
        self.counters = Counters()
        self.warning = BypassWarning(self.counters, self.now)
        self._events = events

    def bypass(self, name: bytes, times: int = 1) -> None:
        for _ in range(times):
            self.warning.count(name)

    def warnings(self, seconds: float = WINDOW_SECONDS) -> list[str]:
        """Return the warnings of the next *seconds*."""
        self.now += seconds
        self.warning.tick(self.now)
        found = lines(self._events)
        self._events.clear()
        return found


@pytest.fixture
def traffic():
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield Traffic(events)
    globalLogPublisher.removeObserver(events.append)


def test_header_of_over_half_of_the_requests_is_named_after_ten_minutes(traffic: Traffic) -> None:
    traffic.counters.hits = 20
    traffic.counters.misses = 19
    traffic.counters.coalesced = 10
    traffic.bypass(b"x-team", 51)
    assert traffic.warnings(WINDOW_SECONDS - 1) == []
    (warning,) = traffic.warnings(1)
    assert "request header x-team" in warning
    assert "51 of the 100 cacheable requests" in warning
    assert "CACHE_IGNORE_HEADERS" in warning
    assert traffic.warnings() == []


def test_warning_is_repeated_for_the_next_ten_minutes(traffic: Traffic) -> None:
    for requests, expected in ((100, 1), (99, 0), (1000, 1)):
        traffic.bypass(b"x-team", requests)
        assert len(traffic.warnings()) == expected


def test_half_of_the_requests_cause_no_warning(traffic: Traffic) -> None:
    traffic.counters.hits = 200
    traffic.bypass(b"x-team", 200)
    assert traffic.warnings() == []


def test_lookups_before_the_ten_minutes_do_not_count(traffic: Traffic) -> None:
    traffic.counters.hits = 10_000
    assert traffic.warnings() == []
    traffic.bypass(b"x-team", 100)
    assert len(traffic.warnings()) == 1


def test_two_headers_of_half_each_cause_no_warning(traffic: Traffic) -> None:
    traffic.bypass(b"x-a", 200)
    traffic.bypass(b"x-b", 200)
    assert traffic.warnings() == []


def test_many_other_names_do_not_hide_a_header(traffic: Traffic) -> None:
    for number in range(1000):
        traffic.bypass(b"x-%d" % number)
        traffic.bypass(b"x-team", 2)
    (warning,) = traffic.warnings()
    assert "x-team" in warning


def test_names_are_bounded(traffic: Traffic) -> None:
    for number in range(10 * MAX_NAMES):
        traffic.bypass(b"x-%d" % number)
        assert len(traffic.warning._names) <= MAX_NAMES
    assert traffic.warnings() == []


def test_standstill_moves_the_end_of_the_ten_minutes(traffic: Traffic) -> None:
    traffic.bypass(b"x-team", 100)
    traffic.warning.postpone(60.0, 60.0)
    assert traffic.warnings(WINDOW_SECONDS + 59) == []
    assert len(traffic.warnings(1)) == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"x" * 5000, "x" * 64 + " "),
        (b"x-\x1b[31m\xff", "x-?[31m?"),
        (b"sk-abcdefghijkl", "sk-***"),
        (b"{name}", "{name}"),
    ],
)
def test_name_is_short_printable_and_no_credential(
    traffic: Traffic, name: bytes, shown: str
) -> None:
    traffic.bypass(name, 100)
    (warning,) = traffic.warnings()
    assert f"header {shown}" in warning
    assert warning.isprintable()
    assert len(warning) < 300


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        (b"cookie", "CACHE_IGNORE_COOKIES"),
        (b"x-stainless-poll-helper", "when it polls"),
        (b"x-team", "CACHE_IGNORE_HEADERS"),
        (b"baggage", "1024 bytes together"),
    ],
)
def test_advice_suits_the_header(traffic: Traffic, name: bytes, advice: str) -> None:
    traffic.bypass(name, 100)
    (warning,) = traffic.warnings()
    assert advice in warning
