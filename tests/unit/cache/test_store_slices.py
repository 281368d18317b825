"""Work on many entries takes effect at once and is done in slices."""

from __future__ import annotations

import pytest

from goproxyai.cache import invalidation_index, segments
from goproxyai.cache.entry import OwnerBucket
from goproxyai.cache.expiry_wheel import SLOTS_PER_SECOND, WHEEL_SLOTS
from tests.unit.cache.stored import ALICE, FILES, TTL, large_store, numbered, put


@pytest.mark.parametrize("spread", [False, True], ids=["one path", "many paths"])
def test_write_of_an_owner_with_many_entries_removes_them_in_slices(
    spread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidation_index, "MAX_BUCKET_ENTRIES", 300)
    store = large_store()
    for n in range(1000):
        put(store, numbered(n), b"/v1/files/%d" % n if spread else FILES)
    full = store.bytes
    store.invalidate(ALICE)
    assert full * 0.8 < store.bytes < full, "the entries were removed at once"
    assert all(store.get(b"%032d" % n, 0.0) is None for n in range(500))
    assert list(store) == []
    again = numbered(999, b"new")
    assert put(store, again)
    slices = 0
    while store.remove_expired(0.0, 50):
        slices += 1
    assert list(store) == [again]
    assert store.get(again.key, 0.0) is again
    assert slices >= 1
    store.clear()
    assert store.bytes == 0


def test_dropped_entry_that_is_still_stored_is_not_returned() -> None:
    store = large_store()
    for n in range(1000):
        put(store, numbered(n))
    store.clear(FILES)
    stored = store._entries.entries()
    assert stored, "all entries were removed at once"
    assert store.get(stored[0].key, 0.0) is None
    assert len(store) == len(stored) - 1


@pytest.mark.parametrize("spread", [False, True], ids=["one bucket", "many buckets"])
def test_cleared_entries_are_freed_in_slices_and_bodies_first(spread: bool) -> None:
    store = large_store()
    buckets, entries = [], []
    for n in range(500):
        one = numbered(n, b"body", ttl=TTL + n)
        put(store, one, b"/v1/%d" % n if spread else FILES)
        buckets.append(one.bucket)
        entries.append(one)
    store.clear()
    assert (len(store), store.bytes) == (0, 0)
    slices = 0
    while any(one.body for one in entries):
        assert store.free_cleared(50)
        slices += 1
    assert slices <= 1000 // 50 + 1, "bodies are freed first"
    while store.free_cleared(50):
        slices += 1
    assert slices >= 10
    assert not any(buckets), "a reference cycle is left"


def test_clearing_a_path_of_many_owners_removes_entries_in_slices() -> None:
    store = large_store()
    for n in range(1000):
        put(store, numbered(n), FILES, b"%016d" % n)
    store.clear(FILES)
    assert list(store) == []
    for n in range(1000):
        assert store.get(b"%032d" % n, 0.0) is None
    slices = 0
    while store.remove_expired(0.0, 50):
        slices += 1
    assert slices >= 1000 // 50 - 5
    assert store.bytes == 0


def test_chain_of_full_buckets_is_freed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invalidation_index, "MAX_BUCKET_ENTRIES", 10)
    store = large_store()
    buckets: list[OwnerBucket] = []
    for n in range(100):
        one = numbered(n)
        put(store, one)
        assert one.bucket is not None
        if one.bucket not in buckets[-1:]:
            buckets.append(one.bucket)
    store.clear()
    while store.free_cleared(5):
        pass
    assert not any(buckets), "a bucket was freed with the bucket that refers to it"
    assert len(buckets) == 10


def test_put_frees_cleared_entries_as_fast_as_it_adds_entries() -> None:
    store = large_store()
    for n in range(500):
        put(store, numbered(n))
    store.clear()
    for n in range(500):
        put(store, numbered(n))
    assert not store.free_cleared(1)


def test_clearing_includes_entries_that_a_write_dropped() -> None:
    store = large_store()
    for n in range(500):
        put(store, numbered(n))
    store.invalidate(ALICE)
    store.clear()
    assert put(store, numbered(1))
    while store.free_cleared() or store.remove_expired(0.0):
        pass
    assert len(list(store)) == len(store) == 1


def test_remove_expired_visits_each_slot_once_within_its_budget() -> None:
    store = large_store()
    put(store, numbered(1))
    put(store, numbered(2, ttl=86_400.0))
    slices = 0
    while store.remove_expired(TTL + 3600.0, 10):
        slices += 1
    assert WHEEL_SLOTS // 10 <= slices <= WHEEL_SLOTS // 10 + 1
    assert len(store) == 1


def test_entries_that_stay_count_towards_the_budget() -> None:
    store = large_store()
    turn = WHEEL_SLOTS / SLOTS_PER_SECOND
    for n in range(800):  # all of them are in one slot of the wheel
        put(store, numbered(n, ttl=turn if n % 2 else 2 * turn))
    slices = 0
    while store.remove_expired(turn + 1.0, 50):
        slices += 1
    assert slices >= 400 // 50
    assert len(store) == 400
    while store.remove_expired(2 * turn + 1.0, 50):
        pass
    assert len(store) == 0


def test_entries_that_expire_late_are_found_in_any_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ENTRIES", 8)
    store = large_store()
    for n in range(100):
        put(store, numbered(n, ttl=1.0 + n % 5 * 100))
    for passed in (2.0, 102.0, 202.0, 302.0, 402.0):
        while store.remove_expired(passed, 3):
            store.get(b"%032d" % 99, passed)
        assert len(store) == sum(one.expires_at > passed - 1 for one in store)
        assert all(one.expires_at > passed - 1 for one in store)
    assert len(store) == 0
