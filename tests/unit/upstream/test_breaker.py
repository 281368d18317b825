"""The circuit breaker, by its table and against a model that keeps each outcome."""

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
    INITIAL_OPEN_SECONDS,
    MAX_OPEN_SECONDS,
    MIN_REQUESTS,
    PROBE_TIMEOUT_SECONDS,
    WINDOW_SECONDS,
    WINDOW_SLOTS,
    CircuitBreaker,
    CircuitState,
)

SLOT = WINDOW_SECONDS / WINDOW_SLOTS


def open_breaker(share: float = 0.5, now: float = 100.0) -> CircuitBreaker:
    breaker = CircuitBreaker(share)
    for _ in range(MIN_REQUESTS):
        breaker.record_failure(now)
    assert breaker.state(now) is CircuitState.OPEN
    return breaker


def test_few_failures_keep_circuit_closed() -> None:
    breaker = CircuitBreaker(0.5)
    for _ in range(MIN_REQUESTS - 1):
        breaker.record_failure(5.0)
    assert breaker.admit(5.0)
    assert breaker.times_opened == 0


def test_circuit_opens_at_the_share() -> None:
    for successes, state in (
        (MIN_REQUESTS, CircuitState.OPEN),
        (MIN_REQUESTS + 1, CircuitState.CLOSED),
    ):
        breaker = CircuitBreaker(0.5)
        for _ in range(successes):
            breaker.record_success()
        for _ in range(MIN_REQUESTS):
            breaker.record_failure(5.0)
        assert breaker.state(5.0) is state


def test_share_of_zero_never_opens() -> None:
    breaker = CircuitBreaker(0)
    for _ in range(1000):
        breaker.record_failure(5.0)
    assert breaker.closed


def test_outcomes_outside_the_window_do_not_count() -> None:
    breaker = CircuitBreaker(0.5)
    for _ in range(MIN_REQUESTS - 1):
        breaker.record_failure(5.0)
    breaker.record_failure(5.0 + WINDOW_SECONDS)
    assert breaker.closed
    breaker = CircuitBreaker(0.5)
    for _ in range(1000):
        breaker.record_success()
    breaker.advance(5.0)
    for _ in range(MIN_REQUESTS):
        breaker.record_failure(5.0 + WINDOW_SECONDS)
    assert not breaker.closed, "old successes do not count"


def test_open_admits_none_and_half_open_admits_one() -> None:
    breaker = open_breaker()
    assert not breaker.admit(100.0 + INITIAL_OPEN_SECONDS - 0.1)
    assert breaker.seconds_until_retry(101.0) == INITIAL_OPEN_SECONDS - 1
    assert breaker.state(100.0 + INITIAL_OPEN_SECONDS) is CircuitState.HALF_OPEN
    assert breaker.seconds_until_retry(100.0 + INITIAL_OPEN_SECONDS) == 1.0
    assert [breaker.admit(100.0 + INITIAL_OPEN_SECONDS) for _ in range(3)] == [True, False, False]
    breaker.release_probe()
    assert [breaker.admit(100.0 + INITIAL_OPEN_SECONDS) for _ in range(2)] == [True, False]


def test_probe_without_outcome_is_replaced() -> None:
    breaker = open_breaker()
    assert breaker.admit(105.0)
    assert not breaker.admit(105.0 + PROBE_TIMEOUT_SECONDS - 0.1)
    assert [breaker.admit(105.0 + PROBE_TIMEOUT_SECONDS) for _ in range(2)] == [True, False]


def test_success_closes_and_failed_probe_doubles_open_time() -> None:
    breaker = open_breaker()
    now, waits = 100.0, []
    for _ in range(6):
        seconds_until_retry = breaker.seconds_until_retry(now)
        waits.append(seconds_until_retry)
        now += seconds_until_retry
        assert breaker.admit(now)
        breaker.record_failure(now, probe=True)
        assert breaker.state(now) is CircuitState.OPEN
    assert waits == [
        INITIAL_OPEN_SECONDS,
        2 * INITIAL_OPEN_SECONDS,
        4 * INITIAL_OPEN_SECONDS,
        8 * INITIAL_OPEN_SECONDS,
        MAX_OPEN_SECONDS,
        MAX_OPEN_SECONDS,
    ]
    now += breaker.seconds_until_retry(now)
    assert breaker.admit(now)
    breaker.record_success()
    assert breaker.state(now) is CircuitState.CLOSED
    assert breaker.times_opened == 7
    for _ in range(MIN_REQUESTS - 2):
        breaker.record_failure(now)
    assert breaker.closed, "the counts start at zero"
    breaker.record_failure(now)
    assert breaker.seconds_until_retry(now) == INITIAL_OPEN_SECONDS


def test_failures_in_flight_do_not_extend_open_time() -> None:
    breaker = open_breaker()
    for _ in range(50):
        breaker.record_failure(100.0 + INITIAL_OPEN_SECONDS)
    assert breaker.state(100.0 + INITIAL_OPEN_SECONDS) is CircuitState.HALF_OPEN


@pytest.mark.parametrize("late", [False, True])
def test_success_in_flight_closes_circuit(late: bool) -> None:
    breaker = open_breaker()
    breaker.record_success()
    assert breaker.admit(100.0 + late)


class BreakerAgainstModel(RuleBasedStateMachine):
    """The model keeps each outcome with the number of its slot.

    A success belongs to the slot of the next ``advance``, which the daemon calls once a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(0.5)
        self.now = 1000.0
        self.new_successes = 0
        self.outcomes: list[tuple[int, bool]] = []
        self.until: float | None = None
        self.open_seconds = INITIAL_OPEN_SECONDS
        self.probing = False
        self.probed_at = 0.0

    @property
    def slot(self) -> int:
        return int(self.now * WINDOW_SLOTS / WINDOW_SECONDS)

    def advance(self) -> None:
        self.outcomes += [(self.slot, True)] * self.new_successes
        self.new_successes = 0

    @rule(seconds=st.sampled_from([0.0, 0.3, SLOT, 3.0, WINDOW_SECONDS, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.breaker.advance(self.now)
        self.advance()

    @precondition(lambda self: self.until is None)
    @rule(times=st.integers(1, 30))
    def succeed(self, times: int) -> None:
        for _ in range(times):
            self.breaker.record_success()
            self.new_successes += 1

    @precondition(lambda self: self.until is None)
    @rule(times=st.integers(1, 30))
    def fail(self, times: int) -> None:
        for _ in range(times):
            self.breaker.record_failure(self.now)
            if self.until is not None:
                continue
            self.advance()
            self.outcomes.append((self.slot, False))
            seen = [ok for slot, ok in self.outcomes if slot > self.slot - WINDOW_SLOTS]
            if len(seen) >= MIN_REQUESTS and seen.count(False) >= 0.5 * len(seen):
                self.until = self.now + self.open_seconds

    @precondition(lambda self: self.until is not None)
    @rule(outcome=st.sampled_from(["success", "failure", "cancelled", "in flight"]))
    def send_while_open(self, outcome: str) -> None:
        assert self.until is not None
        admitted = self.breaker.admit(self.now)
        waiting = self.probing and self.now < self.probed_at + PROBE_TIMEOUT_SECONDS
        assert admitted is (self.now >= self.until and not waiting)
        if not admitted:
            return
        self.probing, self.probed_at = True, self.now
        if outcome == "success":
            self.breaker.record_success()
            self.until, self.open_seconds = None, INITIAL_OPEN_SECONDS
            self.outcomes, self.new_successes = [], self.new_successes + 1
        elif outcome == "failure":
            self.breaker.record_failure(self.now, probe=True)
            self.open_seconds = min(2 * self.open_seconds, MAX_OPEN_SECONDS)
            self.until = self.now + self.open_seconds
        elif outcome == "cancelled":
            self.breaker.release_probe()
        self.probing = outcome == "in flight"

    @invariant()
    def state_is_that_of_the_model(self) -> None:
        if self.until is None:
            assert self.breaker.state(self.now) is CircuitState.CLOSED
        else:
            half = self.now >= self.until
            assert self.breaker.state(self.now) is (
                CircuitState.HALF_OPEN if half else CircuitState.OPEN
            )


def test_breaker_behaves_as_the_model() -> None:
    run_state_machine_as_test(BreakerAgainstModel)
