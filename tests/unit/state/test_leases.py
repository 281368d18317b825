"""The bounds of leased tokens, and the rules of both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.limits.token_buckets import TokenBuckets
from goproxyai.state import leases
from goproxyai.state.leases import (
    IDLE_SECONDS,
    UNDECIDED,
    Grant,
    Grantor,
    LeaseHolder,
    lease_size,
)
from tests.unit.state.lease_simulation import CLIENT, TICK_SECONDS, LeaseSimulation

HOLDERS = st.integers(1, 6)
LIMITS = st.integers(1, 200)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(0, 5), st.integers(1, 40)),
        st.tuples(st.just("ticks"), st.integers(0, 0), st.integers(1, 60)),
        st.tuples(st.just("kill"), st.integers(0, 5), st.just(1)),
    ),
    max_size=40,
)


@given(LIMITS, HOLDERS, STEPS)
def test_client_gets_at_most_one_bucket_and_one_lease_per_holder(
    per_minute: int, holders: int, steps: list[tuple[str, int, int]]
) -> None:
    simulation = LeaseSimulation(per_minute, holders)
    seen = [(0.0, 0)]
    for kind, number, times in steps:
        for _ in range(times):
            if kind == "request":
                simulation.request(number % holders)
            elif kind == "ticks":
                simulation.tick()
            else:
                simulation.kill(number % holders)
        seen.append((simulation.now, simulation.admitted))
    allowance = per_minute + holders * lease_size(per_minute)
    for index, (began, before) in enumerate(seen):
        for ended, after in seen[index:]:
            assert after - before <= allowance + per_minute * (ended - began) / 60 + 1e-6


@given(LIMITS, HOLDERS, STEPS)
def test_client_without_competitor_loses_at_most_one_lease_per_holder(
    per_minute: int, holders: int, steps: list[tuple[str, int, int]]
) -> None:
    """As long as the bucket of the one process is not full again, where both start afresh."""
    simulation = LeaseSimulation(per_minute, holders)
    for kind, number, times in steps:
        for _ in range(times):
            if kind == "request":
                simulation.request(number % holders)
            elif kind == "kill":
                simulation.kill(number % holders)
            elif (simulation.ticks + 1) * TICK_SECONDS * per_minute / 60 < (
                simulation.admitted_by_one
            ):
                simulation.tick()
            least = simulation.admitted_by_one - holders * simulation.lease - simulation.lost
            assert simulation.admitted >= least


@given(LIMITS, HOLDERS)
def test_burst_over_all_holders_gets_exactly_the_bucket(per_minute: int, holders: int) -> None:
    simulation = LeaseSimulation(per_minute, holders)
    for number in range(per_minute * 3 * holders):
        simulation.request(number % holders)
    assert simulation.admitted == per_minute


def test_refused_client_costs_one_question_per_token() -> None:
    simulation = LeaseSimulation(60, 1)
    while simulation.request(0):
        pass
    before = simulation.questions
    for _ in range(50):  # five seconds, five tokens
        simulation.tick()
        for _ in range(100):
            simulation.request(0)
    assert simulation.questions - before <= 10


def test_lease_is_an_eighth_of_the_limit_and_at_least_one() -> None:
    assert [lease_size(limit) for limit in (1, 8, 15, 16, 60, 1000)] == [1, 1, 1, 2, 7, 125]


def grantor(per_minute: int = 60, holders: int = 4) -> Grantor:
    return Grantor(TokenBuckets(per_minute), holders)


def test_grant_is_at_most_the_lease_and_an_equal_share_of_the_rest() -> None:
    granting = grantor()
    granted = [granting.grant(CLIENT, 1000, 7).tokens for _ in range(30)]
    assert granted[:5] == [7, 7, 7, 7, 7]
    assert granted[-1] == 0
    assert sum(granted) == 60
    assert sorted(granted, reverse=True) == granted


def test_refusal_says_when_the_bucket_has_a_token() -> None:
    granting = grantor(per_minute=1)
    assert granting.grant(CLIENT, 1, 1) == Grant(1, 0.0)
    refusal = granting.grant(CLIENT, 1, 1)
    assert refusal.tokens == 0
    assert refusal.wait == pytest.approx(60.0)


def test_put_back_tokens_are_granted_again_and_bounded_by_the_lease() -> None:
    granting = grantor(per_minute=8, holders=1)
    while granting.grant(CLIENT, 8, 8).tokens:
        pass
    granting.put_back(CLIENT, 1000, 3)
    assert granting.grant(CLIENT, 8, 8).tokens == 3
    granting.put_back(CLIENT, -5, 3)
    assert granting.grant(CLIENT, 8, 8).tokens == 0


def holder_with(tokens: int, per_minute: int = 80) -> LeaseHolder:
    holder = LeaseHolder(per_minute)
    assert holder.take(CLIENT, 0.0) == UNDECIDED
    assert holder.wanted(CLIENT, 0.0, waiting=True) == 10
    holder.granted(CLIENT, Grant(tokens, 0.0), 0.0)
    return holder


def test_holder_asks_once_and_ahead_of_need() -> None:
    holder = holder_with(10)
    asked = []
    for _ in range(10):
        assert holder.take(CLIENT, 0.0) == 0.0
        asked.append(holder.wanted(CLIENT, 0.0, waiting=False))
    assert asked == [0] * 7 + [8] + [0] * 2
    assert holder.take(CLIENT, 0.0) == UNDECIDED
    assert holder.wanted(CLIENT, 0.0, waiting=True) == 0


def test_holder_refuses_until_the_next_token() -> None:
    holder = LeaseHolder(60)
    holder.take(CLIENT, 0.0)
    holder.wanted(CLIENT, 0.0, waiting=True)
    holder.granted(CLIENT, Grant(0, 2.0), 1.0)
    assert holder.take(CLIENT, 1.5) == 1.5
    assert holder.wanted(CLIENT, 1.5, waiting=True) == 0
    assert holder.take(CLIENT, 3.0) == UNDECIDED


def test_holder_without_an_answer_refuses_and_takes_a_late_answer() -> None:
    holder = LeaseHolder(60)
    holder.take(CLIENT, 0.0)
    holder.wanted(CLIENT, 0.0, waiting=True)
    holder.unanswered(CLIENT, 0.0, 1.0)
    assert holder.take(CLIENT, 0.5) == 0.5
    holder.granted(CLIENT, Grant(7, 0.0), 0.6)
    assert holder.take(CLIENT, 0.7) == 0.0
    holder.unanswered("unknown", 0.0, 1.0)


def test_idle_client_is_dropped_and_its_tokens_given_back() -> None:
    holder = holder_with(10)
    holder.take(CLIENT, 0.0)
    holder.drop_idle(IDLE_SECONDS - 0.1, 10)
    assert holder.given_back() == []
    holder.drop_idle(IDLE_SECONDS, 10)
    assert holder.given_back() == [(CLIENT, 9)]
    assert len(holder) == 0
    assert holder.given_back() == []


def test_answer_for_a_dropped_client_is_given_back() -> None:
    holder = LeaseHolder(60)
    holder.take(CLIENT, 0.0)
    holder.wanted(CLIENT, 0.0, waiting=True)
    holder.drop_all()
    holder.granted(CLIENT, Grant(5, 0.0), 0.0)
    assert holder.given_back() == [(CLIENT, 5)]
    assert holder.wanted(CLIENT, 0.0, waiting=True) == 0


def test_holder_never_keeps_more_than_a_lease() -> None:
    holder = holder_with(25)
    assert holder.given_back() == [(CLIENT, 15)]
    holder.set_rate(16)
    assert holder.given_back() == [(CLIENT, 8)]
    holder.set_rate(800)
    assert holder.given_back() == []


def test_number_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MAX_CLIENTS", 3)
    holder = holder_with(10)
    for number in range(3):
        holder.take(f"client {number}", 0.0)
    assert len(holder) == 3
    assert holder.given_back() == [(CLIENT, 10)]
