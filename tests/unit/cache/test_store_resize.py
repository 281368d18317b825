"""A change of the store's size while entries exist."""

from __future__ import annotations

from goproxyai.cache.store import Store
from tests.unit.cache.test_store import numbered, put


def test_smaller_store_drops_the_surplus_in_slices_and_does_not_grow() -> None:
    store = Store(1_000_000)
    for number in range(400):
        put(store, numbered(number))
    before, count = store.bytes, len(store)
    store.resize(before // 4)
    assert (len(store), store.max_entry_bytes) == (count, before // 40)
    while store.evict_excess(10):
        assert count - 10 <= len(store) <= count
        assert store.bytes <= before
        put(store, numbered(1000 + len(store)))  # a put drops as much as it adds, not the surplus
        assert store.bytes <= before
        count = len(store)
    assert store.bytes <= store.max_bytes == before // 4
    put(store, numbered(9999))
    assert store.bytes <= store.max_bytes
    assert store.get(b"%032d" % 9999, 0.0) is not None


def test_smaller_store_waits_for_reserved_bytes() -> None:
    store = Store(100_000)
    assert store.reserve(40_000)
    store.resize(10_000)
    assert not store.evict_excess()
    assert not store.reserve(1)
    store.release(40_000)
    assert not store.evict_excess()
    assert put(store, numbered(1), b"/v1/a") is False or store.bytes <= 10_000
    assert store.reserve(4_000)
    assert not store.reserve(2_000)


def test_larger_store_keeps_all_entries_and_takes_more() -> None:
    store = Store(50_000)
    for number in range(200):
        put(store, numbered(number))
    count = len(store)
    store.resize(500_000)
    assert not store.evict_excess()
    for number in range(200, 400):
        put(store, numbered(number))
    assert len(store) == count + 200
