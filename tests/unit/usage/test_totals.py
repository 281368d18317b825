"""Totals of used and saved tokens, and their cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.usage.prices import Price, Prices
from goproxyai.usage.totals import KINDS, MAX_MODELS, OTHER, UsageTotals
from goproxyai.usage.usage import Usage

PRICES = Prices({"gpt-4o": Price(2.5e-6, 1.25e-6, 10e-6)})


def test_tokens_are_added_by_model_and_kind() -> None:
    totals = UsageTotals(PRICES)
    totals.add_used([Usage("gpt-4o", 100, 10, 30, 5)])
    totals.add_used([Usage("gpt-4o", 1, 2, 0, 1)])
    totals.add_saved(Usage("gpt-4o", 100, 10, 30, 5), 3)
    totals.add_saved(Usage("elsewhere", 7, 7, 0, 0), 1)
    totals.add_used([None])
    totals.add_unknown("cut")
    assert totals.models["gpt-4o"].used == [101, 12, 30, 6]
    assert totals.models["gpt-4o"].saved == [300, 30, 90, 15]
    assert totals.total("used") == dict(zip(KINDS, (101, 12, 30, 6), strict=True))
    assert totals.total("saved") == dict(zip(KINDS, (307, 37, 90, 15), strict=True))
    assert totals.unknown == {"silent": 1, "cut": 1, "left": 0}
    money = totals.money()
    assert money is not None
    assert money["saved"] == pytest.approx(3 * (70 * 2.5 + 30 * 1.25 + 100) / 1e6)
    assert money["spent"] == pytest.approx((312.5 + 2.5 + 20) / 1e6)


def test_totals_without_prices_have_no_cost() -> None:
    totals = UsageTotals()
    totals.add_used([Usage("gpt-4o", 1, 1, 0, 0)])
    assert totals.money() is None
    assert (totals.used_cost, totals.saved_cost) == (0, 0)


def test_models_beyond_the_limit_count_as_other() -> None:
    totals = UsageTotals()
    for number in range(3 * MAX_MODELS):
        totals.add_used([Usage(f"m{number}", 1, 0, 0, 0)])
        totals.add_saved(Usage(f"n{number}", 1, 0, 0, 0), 1)
    assert len(totals.models) == MAX_MODELS + 1
    assert totals.models[OTHER].saved[0] > 0
    assert totals.total("used")["prompt"] == totals.total("saved")["prompt"] == 3 * MAX_MODELS
    totals.add_used([Usage("", 1, 0, 0, 0)])
    assert len(totals.models) == MAX_MODELS + 1


amounts = st.builds(
    Usage, st.sampled_from(["gpt-4o", "a", "b"]), *[st.integers(0, 10**9)] * 4
)  # fmt: skip


@given(st.lists(st.tuples(amounts, st.integers(0, 3))))
def test_totals_equal_the_sums(usages: list[tuple[Usage, int]]) -> None:
    totals = UsageTotals(PRICES)
    for usage, count in usages:
        totals.add_used([usage])
        totals.add_saved(usage, count)
    for position, kind in enumerate(KINDS, 1):
        assert totals.total("used")[kind] == sum(usage[position] for usage, _ in usages)
        assert totals.total("saved")[kind] == sum(
            usage[position] * count for usage, count in usages
        )
