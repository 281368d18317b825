"""The busiest clients and paths, and the bounded counts that they are taken from."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from goproxyai.telemetry.busiest import (
    REPORTED,
    SAMPLED_BATCH,
    SAMPLED_STEP,
    Busiest,
    summed_clients,
    summed_paths,
)
from goproxyai.telemetry.recent_counts import RecentCounts


def test_counts_disappear_after_two_windows() -> None:
    counts = RecentCounts(10.0, 100)
    counts.add({"a": 2, "b": 1}, 5.0)
    counts.add({"a": 3}, 14.0)
    assert counts.counts(14.9) == {"a": 5, "b": 1}
    counts.add({"c": 1}, 15.0)
    assert counts.counts(24.9) == {"a": 5, "b": 1, "c": 1}
    assert counts.counts(25.0) == {"c": 1}
    assert counts.counts(100.0) == {}


@given(st.lists(st.lists(st.integers(0, 200).map(str), max_size=30), max_size=40))
def test_names_are_bounded_and_the_most_frequent_are_kept(batches: list[list[str]]) -> None:
    counts = RecentCounts(1000.0, 20)
    for batch in batches:
        counts.add({"often": 20}, 1.0, weight=2)
        counts.add(Counter(batch), 1.0)
        assert len(counts._present) < 2 * 20 + 30
    assert counts.counts(1.0).get("often", 0) == 40 * len(batches)


def test_limited_clients_are_first_then_failing_then_busy_ones() -> None:
    busiest = Busiest()
    busiest.add_clients(["busy"] * 9 + ["failing"] * 5 + ["limited"] * 2, 1.0)
    busiest.failed.add({"failing": 1}, 1.0)
    busiest.limited.add({"limited": 1}, 1.0)
    assert busiest.client_rows(1.0) == [
        ("limited", 2, 1, 0),
        ("failing", 5, 0, 1),
        ("busy", 9, 0, 0),
    ]


def test_tables_have_a_bounded_number_of_rows() -> None:
    busiest = Busiest()
    names = [str(number) for number in range(10_000)]
    busiest.add_clients(names, 1.0)
    busiest.limited.add(Counter(names), 1.0)
    busiest.hits.add(Counter(names), 1.0)
    assert len(busiest.client_rows(1.0)) == len(busiest.path_rows(1.0)) == REPORTED


def test_large_batch_is_estimated_from_a_sample() -> None:
    busiest = Busiest()
    for _ in range(SAMPLED_STEP):
        busiest.add_clients(["a", "b", "c", "d", "e"] * SAMPLED_BATCH, 1.0)
    once = SAMPLED_STEP * SAMPLED_BATCH
    assert busiest.clients.counts(1.0) == dict.fromkeys("abcde", once)
    busiest.add_clients(["a"] * (SAMPLED_BATCH - 1), 1.0)
    busiest.failed.add({"b": once + 1}, 1.0)
    assert busiest.client_rows(1.0)[:2] == [
        ("b", once + 1, 0, once + 1),
        ("a", once + SAMPLED_BATCH - 1, 0, 0),
    ]


def test_rows_of_processes_are_added() -> None:
    tables = [[("a", 5, 1, 2), ("b", 9, 0, 0)], [("a", 1, 1, 1)]]
    assert summed_clients(tables) == [("a", 6, 2, 3), ("b", 9, 0, 0)]
    assert summed_paths([[("/x", 1)], [("/y", 2), ("/x", 3)]]) == [("/x", 4), ("/y", 2)]
