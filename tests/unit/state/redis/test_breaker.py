"""The circuit breaker of the shared state."""

from __future__ import annotations

from goproxyai.state.redis.breaker import MAX_OPEN_SECONDS, STABLE_SECONDS, StateBreaker
from goproxyai.upstream.breaker import CircuitState


def test_breaker_is_half_open_at_the_start_and_closed_after_a_success() -> None:
    breaker = StateBreaker()
    assert breaker.state is CircuitState.HALF_OPEN
    breaker.succeed(1.0)
    assert breaker.state is CircuitState.CLOSED


def test_first_failure_opens_the_breaker() -> None:
    breaker = StateBreaker()
    breaker.succeed(1.0)
    breaker.fail(2.0)
    assert breaker.state is CircuitState.OPEN
    breaker.attempt()
    assert breaker.state is CircuitState.HALF_OPEN


def test_open_time_doubles_up_to_a_maximum() -> None:
    breaker = StateBreaker()
    assert [breaker.fail(0.0) for _ in range(5)] == [0.25, 0.5, 1.0, MAX_OPEN_SECONDS, 2.0]


def test_open_time_starts_anew_only_after_a_stable_time() -> None:
    breaker = StateBreaker()
    breaker.fail(0.0)
    breaker.succeed(1.0)
    assert breaker.fail(1.0 + STABLE_SECONDS / 2) == 0.5
    breaker.succeed(20.0)
    assert breaker.fail(20.0 + STABLE_SECONDS) == 0.25
