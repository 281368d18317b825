"""The rate limit of a worker, with a parent that the test plays."""

from __future__ import annotations

import pytest

from goproxyai.state import leased_limiter
from goproxyai.state.leased_limiter import ANSWER_SECONDS, REFUSED_SECONDS, LeasedLimiter
from goproxyai.state.leases import IDLE_SECONDS, UNDECIDED, Grant
from tests.support.turn_clock import TURN_SECONDS, TurnClock


class Fixture:
    """A limiter of 80 requests a minute: a lease is 10 tokens."""

    def __init__(self) -> None:
        self.clock = TurnClock()
        self.asked: list[tuple[str, int]] = []
        self.put_back: list[tuple[str, int]] = []
        self.decisions: list[float] = []
        self.limiter = LeasedLimiter(
            self.clock, 80, lambda *question: self.asked.append(question), self.put_back.extend
        )
        self.limiter.start()

    def request(self, client: str = "a") -> None:
        decision = self.limiter.take(client)
        if decision == UNDECIDED:
            self.limiter.when_decided(client, self.decisions.append)
        else:
            self.decisions.append(decision)


def test_first_request_waits_and_later_ones_use_the_lease() -> None:
    fixture = Fixture()
    fixture.request()
    assert (fixture.asked, fixture.decisions) == ([("a", 10)], [])
    fixture.limiter.granted("a", Grant(10, 0.0))
    for _ in range(9):
        fixture.request()
    assert fixture.decisions == [0.0] * 10
    assert fixture.asked == [("a", 10), ("a", 8)]
    fixture.clock.advance(ANSWER_SECONDS)
    assert fixture.decisions == [0.0] * 10


def test_requests_that_wait_are_decided_in_order() -> None:
    fixture = Fixture()
    for _ in range(3):
        fixture.request()
    assert fixture.asked == [("a", 10)]
    fixture.limiter.granted("a", Grant(1, 0.0))
    assert (fixture.decisions, fixture.asked) == ([0.0], [("a", 10)] * 2)
    fixture.limiter.granted("a", Grant(0, 0.75))
    assert fixture.decisions == [0.0, 0.75, 0.75]
    fixture.request()
    assert fixture.decisions[-1] == 0.75
    assert len(fixture.asked) == 2


def test_request_without_an_answer_is_refused() -> None:
    fixture = Fixture()
    fixture.request()
    fixture.clock.advance(ANSWER_SECONDS)
    assert fixture.decisions == []  # the answer may wait in the socket
    fixture.clock.advance(TURN_SECONDS)
    assert fixture.decisions == [REFUSED_SECONDS]
    fixture.request()
    assert fixture.decisions == pytest.approx([REFUSED_SECONDS] * 2)
    fixture.clock.advance(REFUSED_SECONDS)
    fixture.request()
    assert fixture.asked == [("a", 10)] * 2


def test_answer_that_is_read_after_the_deadline_counts() -> None:
    fixture = Fixture()
    fixture.request()
    fixture.clock.advance(ANSWER_SECONDS)
    fixture.limiter.granted("a", Grant(10, 0.0))
    fixture.clock.advance(TURN_SECONDS)
    assert fixture.decisions == [0.0]


def test_unused_tokens_are_given_back_when_idle_and_at_the_stop() -> None:
    fixture = Fixture()
    fixture.request()
    fixture.limiter.granted("a", Grant(10, 0.0))
    for _ in range(3):
        fixture.clock.advance(IDLE_SECONDS / 2)
    assert fixture.put_back == [("a", 9)]
    fixture.request("b")
    fixture.limiter.stop()
    assert fixture.decisions == [0.0, REFUSED_SECONDS]
    fixture.limiter.stop()
    fixture.limiter.granted("b", Grant(10, 0.0))
    assert fixture.put_back == [("a", 9), ("b", 10)]
    assert fixture.clock.getDelayedCalls() == []


def test_change_of_the_rate_gives_tokens_back() -> None:
    fixture = Fixture()
    fixture.request()
    fixture.limiter.granted("a", Grant(10, 0.0))
    fixture.limiter.set_rate(8)
    assert fixture.put_back == [("a", 8)]
    fixture.limiter.set_rate(0)
    assert fixture.put_back == [("a", 8), ("a", 1)]
    assert len(fixture.limiter.buckets) == 0


def test_number_of_waiting_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leased_limiter, "MAX_WAITING", 2)
    fixture = Fixture()
    for client in "aba":
        fixture.request(client)
    assert fixture.decisions == [REFUSED_SECONDS]


def test_tokens_that_are_leased_here_are_counted_without_a_question() -> None:
    fixture = Fixture()
    assert fixture.limiter.tokens("a") == (0, False)
    assert (fixture.asked, len(fixture.limiter.buckets)) == ([], 0)
    fixture.request()
    fixture.limiter.granted("a", Grant(10, 0.0))
    assert fixture.limiter.tokens("a") == (9, False)
    assert fixture.limiter.tokens("a") == (9, False)
    fixture.clock.advance(ANSWER_SECONDS)
