"""The retry rules, the backoff and the retry budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.upstream.retries import (
    IDEMPOTENT_METHODS,
    INITIAL_BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
    MAX_SAVED_RETRIES,
    RetryBudget,
    RetryCause,
    backoff_seconds,
    may_retry,
    parse_retry_after,
)


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"GET", b"PUT"])
def test_any_request_is_retried_without_connection(method: bytes) -> None:
    assert may_retry(RetryCause.CONNECT, method, replayable=False)


@pytest.mark.parametrize("cause", [RetryCause.RESET, RetryCause.STATUS])
def test_only_replayable_idempotent_requests_are_retried_otherwise(cause: RetryCause) -> None:
    for method in (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"):
        assert method in IDEMPOTENT_METHODS
        assert may_retry(cause, method, replayable=True)
        assert not may_retry(cause, method, replayable=False)
    for method in (b"POST", b"PATCH"):
        assert not may_retry(cause, method, replayable=True)


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 100))
def test_backoff_grows_is_bounded_and_respects_retry_after(
    attempts: int, chance: float, after: float | None
) -> None:
    wait = backoff_seconds(attempts, chance, after)
    jitter = wait - (after or 0.0)
    assert (
        -1e-9 <= jitter <= min(INITIAL_BACKOFF_SECONDS * 2 ** (attempts - 1), MAX_BACKOFF_SECONDS)
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"7", 7.0), (b" 7 ", 7.0), (b"-1", None), (b"1.5", None), (b"9" * 11, None), (None, None),
     (b"Wed, 25 Nov 2026 11:12:30 GMT", None), (b"", None), (b"\xb2", None)],
)  # fmt: skip
def test_retry_after_is_parsed_in_seconds(value: bytes | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 30)), max_size=20))
def test_retry_budget_is_a_tenth_of_requests(
    steps: list[tuple[int, int]],
) -> None:
    budget = RetryBudget()
    requests = granted = 0
    for more, attempts in steps:
        requests += more
        granted += sum(budget.try_spend(requests) for _ in range(attempts))
        assert granted <= MAX_SAVED_RETRIES + 0.1 * requests + 1e-6
    assert RetryBudget().try_spend(0)
