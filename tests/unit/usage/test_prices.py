"""The price table: validation, look-up by model, and loading from ``PRICES``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs

from goproxyai.config.settings import Settings
from goproxyai.config.sources import ConfigSources, LoadedConfig
from goproxyai.config.variable import SettingError
from goproxyai.daemon.build import make_daemon
from goproxyai.daemon.reload import Reload
from goproxyai.usage.prices import MAX_TABLE_BYTES, Prices, PricesError, parse
from goproxyai.usage.usage import Details, Usage

TABLE = {
    "gpt-5.4": {"prompt": 2.5, "cached": 1.25, "completion": 10},
    "gpt-5.4-mini": {"prompt": 0.15, "completion": 0.6},
    "gpt-6.2-sol": {
        "prompt": 2, "cached": 0.1, "cache_write": 2.5, "cache_write_12h": 5, "completion": 10,
    },
    "gpt-6-sol": {"prompt": 2, "cached": 0.2, "cache_write": 2.5, "completion": 10},
    "gpt-audio-1.5": {
        "prompt": 2.5, "completion": 10, "audio_prompt": 32, "audio_completion": 64,
    },
    "text-embedding-3-small": {"prompt": 0.02},
    "free": {"prompt": 0},
}  # fmt: skip

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy" / "prices.json"


def prices(table: Any = TABLE) -> Prices:
    return parse(json.dumps(table).encode())


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("gpt-5.4", 70 * 2.5 + 30 * 1.25 + 10 * 10),
        ("gpt-5.4-2026-03-05", 70 * 2.5 + 30 * 1.25 + 10 * 10),
        ("gpt-5.4-mini", 100 * 0.15 + 10 * 0.6),
        ("gpt-5.4-mini-2026-03-17", 100 * 0.15 + 10 * 0.6),
        ("gpt-5.4:ft-us", 70 * 2.5 + 30 * 1.25 + 10 * 10),
        ("text-embedding-3-small", 100 * 0.02),
        ("free", 0),
    ],
)
def test_longest_applicable_name_gives_the_price(model: str, cost: float) -> None:
    price = prices().price(model)
    assert price is not None
    assert price.cost(Usage(model, 100, 10, 30, 5)) == pytest.approx(cost / 1e6)


@pytest.mark.parametrize("model", ["", "gpt", "gpt-5", "gpt-5.4omega", "ft:gpt-5.4", "GPT-5.4"])
def test_model_without_applicable_name_has_no_price(model: str) -> None:
    assert prices().price(model) is None


def test_cached_tokens_beyond_the_prompt_are_ignored() -> None:
    price = prices().price("gpt-5.4")
    assert price is not None
    assert price.cost(Usage("gpt-5.4", 10, 0, 50, 0)) == pytest.approx(10 * 1.25 / 1e6)


@pytest.mark.parametrize(
    ("model", "details", "cost"),
    [
        ("gpt-6.2-sol", Details(cache_write=20), 50 * 2 + 30 * 0.1 + 20 * 2.5 + 10 * 10),
        ("gpt-6.2-sol", Details(20, 15), 50 * 2 + 30 * 0.1 + 5 * 2.5 + 15 * 5 + 10 * 10),
        ("gpt-6-sol", Details(20, 15), 50 * 2 + 30 * 0.2 + 20 * 2.5 + 10 * 10),
        ("gpt-5.4", Details(20, 15), 70 * 2.5 + 30 * 1.25 + 10 * 10),
        ("gpt-6.2-sol", Details(cache_write=900), 30 * 0.1 + 70 * 2.5 + 10 * 10),
        (
            "gpt-audio-1.5",
            Details(audio_prompt=25, audio_completion=8),
            75 * 2.5 + 25 * 32 + 2 * 10 + 8 * 64,
        ),
        (
            "gpt-audio-1.5",
            Details(audio_prompt=900, audio_completion=900),
            30 * 2.5 + 70 * 32 + 10 * 64,
        ),
        ("gpt-5.4", Details(0, 0, 25, 8, 5, 4, 3, 2), 70 * 2.5 + 30 * 1.25 + 10 * 10),
    ],
)
def test_part_of_the_tokens_has_its_own_price_or_that_of_the_whole(
    model: str, details: Details, cost: float
) -> None:
    price = prices().price(model)
    assert price is not None
    usage = Usage(model, 100, 10, 30, 5, details)
    assert price.cost(usage) == pytest.approx(cost / 1e6)


def test_table_of_earlier_releases_has_the_same_costs() -> None:
    price = prices({"m": {"prompt": 3, "cached": 1, "completion": 5}}).price("m")
    assert price is not None
    assert price.cost(Usage("m", 10, 2, 4, 1)) == pytest.approx((6 * 3 + 4 * 1 + 2 * 5) / 1e6)


def test_example_has_prices_of_the_current_models() -> None:
    table = parse(EXAMPLE.read_bytes())
    for model in ("gpt-6.2-astra", "gpt-6.2-sol", "gpt-6.1-terra", "text-embedding-3-small"):
        price = table.price(model)
        assert price is not None
        assert price.cached <= price.prompt <= price.cache_write <= price.cache_write_12h
    assert table.price("gpt-4o") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"m":1}', "only the keys"),
        (b'{"m":{}}', "only the keys"),
        (b'{"m":{"prompt":1,"input":2}}', "only the keys"),
        (b'{"m":{"prompt":"1"}}', "number from 0 to 1000000"),
        (b'{"m":{"prompt":true}}', "number from 0 to 1000000"),
        (b'{"m":{"prompt":-1}}', "number from 0 to 1000000"),
        (b'{"m":{"prompt":NaN}}', "number from 0 to 1000000"),
        (b'{"m":{"prompt":Infinity}}', "number from 0 to 1000000"),
        (b" " * (MAX_TABLE_BYTES + 1), "1 MB"),
    ],
)
def test_invalid_table_is_refused_with_the_reason(text: bytes, why: str) -> None:
    with pytest.raises(PricesError, match=why):
        parse(text)


def test_look_up_cache_is_bounded() -> None:
    table = prices()
    for number in range(10_000):
        assert table.price(f"model-{number}") is None
        assert len(table._cache) <= 256


# The file that PRICES names.


def reading(directory: Path, **environ: str) -> LoadedConfig:
    return ConfigSources({}, environ, str(directory)).read()


def test_table_is_read_from_the_configured_file(tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text(json.dumps(TABLE))
    assert reading(tmp_path, PRICES="prices.json").prices.table == prices().table
    assert reading(tmp_path).prices.table == {}


def test_invalid_file_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"m": {"input": 1}}')
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("bad.json", "must have only the keys prompt, completion, cached, cache_write, "),
        ("none.json", "No such file or directory"),
        ("pipe", "Not a regular file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(SettingError, match=why) as raised:
            reading(tmp_path, PRICES=name)
        assert str(raised.value).startswith("PRICES is ")
        assert "\n" not in str(raised.value)


def test_changed_table_applies_after_reload() -> None:
    daemon = make_daemon(MemoryReactorClock(), Settings.from_texts({"PRICES": "p.json"}))
    tokens = daemon.context.counters.tokens
    tokens.add_used([Usage("gpt-5.4", 1_000_000, 0, 0, 0)])
    settings = Settings.from_texts({"PRICES": "p.json"})
    loaded = [LoadedConfig(settings, (), prices()), LoadedConfig(settings, (), prices())]
    with capturedLogs() as events:
        reload = Reload(daemon, loaded.pop, lambda _: None)
        reload.run()
        reload.run()
    lines = [event["log_format"].format(**event) for event in events]
    assert lines == [
        "configuration reloaded, changed: PRICES",
        "configuration reloaded, nothing changed",
    ]
    tokens.add_used([Usage("gpt-5.4", 1_000_000, 0, 0, 0)])
    assert tokens.money() == {"spent": 2.5, "saved": 0.0}
