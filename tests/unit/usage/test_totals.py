"""Totals of used and saved tokens, and their cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.usage.prices import parse
from goproxyai.usage.totals import ALWAYS_SHOWN, KINDS, MAX_MODELS, OTHER, UsageTotals
from goproxyai.usage.usage import NO_DETAILS, Details, Usage

PRICES = parse(b'{"gpt-6.2-sol": {"prompt": 2.5, "cached": 1.25, "completion": 10}}')


def by_kind(*counts: int) -> dict[str, int]:
    """Return *counts* by kind, and 0 for further kinds."""
    return dict.fromkeys(KINDS, 0) | dict(zip(KINDS, counts, strict=False))


def test_tokens_are_added_by_model_and_kind() -> None:
    totals = UsageTotals(PRICES)
    totals.add_used([Usage("gpt-6.2-sol", 100, 10, 30, 5)])
    totals.add_used([Usage("gpt-6.2-sol", 1, 2, 0, 1)])
    totals.add_saved([(Usage("gpt-6.2-sol", 100, 10, 30, 5), 3)])
    totals.add_saved([(Usage("elsewhere", 7, 7, 0, 0), 1)])
    totals.add_used([None])
    totals.add_unknown("cut")
    assert totals.models["gpt-6.2-sol"].used == list(by_kind(101, 12, 30, 6).values())
    assert totals.models["gpt-6.2-sol"].saved == list(by_kind(300, 30, 90, 15).values())
    assert totals.total("used") == by_kind(101, 12, 30, 6)
    assert totals.total("saved") == by_kind(307, 37, 90, 15)
    assert totals.unknown == {"silent": 1, "cut": 1, "left": 0}
    money = totals.money()
    assert money is not None
    assert money["saved"] == pytest.approx(3 * (70 * 2.5 + 30 * 1.25 + 100) / 1e6)
    assert money["spent"] == pytest.approx((312.5 + 2.5 + 20) / 1e6)


def test_details_are_added_by_kind() -> None:
    totals = UsageTotals()
    details = Details(1, 2, 3, 4, 5, 6, 7, 8)
    totals.add_used([Usage("m", 10, 10, 0, 0, details), Usage("m", 10, 10, 0, 0), None])
    totals.add_used([Usage("m", 10, 10, 0, 0, details)])
    totals.add_saved([(Usage("m", 10, 10, 0, 0, details), 3)])
    assert list(totals.total("used").values()) == [30, 30, 0, 0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert list(totals.total("saved").values()) == [30, 30, 0, 0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert totals.summary()["models"]["m"]["cache"]["rejected_prediction"] == 24
    assert (*ALWAYS_SHOWN, *Details._fields) == KINDS


def test_totals_without_prices_have_no_cost() -> None:
    totals = UsageTotals()
    totals.add_used([Usage("gpt-6.2-sol", 1, 1, 0, 0)])
    assert totals.money() is None
    assert (totals.used_cost, totals.saved_cost) == (0, 0)


def test_models_beyond_the_limit_count_as_other() -> None:
    totals = UsageTotals()
    for number in range(3 * MAX_MODELS):
        totals.add_used([Usage(f"m{number}", 1, 0, 0, 0)])
        totals.add_saved([(Usage(f"n{number}", 1, 0, 0, 0), 1)])
    assert len(totals.models) == MAX_MODELS + 1
    assert totals.models[OTHER].saved[0] > 0
    assert totals.total("used")["prompt"] == totals.total("saved")["prompt"] == 3 * MAX_MODELS
    totals.add_used([Usage("", 1, 0, 0, 0)])
    assert len(totals.models) == MAX_MODELS + 1


amounts = st.builds(
    Usage,
    st.sampled_from(["gpt-6.2-sol", "a", "b"]),
    *[st.integers(0, 10**9)] * 4,
    st.just(NO_DETAILS) | st.builds(Details, *[st.integers(0, 10**9)] * len(Details._fields)),
)


@given(st.lists(st.tuples(amounts, st.integers(0, 3))))
def test_totals_equal_the_sums(usages: list[tuple[Usage, int]]) -> None:
    totals = UsageTotals(PRICES)
    for usage, count in usages:
        totals.add_used([usage])
        totals.add_saved([(usage, count)])
    used, saved = totals.total("used"), totals.total("saved")
    counted = [(usage.counts(), count) for usage, count in usages]
    for position, kind in enumerate(KINDS):
        assert used[kind] == sum(numbers[position] for numbers, _ in counted)
        assert saved[kind] == sum(numbers[position] * count for numbers, count in counted)
