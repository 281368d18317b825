"""The circuit breaker, by its table and against a naive model that keeps every outcome."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from goproxyai.upstream.breaker import (
    FIRST,
    LONGEST,
    MIN_REQUESTS,
    PATIENCE,
    SLOTS,
    WINDOW,
    CircuitBreaker,
    State,
)

SLOT = WINDOW / SLOTS


def opened(share: float = 0.5, now: float = 100.0) -> CircuitBreaker:
    breaker = CircuitBreaker(share)
    for _ in range(MIN_REQUESTS):
        breaker.failed(now)
    assert breaker.state(now) is State.OPEN
    return breaker


def test_few_failures_open_nothing() -> None:
    breaker = CircuitBreaker(0.5)
    for _ in range(MIN_REQUESTS - 1):
        breaker.failed(5.0)
    assert breaker.admit(5.0)
    assert breaker.opened == 0


def test_it_opens_at_the_share_and_not_below() -> None:
    for successes, state in ((MIN_REQUESTS, State.OPEN), (MIN_REQUESTS + 1, State.CLOSED)):
        breaker = CircuitBreaker(0.5)
        for _ in range(successes):
            breaker.succeeded()
        for _ in range(MIN_REQUESTS):
            breaker.failed(5.0)
        assert breaker.state(5.0) is state


def test_a_share_of_nothing_never_opens() -> None:
    breaker = CircuitBreaker(0)
    for _ in range(1000):
        breaker.failed(5.0)
    assert breaker.closed


def test_outcomes_are_forgotten_with_the_window() -> None:
    breaker = CircuitBreaker(0.5)
    for _ in range(MIN_REQUESTS - 1):
        breaker.failed(5.0)
    breaker.failed(5.0 + WINDOW)
    assert breaker.closed
    breaker = CircuitBreaker(0.5)
    for _ in range(1000):
        breaker.succeeded()
    breaker.turn(5.0)
    for _ in range(MIN_REQUESTS):
        breaker.failed(5.0 + WINDOW)
    assert not breaker.closed, "answers of long ago count for nothing"


def test_open_admits_nobody_and_half_open_one() -> None:
    breaker = opened()
    assert not breaker.admit(100.0 + FIRST - 0.1)
    assert breaker.wait(101.0) == FIRST - 1
    assert breaker.state(100.0 + FIRST) is State.HALF_OPEN
    assert breaker.wait(100.0 + FIRST) == 1.0
    assert [breaker.admit(100.0 + FIRST) for _ in range(3)] == [True, False, False]
    breaker.cancelled()
    assert [breaker.admit(100.0 + FIRST) for _ in range(2)] == [True, False]


def test_a_probe_that_is_never_heard_of_is_followed_by_another() -> None:
    breaker = opened()
    assert breaker.admit(105.0)
    assert not breaker.admit(105.0 + PATIENCE - 0.1)
    assert [breaker.admit(105.0 + PATIENCE) for _ in range(2)] == [True, False]


def test_an_answer_closes_it_and_a_failed_probe_keeps_it_open_for_longer() -> None:
    breaker = opened()
    now, waits = 100.0, []
    for _ in range(6):
        wait = breaker.wait(now)
        waits.append(wait)
        now += wait
        assert breaker.admit(now)
        breaker.failed(now, probe=True)
        assert breaker.state(now) is State.OPEN
    assert waits == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, LONGEST, LONGEST]
    now += breaker.wait(now)
    assert breaker.admit(now)
    breaker.succeeded()
    assert breaker.state(now) is State.CLOSED
    assert breaker.opened == 7
    for _ in range(MIN_REQUESTS - 2):
        breaker.failed(now)
    assert breaker.closed, "it begins anew"
    breaker.failed(now)
    assert breaker.wait(now) == FIRST


def test_what_was_under_way_when_it_opened_changes_nothing() -> None:
    breaker = opened()
    for _ in range(50):
        breaker.failed(100.0 + FIRST)
    assert breaker.state(100.0 + FIRST) is State.HALF_OPEN


@pytest.mark.parametrize("late", [False, True])
def test_an_answer_that_was_under_way_closes_it(late: bool) -> None:
    breaker = opened()
    breaker.succeeded()
    assert breaker.admit(100.0 + late)


class BreakerAgainstModel(RuleBasedStateMachine):
    """The model keeps each outcome with the number of its slot."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(0.5)
        self.now = 1000.0
        self.outcomes: list[tuple[int, bool]] = []
        self.until: float | None = None
        self.opens_for = FIRST
        self.probing = False
        self.probed = 0.0

    @property
    def slot(self) -> int:
        return int(self.now * SLOTS / WINDOW)

    @rule(seconds=st.sampled_from([0.0, 0.3, SLOT, 3.0, WINDOW, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.breaker.turn(self.now)

    @precondition(lambda self: self.until is None)
    @rule(times=st.integers(1, 30))
    def answers_come(self, times: int) -> None:
        for _ in range(times):
            self.breaker.succeeded()
            self.outcomes.append((self.slot, True))

    @precondition(lambda self: self.until is None)
    @rule(times=st.integers(1, 30))
    def none_come(self, times: int) -> None:
        for _ in range(times):
            self.breaker.failed(self.now)
            if self.until is not None:
                continue
            self.outcomes.append((self.slot, False))
            seen = [ok for slot, ok in self.outcomes if slot > self.slot - SLOTS]
            if len(seen) >= MIN_REQUESTS and seen.count(False) >= 0.5 * len(seen):
                self.until = self.now + self.opens_for

    @precondition(lambda self: self.until is not None)
    @rule(ends=st.sampled_from(["answer", "failure", "taken back", "still under way"]))
    def somebody_asks(self, ends: str) -> None:
        assert self.until is not None
        admitted = self.breaker.admit(self.now)
        waiting = self.probing and self.now < self.probed + PATIENCE
        assert admitted is (self.now >= self.until and not waiting)
        if not admitted:
            return
        self.probing, self.probed = True, self.now
        if ends == "answer":
            self.breaker.succeeded()
            self.until, self.opens_for = None, FIRST
            self.outcomes = [(self.slot, True)]
        elif ends == "failure":
            self.breaker.failed(self.now, probe=True)
            self.opens_for = min(2 * self.opens_for, LONGEST)
            self.until = self.now + self.opens_for
        elif ends == "taken back":
            self.breaker.cancelled()
        self.probing = ends == "still under way"

    @invariant()
    def it_is_as_open_as_the_model(self) -> None:
        if self.until is None:
            assert self.breaker.state(self.now) is State.CLOSED
        else:
            half = self.now >= self.until
            assert self.breaker.state(self.now) is (State.HALF_OPEN if half else State.OPEN)


def test_the_breaker_does_what_the_model_does() -> None:
    run_state_machine_as_test(BreakerAgainstModel)
