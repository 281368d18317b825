"""A table of prices is read whole or not at all, and tokens cost what it says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs

from goproxyai.config.settings import Settings
from goproxyai.config.sources import ConfigSources, LoadedConfig
from goproxyai.config.variables import SettingError
from goproxyai.daemon.build import make_daemon
from goproxyai.daemon.reload import Reload
from goproxyai.usage.prices import LARGEST, Prices, PricesError, parse
from goproxyai.usage.totals import KINDS, MOST_MODELS, OTHER, UsageTotals
from goproxyai.usage.usage import Usage

TABLE = {
    "gpt-4o": {"prompt": 2.5, "cached": 1.25, "completion": 10},
    "gpt-4o-mini": {"prompt": 0.15, "completion": 0.6},
    "text-embedding-3-small": {"prompt": 0.02},
    "free": {"prompt": 0},
}


def prices(table: Any = TABLE) -> Prices:
    return parse(json.dumps(table).encode())


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("gpt-4o", 70 * 2.5 + 30 * 1.25 + 10 * 10),
        ("gpt-4o-2024-08-06", 70 * 2.5 + 30 * 1.25 + 10 * 10),
        ("gpt-4o-mini", 100 * 0.15 + 10 * 0.6),
        ("gpt-4o-mini-2024-07-18", 100 * 0.15 + 10 * 0.6),
        ("gpt-4o:ft-us", 70 * 2.5 + 30 * 1.25 + 10 * 10),
        ("text-embedding-3-small", 100 * 0.02),
        ("free", 0),
    ],
)
def test_the_longest_name_that_fits_says_the_price(model: str, cost: float) -> None:
    price = prices().price(model)
    assert price is not None
    assert price.of(Usage(model, 100, 10, 30, 5)) == pytest.approx(cost / 1e6)


@pytest.mark.parametrize("model", ["", "gpt", "gpt-4", "gpt-4omega", "ft:gpt-4o", "GPT-4o"])
def test_a_model_that_no_name_fits_has_no_price(model: str) -> None:
    assert prices().price(model) is None


def test_more_cached_tokens_than_there_are_cost_no_less_than_nothing() -> None:
    price = prices().price("gpt-4o")
    assert price is not None
    assert price.of(Usage("gpt-4o", 10, 0, 50, 0)) == pytest.approx(10 * 1.25 / 1e6)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no JSON object"),
        (b'{"m":1}', "keys"),
        (b'{"m":{}}', "keys"),
        (b'{"m":{"prompt":1,"input":2}}', "keys"),
        (b'{"m":{"prompt":"1"}}', "price of a million"),
        (b'{"m":{"prompt":true}}', "price of a million"),
        (b'{"m":{"prompt":-1}}', "price of a million"),
        (b'{"m":{"prompt":NaN}}', "price of a million"),
        (b'{"m":{"prompt":Infinity}}', "price of a million"),
        (b" " * (LARGEST + 1), "1 MB"),
    ],
)
def test_what_is_no_table_says_why(text: bytes, why: str) -> None:
    with pytest.raises(PricesError, match=why):
        parse(text)


def test_what_is_remembered_of_models_is_bounded() -> None:
    table = prices()
    for number in range(10_000):
        assert table.price(f"model-{number}") is None
        assert len(table._known) <= 256


# Tokens.


def test_tokens_are_added_up_by_model_and_kind() -> None:
    tokens = UsageTotals(prices())
    tokens.add_used([Usage("gpt-4o", 100, 10, 30, 5)])
    tokens.add_used([Usage("gpt-4o", 1, 2, 0, 1)])
    tokens.add_saved(Usage("gpt-4o", 100, 10, 30, 5), 3)
    tokens.add_saved(Usage("elsewhere", 7, 7, 0, 0), 1)
    tokens.add_used([None])
    tokens.add_unknown("cut")
    assert tokens.models["gpt-4o"].used == [101, 12, 30, 6]
    assert tokens.models["gpt-4o"].saved == [300, 30, 90, 15]
    assert tokens.total("used") == dict(zip(KINDS, (101, 12, 30, 6), strict=True))
    assert tokens.total("saved") == dict(zip(KINDS, (307, 37, 90, 15), strict=True))
    assert tokens.unknown == {"silent": 1, "cut": 1, "left": 0}
    money = tokens.money()
    assert money is not None
    assert money["saved"] == pytest.approx(3 * (70 * 2.5 + 30 * 1.25 + 100) / 1e6)
    assert money["spent"] == pytest.approx((312.5 + 2.5 + 20) / 1e6)


def test_without_prices_there_is_no_money() -> None:
    tokens = UsageTotals()
    tokens.add_used([Usage("gpt-4o", 1, 1, 0, 0)])
    assert tokens.money() is None
    assert (tokens.spent, tokens.spared) == (0, 0)


def test_models_beyond_a_hundred_are_counted_together() -> None:
    tokens = UsageTotals()
    for number in range(3 * MOST_MODELS):
        tokens.add_used([Usage(f"m{number}", 1, 0, 0, 0)])
        tokens.add_saved(Usage(f"n{number}", 1, 0, 0, 0), 1)
    assert len(tokens.models) == MOST_MODELS + 1
    assert tokens.models[OTHER].saved[0] > 0
    assert tokens.total("used")["prompt"] == tokens.total("saved")["prompt"] == 3 * MOST_MODELS
    tokens.add_used([Usage("", 1, 0, 0, 0)])
    assert len(tokens.models) == MOST_MODELS + 1


amounts = st.builds(
    Usage, st.sampled_from(["gpt-4o", "a", "b"]), *[st.integers(0, 10**9)] * 4
)  # fmt: skip


@given(st.lists(st.tuples(amounts, st.integers(0, 3))))
def test_the_totals_are_the_sums(given_: list[tuple[Usage, int]]) -> None:
    tokens = UsageTotals(prices())
    for one, times in given_:
        tokens.add_used([one])
        tokens.add_saved(one, times)
    for position, kind in enumerate(KINDS, 1):
        assert tokens.total("used")[kind] == sum(one[position] for one, _ in given_)
        assert tokens.total("saved")[kind] == sum(one[position] * n for one, n in given_)


# The file.


def reading(directory: Path, **environ: str) -> LoadedConfig:
    return ConfigSources({}, environ, str(directory)).read()


def test_the_table_is_read_from_the_file_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text(json.dumps(TABLE))
    assert reading(tmp_path, PRICES="prices.json").prices.table == prices().table
    assert reading(tmp_path).prices.table == {}


def test_a_file_that_is_no_table_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"m": {"input": 1}}')
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("bad.json", "has not the keys prompt, cached, completion"),
        ("none.json", "No such file or directory"),
        ("pipe", "Not a regular file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(SettingError, match=why) as raised:
            reading(tmp_path, PRICES=name)
        assert str(raised.value).startswith("PRICES is ")
        assert "\n" not in str(raised.value)


def test_a_table_that_has_changed_holds_from_then_on() -> None:
    daemon = make_daemon(MemoryReactorClock(), Settings.from_texts({"PRICES": "p.json"}))
    tokens = daemon.context.counters.tokens
    tokens.add_used([Usage("gpt-4o", 1_000_000, 0, 0, 0)])
    settings = Settings.from_texts({"PRICES": "p.json"})
    found = [LoadedConfig(settings, (), prices()), LoadedConfig(settings, (), prices())]
    with capturedLogs() as events:
        reload = Reload(daemon, found.pop, lambda _: None)
        reload.run()
        reload.run()
    said = [event["log_format"].format(**event) for event in events]
    assert said == ["the configuration has changed: PRICES", "the configuration has not changed"]
    tokens.add_used([Usage("gpt-4o", 1_000_000, 0, 0, 0)])
    assert tokens.money() == {"spent": 2.5, "saved": 0.0}
