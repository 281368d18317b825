"""A change of the rate limit while buckets exist."""

from __future__ import annotations

import pytest

from goproxyai.limits.token_buckets import TokenBuckets


def take_all(buckets: TokenBuckets, client: str = "a") -> int:
    """Take tokens until there are none; return the number taken."""
    count = 0
    while buckets.take(client) == 0:
        count += 1
    return count


def test_lower_limit_removes_surplus_tokens() -> None:
    buckets = TokenBuckets(60)
    buckets.take("a")
    buckets.set_rate(10)
    assert take_all(buckets) == 10


def test_higher_limit_adds_no_tokens_at_once() -> None:
    buckets = TokenBuckets(10)
    assert take_all(buckets) == 10
    buckets.refill(1.0)
    buckets.set_rate(600)
    assert take_all(buckets) == 0
    buckets.refill(1.0)
    assert take_all(buckets) == 10


def test_full_bucket_holds_at_most_as_much_as_a_new_one() -> None:
    buckets = TokenBuckets(10)
    buckets.take("old")
    for _ in range(600):
        buckets.refill(1.0)
    buckets.set_rate(30)
    assert 10 <= take_all(buckets, "old") <= take_all(buckets, "new") == 30


def test_wait_under_the_new_limit_ends_with_a_token() -> None:
    buckets = TokenBuckets(600)
    take_all(buckets)
    buckets.set_rate(6)
    assert buckets.take("a") == pytest.approx(10.0)
    for _ in range(99):
        buckets.refill(0.1)
    assert buckets.take("a") > 0
    buckets.refill(0.1)
    assert buckets.take("a") == 0


def test_limit_of_zero_is_rejected() -> None:
    with pytest.raises(ValueError, match="per_minute"):
        TokenBuckets(1).set_rate(0)
