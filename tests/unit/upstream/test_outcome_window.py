"""The window of outcomes."""

from __future__ import annotations

from goproxyai.upstream.outcome_window import (
    MAX_CLIENTS_PER_SLOT,
    WINDOW_SECONDS,
    Outcomes,
    OutcomeWindow,
)


def test_window_sums_outcomes_of_all_slots() -> None:
    window = OutcomeWindow()
    for second, client in enumerate(["a", "b", "a", "a"]):
        window.advance(100.0 + second)
        window.add_failure(client)
        window.add_successes(10)
    assert window.outcomes() == Outcomes(40, 4, 3)
    window.advance(101.0 + WINDOW_SECONDS)
    assert window.outcomes() == Outcomes(20, 2, 2)
    window.clear()
    assert window.outcomes() == Outcomes(0, 0, 0)


def test_clock_that_is_set_back_keeps_the_slot() -> None:
    window = OutcomeWindow()
    window.advance(100.0)
    window.add_failure("a")
    window.advance(50.0)
    window.add_failure("a")
    assert window.outcomes() == Outcomes(0, 2, 2)


def test_further_clients_of_a_slot_count_as_one() -> None:
    window = OutcomeWindow()
    for number in range(10 * MAX_CLIENTS_PER_SLOT):
        window.add_failure(str(number))
    assert window.outcomes() == Outcomes(0, 10 * MAX_CLIENTS_PER_SLOT, 9 * MAX_CLIENTS_PER_SLOT)
    assert len(window._failures[0]) == MAX_CLIENTS_PER_SLOT + 1
