"""Counters as plain values, and their sums."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from goproxyai.telemetry import counter_sum
from goproxyai.telemetry.counter_sum import add, dumped, end_requests
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.outcome import CacheOutcome
from goproxyai.usage.usage import Usage


def transported(counters: Counters) -> dict[str, Any]:
    """Return the values after a transport that knows no tuples."""
    document: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(dumped(counters)))
    return document


def some_counters(scale: int) -> Counters:
    counters = Counters()
    counters.requests = 10 * scale
    counters.hits = 3 * scale
    counters.bypass_reasons["size"] = scale
    counters.finished.count = 7 * scale
    counters.finished.statuses[2] = 5 * scale
    counters.finished.add_outcome("/v1/models", b"GET", 200, "HIT", scale)
    counters.finished.add_outcome(f"/v1/models/{scale}", b"GET", 200 + scale, "MISS", scale)
    counters.durations.request[CacheOutcome.HIT].add(scale * 1.0)
    counters.connections.opened = 2 * scale
    counters.connections.refused["full"] = scale
    counters.open_streams = scale
    counters.tokens.add_used([Usage("model", scale, scale, 0, 0)])
    return counters


def test_sum_has_all_numbers_of_both() -> None:
    total = Counters()
    for scale in (1, 2):
        add(total, transported(some_counters(scale)))
    assert (total.requests, total.hits, total.bypass_reasons["size"]) == (30, 9, 3)
    assert (total.finished.count, total.finished.statuses[2]) == (21, 15)
    assert total.finished.outcomes == {
        ("/v1/models", "GET", 200, "HIT"): 3,
        ("/v1/models", "GET", 201, "MISS"): 1,
        ("/v1/models", "GET", 202, "MISS"): 2,
    }
    assert (total.connections.opened, total.connections.refused["full"]) == (6, 3)
    histogram = total.durations.request[CacheOutcome.HIT]
    assert (histogram.count, histogram.total, histogram.longest) == (2, 3.0, 2.0)
    assert sum(histogram.counts()) == 2
    assert total.tokens.models["model"].used[:2] == [3, 3]


def test_sum_of_nothing_equals_new_counters() -> None:
    total = Counters()
    add(total, transported(Counters()))
    assert dumped(total) == dumped(Counters())


def test_summary_of_a_sum_is_that_of_one_process() -> None:
    total = Counters()
    add(total, transported(some_counters(3)))
    assert total.summary() == some_counters(3).summary()


def test_excess_outcomes_and_models_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counter_sum, "MAX_OUTCOMES", 1)
    monkeypatch.setattr(counter_sum, "MAX_MODELS", 1)
    counters = some_counters(1)
    counters.tokens.add_used([Usage("another", 5, 0, 0, 0)])
    total = Counters()
    add(total, transported(counters))
    assert total.finished.outcomes == {
        ("/v1/models", "GET", 200, "HIT"): 1,
        ("other", "other", 200, "other"): 1,
    }
    assert {name: tokens.used[0] for name, tokens in total.tokens.models.items()} == {
        "model": 1,
        "other": 5,
    }


def test_ended_process_has_nothing_in_flight_and_keeps_its_totals() -> None:
    counters = some_counters(2)
    end_requests(counters)
    assert (counters.requests, counters.in_flight, counters.open_streams) == (20, 0, 0)
    assert counters.connections.opened == counters.connections.closed == 4
    assert counters.open_tunnels == 0
