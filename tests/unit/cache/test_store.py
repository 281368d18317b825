"""The store: bounds, expiry, outdated responses, and the memory that is accounted for."""

from __future__ import annotations

import gc
import os
import tracemalloc

import pytest

from goproxyai.cache.entry import new_entry
from goproxyai.cache.store import Store
from goproxyai.cache.write_log import UNOWNED
from goproxyai.usage.usage import Usage
from tests.unit.cache.stored import (
    ALICE,
    BOB,
    CONTAINER_BYTES,
    FILES,
    TTL,
    entry,
    large_store,
    numbered,
    put,
)


def removed(store: Store, now: float, budget: int = 1000) -> int:
    """The number of entries that one call of ``remove_expired`` removes."""
    before = len(store)
    store.remove_expired(now, budget)
    return before - len(store)


# Bounds


def test_store_of_zero_bytes_stores_nothing() -> None:
    store = Store(0)
    assert not put(store, entry())
    assert not store.reserve(1)
    assert not len(store)


def test_entry_above_a_tenth_of_the_bound_is_refused_and_old_entry_stays() -> None:
    old = entry()
    store = Store(old.size * 10)
    assert put(store, old)
    assert not put(store, entry(body=b"{ }"))
    assert store.get(old.key, 0.0) is old


def test_least_recently_used_entry_is_evicted_first() -> None:
    stored = [numbered(n, b"x" * 3000) for n in range(12)]
    store = Store(stored[0].size * 10 + CONTAINER_BYTES)
    for one in stored[:10]:
        assert put(store, one)
    assert store.get(stored[0].key, 0.0) is stored[0]
    for one in stored[10:]:
        assert put(store, one)
    assert [n for n, one in enumerate(stored) if store.get(one.key, 0.0) is None] == [1, 2]
    assert store.evictions == 2


def test_reserve_evicts_a_few_entries_at_a_time() -> None:
    store = Store(1_000_000)
    for n in range(2000):
        put(store, numbered(n))
    for _ in range(9):
        before = store.evictions
        assert store.reserve(10_000)
        assert store.evictions - before <= 10_000 // entry().size + 1
    store.release(90_000)
    before = store.evictions
    assert put(store, entry(body=b"x" * 90_000))
    assert store.evictions - before <= 5
    assert store.bytes <= store.max_bytes


def test_reservations_are_limited_to_half_of_the_bound() -> None:
    store = Store(200)
    assert store.reserve(60)
    assert not store.reserve(41)
    assert store.reserve(40)
    assert not store.reserve(1)
    store.release(100)
    assert store.reserved == 0


def test_entry_without_room_besides_reservations_is_not_stored() -> None:
    store = Store(10_000)
    assert store.reserve(5_000)
    assert not put(store, entry(), path=b"/v1/" + b"a" * 5_000)
    assert (len(store), store.bytes) == (0, 0)


# Expiry


def test_remove_expired_stays_within_its_budget() -> None:
    store = large_store()
    for n in range(10):
        put(store, numbered(n, now=float(n)))
    assert store.get(b"%032d" % 0, 9.0) is not None  # a use does not extend the lifetime
    assert removed(store, TTL) == 0
    assert removed(store, TTL + 6.5, budget=8) == 3
    assert removed(store, TTL + 6.5) == 4
    assert removed(store, TTL + 6.5) == 0
    assert (len(store), store.expirations) == (3, 7)
    assert removed(store, TTL + 9.5) == 3
    assert (len(store), store.bytes) == (0, 0)
    assert not any(store._index._shards)
    assert not any(segment.entries for segment in store._entries._segments.all)


def test_entries_expire_after_their_own_lifetime() -> None:
    store = large_store()
    for n, ttl in enumerate([600.0, 1.0, 60.0, 0.1]):
        put(store, numbered(n, ttl=ttl))
    assert [removed(store, now) for now in (1.0, 2.0, 61.0, 599.0, 601.0)] == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("stale_seconds", [0.0, 10.0])
def test_get_returns_an_entry_until_it_expired_and_was_stale(stale_seconds: float) -> None:
    store = large_store(stale_seconds)
    stored = entry(now=5.0)
    put(store, stored)
    assert store.get(stored.key, 304.9) is stored
    assert store.get(stored.key, 304.9 + stale_seconds) is stored
    assert store.get(stored.key, 305.0 + stale_seconds) is None
    assert (len(store), store.bytes, store.expirations) == (0, 0, 1)


# Outdated responses


def test_response_after_a_write_of_its_owner_is_refused() -> None:
    store = large_store()
    early = store.generation()
    store.invalidate(ALICE)
    assert not store.put(entry(), FILES, ALICE, early)
    assert put(store, entry())


def test_response_of_another_owner_or_unowned_survives_a_write() -> None:
    store = large_store()
    early = store.generation()
    store.invalidate(ALICE)
    assert store.put(entry(b"p" * 32), FILES, UNOWNED, early)
    assert store.put(entry(b"b" * 32), FILES, BOB, early)


def test_write_of_a_colliding_owner_refuses_the_response() -> None:
    store = large_store()
    early = store.generation()
    store.invalidate(ALICE[:2] + b"another owner!")
    assert not store.put(entry(), FILES, ALICE, early)


@pytest.mark.parametrize("path", [None, b"/v1/models"])
def test_response_after_a_clearing_is_refused(path: bytes | None) -> None:
    store = large_store()
    early = store.generation()
    store.clear(path)
    assert not store.put(entry(), FILES, ALICE, early)
    assert not store.put(entry(), FILES, UNOWNED, early)
    assert put(store, entry())


def test_write_drops_all_entries_of_its_owner_only() -> None:
    store = large_store()
    kept = [(numbered(1), FILES, BOB), (numbered(2), FILES, UNOWNED)]
    paths = [FILES, b"/v1/files/a/content", b"/v1/batches"]
    dropped = [(numbered(n), paths[n % 3], ALICE) for n in range(5, 10)]
    for one, path, owner in kept + dropped:
        put(store, one, path, owner)
    store.invalidate(ALICE)
    assert list(store) == [one for one, _, _ in kept]


def test_entry_stored_after_a_write_survives_the_removal_of_dropped_entries() -> None:
    store = large_store()
    for n in range(500):
        put(store, numbered(n))
    store.invalidate(ALICE)
    new = [numbered(n) for n in range(1000, 1003)]
    for one in new:
        put(store, one)
    assert store.get(b"%032d" % 1, 0.0) is None
    while store.remove_expired(0.0):
        pass
    assert set(store) == set(new)
    store.invalidate(ALICE)
    assert (len(store), store.bytes) == (0, 0)


def test_clearing_a_path_keeps_other_paths() -> None:
    store = large_store()
    for n, (path, owner) in enumerate(
        [(FILES, ALICE), (FILES, BOB), (FILES, UNOWNED), (b"/v1/files/a", ALICE)]
    ):
        put(store, numbered(n), path, owner)
    store.clear(b"/v1/files/")
    assert [one.key for one in store] == [b"%032d" % 3]


# Memory


@pytest.mark.unmeasured
@pytest.mark.parametrize("owner", [ALICE, UNOWNED, None], ids=["one", "unowned", "many"])
@pytest.mark.parametrize(
    ("count", "width", "length"),
    [(2000, 60, 2), (1000, 900, 300), (400, 900, 6000), (50, 1, 10**5)],
)
@pytest.mark.parametrize("spread", [False, True], ids=["one path", "many paths"])
def test_accounted_bytes_are_within_30_percent_of_allocated_bytes(
    count: int, width: int, length: int, owner: bytes | None, spread: bool
) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        store = Store(10**12)
        before = tracemalloc.get_traced_memory()[0]
        for n in range(count):
            store.put(
                entry(os.urandom(32), os.urandom(length), now=n / 700, head=os.urandom(width)),
                b"/v1/files/%020d" % n if spread else bytes(bytearray(FILES)),
                owner or os.urandom(16),
                store.generation(),
            )
        gc.collect()
        allocated = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert store.bytes / 1.3 < allocated < store.bytes * 1.3


def test_entry_with_usage_takes_at_most_350_bytes_besides_its_texts() -> None:
    count, head, body = 5_000, 300, 600
    gc.collect()
    tracemalloc.start()
    try:
        store = Store(10**12)
        before = tracemalloc.get_traced_memory()[0]
        for n in range(count):
            usage = Usage("gpt-4.1", 1000 + n, 2000 + n, 300, 400)
            key = os.urandom(32)
            one = new_entry(key, 200, b"h" * head, b"b" * body, n / 700, TTL, 0, None, usage)
            store.put(one, FILES, ALICE, store.generation())
        allocated = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert allocated / count - 32 - head - body <= 350
    assert store.bytes / count - 32 - head - body <= 350


# Looking without an effect


def test_peek_returns_what_get_would_return_and_changes_nothing() -> None:
    store = large_store(stale_seconds=10.0)
    one = numbered(1)
    put(store, one)
    assert store.peek(one.key, TTL + 9) is one
    assert store.peek(one.key, TTL + 10) is None
    assert store.peek(b"x" * 32, 0.0) is None
    assert (len(store), store.expirations) == (1, 0)
    store.clear()
    assert store.peek(one.key, 0.0) is None


def test_peek_does_not_use_the_entry() -> None:
    def survivors(look: str) -> list[bytes]:
        store = Store(100_000)
        for number in range(100):
            getattr(store, look)(b"%032d" % 0, 0.0)
            put(store, numbered(number, b"x" * 2_000))
        assert store.evictions
        return [each.key for each in store]

    assert b"%032d" % 0 not in survivors("peek")
    assert b"%032d" % 0 in survivors("get")


def test_dropped_entries_leave_the_store() -> None:
    store = Store(100_000)
    for number in range(3):
        put(store, numbered(number))
    one = store.bytes
    store.drop([b"%032d" % 0, b"%032d" % 2, b"x" * 32])
    assert [each.key for each in store] == [b"%032d" % 1]
    assert store.bytes < one
