"""Token buckets against a model that refills each bucket at each tick."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from goproxyai.limits.token_buckets import TokenBuckets, rate_limit_headers
from tests.support.examples import fewer_examples

TICK_SECONDS = Fraction(1, 10)
CLIENTS = st.sampled_from("abcdef")


class ModelBuckets:
    """An exact number of tokens for each client; time passes in whole milliseconds."""

    def __init__(self, per_minute: int) -> None:
        self.depth = Fraction(per_minute)
        self.rate = Fraction(per_minute, 60)
        self.tokens: dict[str, Fraction] = {}

    def refill(self, milliseconds: int) -> None:
        gain = Fraction(milliseconds, 1000) * self.rate
        for client, tokens in self.tokens.items():
            self.tokens[client] = min(self.depth, tokens + gain)

    def take(self, client: str) -> Fraction:
        tokens = self.tokens.setdefault(client, self.depth)
        if tokens >= 1:
            self.tokens[client] = tokens - 1
            return Fraction(0)
        return ceil((1 - tokens) / self.rate / TICK_SECONDS) * TICK_SECONDS


class BucketsAgainstModel(RuleBasedStateMachine):
    """The waits are those of the model, and only full buckets are removed."""

    @initialize(per_minute=st.integers(1, 200))
    def open(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.buckets = TokenBuckets(per_minute)
        self.model = ModelBuckets(per_minute)
        self.refilled = Fraction(0)
        self.admitted: dict[str, int] = {}

    @rule(client=CLIENTS, times=st.integers(1, 250))
    def take(self, client: str, times: int) -> None:
        for _ in range(times):
            wait = self.buckets.take(client)
            assert wait == pytest.approx(float(self.model.take(client)), abs=1e-9)
            if wait == 0:
                self.admitted[client] = self.admitted.get(client, 0) + 1

    @rule(milliseconds=st.integers(0, 1000))
    def pass_time(self, milliseconds: int) -> None:
        self.buckets.refill(milliseconds / 1000)
        self.model.refill(milliseconds)
        self.refilled += Fraction(milliseconds, 1000) * self.model.rate

    @rule(seconds=st.integers(2, 100))
    def pass_much_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.pass_time(1000)

    @rule(seconds=st.floats(max_value=-1e-9) | st.floats(min_value=1.0001) | st.just(float("nan")))
    def jump(self, seconds: float) -> None:
        self.buckets.refill(seconds)

    @rule(budget=st.integers(0, 10))
    def remove_full(self, budget: int) -> None:
        before = len(self.buckets)
        more = self.buckets.remove_full(budget)
        assert before - len(self.buckets) <= budget
        assert not (more and len(self.buckets) == 0)

    @invariant()
    def admissions_are_bounded_by_depth_and_refills(self) -> None:
        for admitted in getattr(self, "admitted", {}).values():
            assert admitted <= self.per_minute + self.refilled

    @invariant()
    def only_full_buckets_are_missing(self) -> None:
        if hasattr(self, "model"):
            tokens = self.model.tokens.values()
            assert len(self.buckets) >= sum(held < self.model.depth for held in tokens)


@pytest.mark.unmeasured
def test_buckets_behave_as_the_model() -> None:
    run_state_machine_as_test(BucketsAgainstModel, settings=fewer_examples(2))


def drained(per_minute: int, client: str = "a", max_clients: int = 1_000_000) -> TokenBuckets:
    buckets = TokenBuckets(per_minute, max_clients=max_clients)
    for _ in range(per_minute):
        assert buckets.take(client) == 0.0
    return buckets


def test_new_client_has_a_full_bucket() -> None:
    assert drained(60).take("a") == pytest.approx(1.0)


@given(st.integers(1, 100_000))
def test_refused_request_takes_no_token(per_minute: int) -> None:
    buckets = drained(min(per_minute, 500))
    waits = {buckets.take("a") for _ in range(50)}
    assert len(waits) == 1
    for _ in range(round(waits.pop() / 0.1)):
        buckets.refill(0.1)
    assert buckets.take("a") == 0.0


@given(st.integers(1, 600), st.lists(st.floats(0, 1.0), max_size=20))
def test_client_is_admitted_after_the_wait_and_not_a_tick_earlier(
    per_minute: int, steps: list[float]
) -> None:
    buckets = drained(per_minute)
    for step in steps:
        buckets.refill(step)
        while not buckets.take("a"):
            pass
    ticks = round(buckets.take("a") / 0.1)
    assert ticks >= 1
    for _ in range(ticks - 1):
        buckets.refill(0.1)
        assert buckets.take("a") > 0
    buckets.refill(0.1)
    assert buckets.take("a") == 0.0


def test_wait_is_rounded_to_the_tick() -> None:
    buckets = drained(1)
    buckets.refill(0.99999)
    assert buckets.take("a") == pytest.approx(59.1)
    for _ in range(590):
        buckets.refill(0.1)
        assert buckets.take("a") > 0
    buckets.refill(0.1)
    assert buckets.take("a") == 0.0


def test_clients_have_separate_buckets() -> None:
    assert drained(5, "a").take("b") == 0.0


def test_full_bucket_does_not_overflow() -> None:
    buckets = drained(3)
    for _ in range(1000):
        buckets.refill(1.0)
    assert [buckets.take("a") == 0.0 for _ in range(5)] == [True, True, True, False, False]


@pytest.mark.parametrize("seconds", [3600.0, -3600.0, 1.01, -0.01, float("inf"), float("nan")])
def test_clock_jump_adds_no_tokens(seconds: float) -> None:
    jumped = drained(60)
    jumped.refill(seconds)
    assert jumped.take("a") == pytest.approx(1.0)


def test_bucket_is_removed_after_an_idle_minute() -> None:
    buckets = drained(60)
    for _ in range(59):
        buckets.refill(1.0)
    assert not buckets.remove_full(10)
    assert len(buckets) == 1
    buckets.refill(1.0)
    assert not buckets.remove_full(10)
    assert len(buckets) == 0


def test_remove_full_stays_within_its_budget() -> None:
    buckets = TokenBuckets(60)
    for number in range(100):
        buckets.take(str(number))
    for _ in range(60):
        buckets.refill(1.0)
    assert buckets.remove_full(30)
    assert len(buckets) == 70
    assert not buckets.remove_full(1000)
    assert len(buckets) == 0


def test_adding_a_bucket_removes_two_full_ones() -> None:
    buckets = TokenBuckets(60)
    for number in range(10):
        buckets.take(str(number))
    for _ in range(60):
        buckets.refill(1.0)
    buckets.take("new")
    assert len(buckets) == 9


@given(st.lists(st.integers(0, 99), max_size=300), st.integers(1, 20))
def test_number_of_buckets_is_bounded(clients: list[int], most: int) -> None:
    buckets = TokenBuckets(60, max_clients=most)
    for client in clients:
        assert buckets.take(str(client)) == 0.0 or clients.count(client) > 60
        assert len(buckets) <= most


def test_refused_client_keeps_its_bucket() -> None:
    buckets = drained(1, "refused", max_clients=2)
    for number in range(50):
        buckets.take(str(number))
        assert buckets.take("refused") > 0


def test_invalid_parameters_are_refused() -> None:
    for sizes in ((0, 0.1, 1), (1, 0.0, 1), (1, 2.0, 1), (1, 0.1, 0)):
        with pytest.raises(ValueError, match="is out of range"):
            TokenBuckets(*sizes)


@pytest.mark.parametrize(
    ("wait", "seconds", "milliseconds"),
    [(0.1, b"1", b"100"), (1.0, b"1", b"1000"), (1.1, b"2", b"1100"), (0.1 * 3, b"1", b"300")],
)
def test_rate_limit_headers(wait: float, seconds: bytes, milliseconds: bytes) -> None:
    assert rate_limit_headers(60, wait) == [
        (b"Retry-After", seconds),
        (b"retry-after-ms", milliseconds),
        (b"RateLimit-Policy", b'"default";q=60;w=60'),
        (b"RateLimit", b'"default";r=0;t=' + seconds),
    ]


@given(st.floats(0, 1e6))
def test_retry_after_is_never_too_early(wait: float) -> None:
    fields = dict(rate_limit_headers(60, wait))
    assert int(fields[b"Retry-After"]) >= 1
    assert int(fields[b"Retry-After"]) * 1000 >= int(fields[b"retry-after-ms"]) >= 1
    assert int(fields[b"retry-after-ms"]) / 1000 >= wait - 1e-6
