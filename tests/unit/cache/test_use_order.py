"""The order of use is close to the exact one, whatever the pattern of uses."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache import segments
from goproxyai.cache.entry import Entry
from goproxyai.cache.entry_table import EntryTable
from tests.support.examples import fewer_examples
from tests.unit.cache.stored import numbered


class OrderedTable:
    """A table, and its entries in the exact order of use, least recently used first."""

    def __init__(self) -> None:
        self.table = EntryTable(0.0)
        self.exact: OrderedDict[bytes, Entry] = OrderedDict()
        self.number = 0

    def add(self) -> bytes:
        """Add an entry; return its key."""
        one = numbered(self.number)
        self.number += 1
        self.table.add(one)
        self.exact[one.key] = one
        return one.key

    def use(self, key: bytes) -> None:
        assert self.table.use(key) is self.exact[key]
        self.exact.move_to_end(key)

    def evict(self) -> int:
        """Evict an entry; return the number of entries that were used less recently."""
        one = self.table.least_recently_used()
        assert one is not None
        rank = list(self.exact).index(one.key)
        self.table.remove(one)
        del self.exact[one.key]
        return rank


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ENTRIES", 64)


def test_order_of_few_uses_is_exact() -> None:
    ordered = OrderedTable()
    keys = [ordered.add() for _ in range(30)]
    for key in keys[::3]:
        ordered.use(key)
    assert [ordered.evict() for _ in keys] == [0] * 30
    assert ordered.table.least_recently_used() is None


@pytest.mark.unmeasured
@pytest.mark.parametrize("uses_per_eviction", [1, 5, 40])
def test_entry_in_constant_use_is_never_evicted(uses_per_eviction: int) -> None:
    ordered = OrderedTable()
    used = ordered.add()
    for _ in range(500):
        ordered.add()
    for _ in range(3_000):
        for _ in range(uses_per_eviction):
            ordered.use(used)
        ordered.evict()
        ordered.add()
    assert used in ordered.exact


def test_entry_used_after_a_long_time_of_other_uses_outlives_unused_entries() -> None:
    ordered = OrderedTable()
    keys = [ordered.add() for _ in range(300)]
    for _ in range(50_000):
        ordered.use(keys[0])
    for key in keys[::2]:
        ordered.use(key)
    for _ in keys[1::2]:
        ordered.evict()
    assert set(ordered.exact) == set(keys[::2])


def test_entries_are_evicted_in_turn_where_all_are_used_alike() -> None:
    ordered = OrderedTable()
    for _ in range(1_000):
        ordered.add()
    for _ in range(20_000):
        ordered.use(next(iter(ordered.exact)))
    ranks = []
    for _ in range(3_000):
        ranks.append(ordered.evict())
        ordered.add()
    assert max(ranks) <= 1_000 // 16


@fewer_examples(4)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 400), st.integers(1, 40)), max_size=8))
def test_evicted_entry_is_among_the_least_recently_used(
    phases: list[tuple[int, int, int]],
) -> None:
    """At most an eighth of all entries were used less recently."""
    ordered = OrderedTable()
    for _ in range(400):
        ordered.add()
    for added, uses, stride in phases:
        for _ in range(400):  # as many as replace all entries: the periods of epochs adapt
            ordered.add()
            ordered.evict()
        ranks = []
        for turn in range(added * 5):
            keys = list(ordered.exact)
            for use in range(uses // 40):
                ordered.use(keys[(turn + use * stride) % len(keys)])
            ordered.add()
            ranks.append(ordered.evict())
        assert max(ranks) <= 400 // 8


def test_epochs_are_longer_in_a_large_store() -> None:
    ordered = OrderedTable()
    for _ in range(20_000):
        ordered.add()
    epochs = {epoch for each in ordered.table._segments.all for epoch in each.epochs}
    assert 32 <= len(epochs) <= 128
