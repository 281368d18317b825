"""The choice of the worker that accepts a connection."""

from __future__ import annotations

from goproxyai.daemon.accept_balance import (
    ABSENT,
    IMPATIENT_SECONDS,
    PATIENCE_SECONDS,
    AcceptBalance,
)


def balance(own: int, *others: int) -> AcceptBalance:
    return AcceptBalance([0, *others], 0, lambda: own)


def test_worker_with_fewest_connections_accepts() -> None:
    assert balance(1, 1, 5).may_accept(0.0)
    assert not balance(2, 1, 5).may_accept(0.0)


def test_absent_worker_is_not_waited_for() -> None:
    assert balance(9, ABSENT, ABSENT).may_accept(0.0)


def test_worker_notes_its_own_count() -> None:
    counts = [ABSENT, 7]
    AcceptBalance(counts, 0, lambda: 3).may_accept(0.0)
    assert counts == [3, 7]


def test_worker_waits_for_busy_ones_for_a_bounded_time() -> None:
    one = balance(5, 0)
    assert not one.may_accept(1.0)
    assert not one.may_accept(1.0 + PATIENCE_SECONDS * 0.9)
    accepted = 1.0 + PATIENCE_SECONDS
    assert one.may_accept(accepted)
    assert one.may_accept(accepted + IMPATIENT_SECONDS * 0.9)
    assert not one.may_accept(accepted + IMPATIENT_SECONDS)
