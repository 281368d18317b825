"""The circuit breaker, by its tables and against a model that keeps each outcome."""

from __future__ import annotations

from collections import Counter
from math import inf

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
    MAX_PROBE_FAILURES,
    MIN_REQUESTS,
    OTHERS_FIRST_SECONDS,
    PROBE_QUIET_SECONDS,
    QUIET_SECONDS,
    STREAMED_INTERVAL_SECONDS,
    TRIAL_TIMEOUT_SECONDS,
    CircuitBreaker,
    CircuitState,
)
from goproxyai.upstream.outcome_window import WINDOW_SECONDS, WINDOW_SLOTS

SLOT = WINDOW_SECONDS / WINDOW_SLOTS
ONE, OTHER = "192.0.2.1", "192.0.2.2"


def fail(breaker: CircuitBreaker, now: float, times: int, client: str = ONE) -> None:
    for _ in range(times):
        breaker.record_failure(now, client)


def fail_many_clients(breaker: CircuitBreaker, now: float, clients: int) -> None:
    for number in range(clients):
        breaker.record_failure(now, f"client {number}")


def succeed(breaker: CircuitBreaker, now: float, times: int = 1) -> None:
    breaker.successes += times
    breaker.advance(now)


def open_breaker(share: float = 0.5, now: float = 100.0) -> CircuitBreaker:
    breaker = CircuitBreaker(share)
    fail(breaker, now, MIN_REQUESTS)
    assert breaker.state(now) is CircuitState.OPEN
    return breaker


def admit(breaker: CircuitBreaker, now: float, client: str = OTHER, complete: bool = True) -> bool:
    return breaker.admit(now, client, complete)


# The second table: what opens a closed circuit.


def test_few_failures_keep_circuit_closed() -> None:
    breaker = CircuitBreaker(0.5)
    fail(breaker, 5.0, MIN_REQUESTS - 1)
    assert admit(breaker, 5.0)
    assert breaker.times_opened == 0


def test_failures_of_one_client_do_not_open_circuit_while_requests_are_answered() -> None:
    breaker = CircuitBreaker(0.5)
    for second in range(200):
        if second % QUIET_SECONDS == 0:
            succeed(breaker, float(second))
        fail(breaker, float(second), 50)
    assert breaker.times_opened == 0


def test_failures_of_one_client_open_circuit_that_answers_nothing() -> None:
    breaker = CircuitBreaker(0.5)
    succeed(breaker, 5.0, 1000)
    fail(breaker, 5.0 + QUIET_SECONDS - 1, MIN_REQUESTS - 1)
    assert breaker.closed
    fail(breaker, 5.0 + QUIET_SECONDS, 1)
    assert not breaker.closed


def test_failures_of_several_clients_open_circuit_at_the_share() -> None:
    for successes, state in (
        (MIN_REQUESTS, CircuitState.OPEN),
        (MIN_REQUESTS + 1, CircuitState.CLOSED),
    ):
        breaker = CircuitBreaker(0.5)
        succeed(breaker, 5.0, successes)
        fail_many_clients(breaker, 5.0, MIN_REQUESTS)
        assert breaker.closed, "the failure of one client is left out"
        fail(breaker, 5.0, 1000)
        assert breaker.state(5.0) is state


def test_share_of_zero_never_opens() -> None:
    breaker = CircuitBreaker(0)
    fail(breaker, 5.0, 1000)
    fail_many_clients(breaker, 5.0, 1000)
    for _ in range(10):
        breaker.record_probe(5.0, False)
    assert breaker.closed


def test_outcomes_outside_the_window_do_not_count() -> None:
    breaker = CircuitBreaker(0.5)
    fail(breaker, 5.0, MIN_REQUESTS - 1)
    fail(breaker, 5.0 + WINDOW_SECONDS, 1)
    assert breaker.closed
    breaker = CircuitBreaker(0.5)
    succeed(breaker, 5.0, 1000)
    fail_many_clients(breaker, 5.0 + WINDOW_SECONDS, MIN_REQUESTS + 1)
    assert not breaker.closed, "old successes do not count"


def test_failed_probes_open_circuit_that_answers_nothing() -> None:
    breaker = CircuitBreaker(0.5)
    for _ in range(2):
        for _ in range(MAX_PROBE_FAILURES - 1):
            breaker.record_probe(5.0, False)
        breaker.record_probe(5.0, True)
    assert breaker.closed
    for _ in range(MAX_PROBE_FAILURES):
        breaker.record_probe(5.0, False)
    assert not breaker.closed


def test_failed_probes_do_not_open_circuit_while_requests_are_answered() -> None:
    breaker = CircuitBreaker(0.5)
    succeed(breaker, 5.0)
    for _ in range(100):
        breaker.record_probe(5.0 + PROBE_QUIET_SECONDS - 0.1, False)
    assert breaker.closed
    fail_many_clients(breaker, 5.0, MIN_REQUESTS)
    assert breaker.closed, "probes are no outcomes of requests"
    breaker.record_probe(5.0 + PROBE_QUIET_SECONDS, False)
    assert not breaker.closed


# The first table: half-open.


def test_open_admits_none_and_half_open_admits_one() -> None:
    breaker = open_breaker()
    assert not admit(breaker, 100.0 + INITIAL_OPEN_SECONDS - 0.1)
    assert breaker.seconds_until_retry(101.0) == INITIAL_OPEN_SECONDS - 1
    assert breaker.state(100.0 + INITIAL_OPEN_SECONDS) is CircuitState.HALF_OPEN
    assert breaker.seconds_until_retry(100.0 + INITIAL_OPEN_SECONDS) == 1.0
    now = 100.0 + INITIAL_OPEN_SECONDS
    assert [admit(breaker, now) for _ in range(3)] == [True, False, False]
    breaker.release_trial()
    assert [admit(breaker, now) for _ in range(2)] == [True, False]


def test_streamed_request_is_not_the_trial() -> None:
    breaker = open_breaker()
    assert not admit(breaker, 104.0, complete=False)
    assert [admit(breaker, 105.0, complete=False) for _ in range(2)] == [True, False]
    assert admit(breaker, 105.0), "the trial is free"
    assert [
        admit(breaker, 105.0 + STREAMED_INTERVAL_SECONDS, complete=False) for _ in range(2)
    ] == [True, False]
    breaker.record_failure(106.0, ONE)
    assert breaker.state(106.0) is CircuitState.HALF_OPEN
    breaker.record_success()
    assert breaker.closed


def test_trial_without_outcome_is_replaced() -> None:
    breaker = open_breaker()
    assert admit(breaker, 105.0)
    assert not admit(breaker, 105.0 + TRIAL_TIMEOUT_SECONDS - 0.1)
    assert [admit(breaker, 105.0 + TRIAL_TIMEOUT_SECONDS) for _ in range(2)] == [True, False]


def test_success_closes_and_failed_trial_doubles_open_time() -> None:
    breaker = open_breaker()
    now, waits = 100.0, []
    for number in range(6):
        seconds_until_retry = breaker.seconds_until_retry(now)
        waits.append(seconds_until_retry)
        now += seconds_until_retry
        assert admit(breaker, now, f"client {number}")
        breaker.record_failure(now, f"client {number}", trial=True)
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
    assert admit(breaker, now)
    breaker.record_success()
    assert breaker.state(now) is CircuitState.CLOSED
    assert breaker.times_opened == 7
    fail_many_clients(breaker, now, MIN_REQUESTS - 1)
    assert breaker.closed, "the counts start at zero"
    fail_many_clients(breaker, now, MIN_REQUESTS)
    assert breaker.seconds_until_retry(now) == INITIAL_OPEN_SECONDS


def test_client_of_failed_trial_waits_for_the_others() -> None:
    breaker = open_breaker()
    assert admit(breaker, 105.0, ONE)
    breaker.record_failure(105.0, ONE, trial=True)
    assert breaker.state(115.0) is CircuitState.HALF_OPEN
    assert not admit(breaker, 115.0, ONE)
    assert not admit(breaker, 115.0 + OTHERS_FIRST_SECONDS - 0.1, ONE)
    assert admit(breaker, 115.0 + OTHERS_FIRST_SECONDS, ONE), "there may be no other client"
    breaker.record_failure(117.0, ONE, trial=True)
    assert admit(breaker, 137.0, OTHER)


def test_failures_in_flight_do_not_extend_open_time() -> None:
    breaker = open_breaker()
    fail(breaker, 100.0 + INITIAL_OPEN_SECONDS, 50)
    assert breaker.state(100.0 + INITIAL_OPEN_SECONDS) is CircuitState.HALF_OPEN


@pytest.mark.parametrize("late", [False, True])
def test_success_in_flight_closes_circuit(late: bool) -> None:
    breaker = open_breaker()
    breaker.record_success()
    assert admit(breaker, 100.0 + late)


def test_probe_is_the_trial_of_a_half_open_circuit() -> None:
    breaker = open_breaker()
    breaker.record_probe(104.0, False)
    assert breaker.state(105.0) is CircuitState.HALF_OPEN, "the circuit was still open"
    breaker.record_probe(105.0, False)
    assert breaker.seconds_until_retry(105.0) == 2 * INITIAL_OPEN_SECONDS
    assert admit(breaker, 115.0)
    breaker.record_probe(115.0, False)
    assert breaker.state(115.0) is CircuitState.HALF_OPEN, "a request is the trial"
    breaker.record_probe(116.0, True)
    assert breaker.closed
    fail(breaker, 117.0, 1000)
    assert breaker.closed, "the upstream answered a moment ago"


class BreakerAgainstModel(RuleBasedStateMachine):
    """The model keeps each outcome with the number of its slot and its client.

    A success belongs to the slot of the next ``advance``, which the daemon calls once a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(0.5)
        self.now = 1000.0
        self.new_successes = 0
        self.answered_at = -inf
        self.outcomes: list[tuple[int, str | None]] = []
        self.probe_failures = 0
        self.until: float | None = None
        self.open_seconds = INITIAL_OPEN_SECONDS
        self.trial_until = self.streamed_until = 0.0
        self.failed_client = ""

    @property
    def slot(self) -> int:
        return int(self.now * WINDOW_SLOTS / WINDOW_SECONDS)

    def is_quiet(self, seconds: float) -> bool:
        return self.now - self.answered_at >= seconds

    def advance(self) -> None:
        if self.new_successes:
            self.answered_at = self.now
        self.outcomes += [(self.slot, None)] * self.new_successes
        self.new_successes = 0

    def close(self) -> None:
        self.until, self.open_seconds = None, INITIAL_OPEN_SECONDS
        self.trial_until = self.streamed_until = 0.0
        self.failed_client = ""
        self.outcomes = []

    def open_again(self) -> None:
        self.open_seconds = min(2 * self.open_seconds, MAX_OPEN_SECONDS)
        self.until, self.trial_until = self.now + self.open_seconds, 0.0

    @rule(seconds=st.sampled_from([0.0, 0.3, SLOT, 3.0, WINDOW_SECONDS, PROBE_QUIET_SECONDS, 70.0]))
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
    @rule(times=st.integers(1, 30), client=st.sampled_from([ONE, OTHER, "192.0.2.3"]))
    def fail(self, times: int, client: str) -> None:
        for _ in range(times):
            self.breaker.record_failure(self.now, client)
            if self.until is not None:
                continue
            self.advance()
            self.outcomes.append((self.slot, client))
            seen = [client for slot, client in self.outcomes if slot > self.slot - WINDOW_SLOTS]
            failures = Counter(client for client in seen if client is not None)
            count = failures.total() - (
                0 if self.is_quiet(QUIET_SECONDS) else max(failures.values())
            )
            total = count + seen.count(None)
            if total >= MIN_REQUESTS and count >= 0.5 * total:
                self.until = self.now + self.open_seconds

    @rule(succeeded=st.booleans())
    def probe(self, succeeded: bool) -> None:
        self.breaker.record_probe(self.now, succeeded)
        if succeeded:
            self.probe_failures = 0
            if self.until is not None:
                self.close()
                self.answered_at = self.now
            return
        self.probe_failures += 1
        if self.until is None:
            self.advance()
            if self.probe_failures >= MAX_PROBE_FAILURES and self.is_quiet(PROBE_QUIET_SECONDS):
                self.until = self.now + self.open_seconds
        elif self.now >= max(self.until, self.trial_until):
            self.open_again()

    @precondition(lambda self: self.until is not None)
    @rule(
        outcome=st.sampled_from(["success", "failure", "cancelled", "in flight"]),
        client=st.sampled_from([ONE, OTHER]),
        complete=st.booleans(),
    )
    def send_while_open(self, outcome: str, client: str, complete: bool) -> None:
        assert self.until is not None
        first = self.until + (OTHERS_FIRST_SECONDS if client == self.failed_client else 0.0)
        if complete:
            expected = self.now >= max(first, self.trial_until)
        else:
            expected = self.now >= max(self.until, self.streamed_until)
        assert self.breaker.admit(self.now, client, complete) is expected
        if not expected:
            return
        if complete:
            self.trial_until = self.now + TRIAL_TIMEOUT_SECONDS
        else:
            self.streamed_until = self.now + STREAMED_INTERVAL_SECONDS
        if outcome == "success":
            self.breaker.record_success()
            self.close()
            self.new_successes += 1
        elif outcome == "failure":
            self.breaker.record_failure(self.now, client, complete)
            if complete:
                self.failed_client = client
                self.open_again()
        elif outcome == "cancelled" and complete:
            self.breaker.release_trial()
            self.trial_until = 0.0

    @invariant()
    def state_is_that_of_the_model(self) -> None:
        if self.until is None:
            assert self.breaker.state(self.now) is CircuitState.CLOSED
        else:
            half = self.now >= self.until
            assert self.breaker.state(self.now) is (
                CircuitState.HALF_OPEN if half else CircuitState.OPEN
            )


@pytest.mark.unmeasured
def test_breaker_behaves_as_the_model() -> None:
    run_state_machine_as_test(BreakerAgainstModel)


class OneFailingClient(RuleBasedStateMachine):
    """One client whose requests fail, slow probes, and other clients whose requests are answered.

    The circuit stays closed, whatever the order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(0.01)
        self.now = 1000.0
        succeed(self.breaker, self.now)

    @rule(seconds=st.floats(0.0, QUIET_SECONDS - 0.1))
    def answer_others(self, seconds: float) -> None:
        self.now += seconds
        self.breaker.record_success()
        self.breaker.advance(self.now)

    @rule(times=st.integers(1, 100))
    def fail_one(self, times: int) -> None:
        fail(self.breaker, self.now, times)

    @rule(times=st.integers(1, 10))
    def fail_probes(self, times: int) -> None:
        for _ in range(times):
            self.breaker.record_probe(self.now, False)

    @invariant()
    def circuit_is_closed(self) -> None:
        assert self.breaker.closed


@pytest.mark.unmeasured
def test_one_failing_client_and_slow_probes_keep_circuit_closed() -> None:
    run_state_machine_as_test(OneFailingClient)
