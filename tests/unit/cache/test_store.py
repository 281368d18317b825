"""The cache against a naive model, its races and its arithmetic."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from goproxyai.cache import store as store_module
from goproxyai.cache.store import SLOTS_PER_SECOND, UNOWNED, Entry, OwnerBucket, Store

TTL = 300.0
ROOM = 60_000
ALICE, BOB = b"\0\0alice-alice-al", b"\0\1bob-bob-bob-bo"
FILES = b"/v1/files"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_1\r\n"
OVERHEAD = 2_000
"""More than what leads to one entry takes."""


def entry(
    key: bytes = b"k" * 32,
    body: bytes = b"{}",
    *,
    now: float = 0.0,
    ttl: float = TTL,
    head: bytes = HEAD,
    age: int = 0,
    timing: bytes | None = None,
) -> Entry:
    return Entry(key, 200, head, body, now, now + ttl, age, timing)


def numbered(number: int, body: bytes = b"{}", **more: float) -> Entry:
    return entry(b"%032d" % number, body, **more)  # type: ignore[arg-type]


def put(store: Store, one: Entry, path: bytes = FILES, owner: bytes = ALICE) -> bool:
    return store.put(one, path, owner, store.generation())


def roomy(stale_seconds: float = 0.0) -> Store:
    return Store(10_000_000, stale_seconds)


def swept(store: Store, now: float, budget: int = 1000) -> int:
    """How many one sweep drops."""
    before = len(store)
    store.remove_expired(now, budget)
    return before - len(store)


def due(one: Entry, now: float, stale_seconds: float = 0.0) -> bool:
    """Whether a sweep drops it: it is past by a whole slot."""
    return int((one.expires_at + stale_seconds) * SLOTS_PER_SECOND) < int(now * SLOTS_PER_SECOND)


class StoreAgainstModel(RuleBasedStateMachine):
    """The model is a list of entries, least recently used first, and a log of what happened."""

    KEYS = st.integers(0, 30).map(lambda n: bytes([n % 7]) + b"%031d" % n)
    OWNERS = st.sampled_from([ALICE, BOB, UNOWNED])
    PATHS = st.sampled_from([FILES, b"/v1/files/a", b"/v1/models"])
    counts_what_is_gone = False

    def __init__(self) -> None:
        super().__init__()
        self.stale_seconds = 30.0
        self.store = Store(ROOM, self.stale_seconds)
        self.now = 1000.0
        self.model: list[Entry] = []
        self.where: dict[Entry, tuple[bytes, bytes]] = {}
        self.log: list[bytes | None] = []  # writers, and None for a clearing
        self.tickets: list[tuple[int, int]] = []
        self.stores = self.reserved = 0
        self.dropped = 0  # evicted and expired

    def forget(self, gone: Iterable[Entry]) -> int:
        """What the model says was dropped by a write, or a clearing."""
        gone = set(gone)
        self.model = [old for old in self.model if old not in gone]
        return len(gone)

    @rule(seconds=st.sampled_from([0.5, 29.9, 60.0, 150.0, 299.5]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def request_goes_upstream(self) -> None:
        self.tickets.append((self.store.generation(), len(self.log)))

    @rule(
        keys=st.lists(KEYS, min_size=1, max_size=8),
        owner=OWNERS,
        path=PATHS,
        length=st.integers(0, 6000),
        ttl=st.sampled_from([TTL, TTL, 1.0, 3600.0]),
        which=st.sampled_from([0, 0, -1, -2]),
    )
    def answers_come(
        self,
        keys: list[bytes],
        owner: bytes,
        path: bytes,
        length: int,
        ttl: float,
        which: int,
    ) -> None:
        tickets = [(self.store.generation(), len(self.log)), *self.tickets[-2:]]
        generation, since = tickets[max(which, -len(tickets))]
        passed = self.log[since:]
        is_outdated = None in passed or (owner != UNOWNED and owner in passed)
        assert self.store.is_outdated(owner, generation) is is_outdated
        for key in keys:
            new = entry(key, b"x" * length, now=self.now, ttl=ttl)
            stored = self.store.put(new, path, owner, generation)
            if is_outdated or new.size > ROOM // 10:
                assert not stored
            if new.size <= ROOM // 10 and not is_outdated:
                self.model = [old for old in self.model if old.key != key]
                while self.model and self.model[0].bucket is None:  # dropped to make room
                    del self.model[0]
                    self.dropped += 1
            if stored:
                self.stores += 1
                self.model.append(new)
                self.where[new] = (path, owner)
            elif new.size <= ROOM // 10 and not is_outdated:
                assert not self.model, "there was something to make room with"

    @rule(key=KEYS)
    def look_up(self, key: bytes) -> None:
        found = next((old for old in self.model if old.key == key), None)
        if found is not None:
            self.model.remove(found)
            if found.expires_at + self.stale_seconds <= self.now:
                found = None
                self.dropped += 1
            else:
                self.model.append(found)
        assert self.store.get(key, self.now) is found

    @rule(owner=st.sampled_from([ALICE, BOB]), paths=st.lists(PATHS, max_size=3))
    def write_succeeds(self, owner: bytes, paths: list[bytes]) -> None:
        hit = [old for old in self.model if self.where[old] in [(path, owner) for path in paths]]
        self.log.append(owner)
        slashed = [path + b"/" * (n % 2) for n, path in enumerate(paths)]
        self.store.invalidate(owner, slashed)
        self.forget(hit)

    @rule(budget=st.sampled_from([1, 3, 100_000]))
    def remove_expired(self, budget: int) -> None:
        more = self.store.remove_expired(self.now, budget)
        gone = [old for old in self.model if old.bucket is None]
        assert len(gone) <= budget
        assert all(due(old, self.now, self.stale_seconds) for old in gone)
        self.dropped += self.forget(gone)
        if budget == 100_000:
            assert not more
            assert not [old for old in self.model if due(old, self.now, self.stale_seconds)]

    @rule(path=PATHS, really=st.integers(0, 2))
    def clear_a_part(self, path: bytes, really: int) -> None:
        if not really:
            hit = [old for old in self.model if self.where[old][0] == path]
            self.store.clear(path)
            self.forget(hit)
            self.log.append(None)

    @rule(really=st.integers(0, 3))
    def clear(self, really: int) -> None:
        if not really:  # seldom, or the store would never fill
            self.store.clear()
            self.forget(self.model)
            self.log.append(None)

    @rule(budget=st.integers(1, 20))
    def free_cleared(self, budget: int) -> None:
        more = self.store.free_cleared(budget)
        assert more is bool(self.store._pending_free)

    @rule(count=st.integers(0, ROOM))
    def collect(self, count: int) -> None:
        fits = self.reserved + count <= ROOM // 2
        assert self.store.reserve(count) is fits
        while self.model and self.model[0].bucket is None:
            del self.model[0]
            self.dropped += 1
        if fits:
            self.reserved += count

    @rule()
    def stop_collecting(self) -> None:
        self.store.release(self.reserved)
        self.reserved = 0

    @invariant()
    def the_store_is_what_the_model_says(self) -> None:
        store = self.store
        assert list(store) == self.model
        assert store.reserved == self.reserved
        assert store.stores == self.stores
        counted = store.evictions + store.expirations
        assert counted == self.dropped or (counted > self.dropped and self.counts_what_is_gone)

    @invariant()
    def the_bytes_are_those_of_all_there_is_and_within_the_bound(self) -> None:
        store = self.store
        assert 0 <= store.bytes <= ROOM - store.reserved
        if not store._pending_delete:
            entries = sum(old.size for old in self.model)
            assert entries <= store.bytes <= entries + OVERHEAD * len(self.model)

    @invariant()
    def every_order_and_the_index_are_in_step(self) -> None:
        store = self.store
        entries = [one for shard in store._shards for one in shard.values()]
        if not store._pending_delete:
            assert sorted(entries, key=lambda one: one.last_use) == self.model
        on_wheel = [one for slot in store._wheel.values() for one in slot]
        assert len(on_wheel) == len(entries) == len(store)
        assert set(on_wheel) == set(entries)
        for shard in store._shards:
            assert [one.last_use for one in shard.values()] == sorted(
                o.last_use for o in shard.values()
            )
        assert not store._wheel or min(store._wheel) >= store._swept
        index: dict[bytes, dict[bytes, set[Entry]]] = {}
        for old in self.model:
            path, owner = self.where[old]
            index.setdefault(path, {}).setdefault(owner, set()).add(old)
        plain: dict[bytes, dict[bytes, set[Entry]]] = {}
        for shelves in store._index:
            for path, shelf in shelves.items():
                for owner, newest in shelf.items():
                    bucket: OwnerBucket | None = newest
                    while bucket is not None:
                        assert bucket, "an empty place was left"
                        assert all(one.bucket is bucket for one in bucket)
                        plain.setdefault(path, {}).setdefault(owner, set()).update(bucket)
                        bucket = bucket.older
        assert plain == index


class StoreOfSmallPlacesAgainstModel(StoreAgainstModel):
    """The same, where a place is full soon, and little of what is gone is dropped at once."""

    counts_what_is_gone = True

    def __init__(self) -> None:
        super().__init__()
        self.before = store_module.MAX_BUCKET_ENTRIES, store_module._AT_ONCE
        store_module.MAX_BUCKET_ENTRIES, store_module._AT_ONCE = 2, 1  # type: ignore[misc]

    def teardown(self) -> None:
        store_module.MAX_BUCKET_ENTRIES, store_module._AT_ONCE = self.before  # type: ignore[misc]


@pytest.mark.parametrize("machine", [StoreAgainstModel, StoreOfSmallPlacesAgainstModel])
def test_the_store_does_what_the_model_does(machine: type[StoreAgainstModel]) -> None:
    few = settings(max_examples=50, stateful_step_count=50, deadline=None)
    run_state_machine_as_test(machine, settings=few)


# What an entry holds


def test_age_counts_from_upstream_and_never_backwards() -> None:
    stored = entry(now=100.0, age=5)
    assert stored.age(100.0) == 5
    assert stored.age(102.9) == 7
    assert stored.age(50.0) == 5


def test_an_entry_with_a_pace_is_a_stream() -> None:
    assert not entry().is_event_stream
    assert entry(timing=b"").is_event_stream
    assert entry(timing=b"12345678").size == entry().size + 8


# Bounds


def test_without_room_nothing_is_stored() -> None:
    store = Store(0)
    assert not put(store, entry())
    assert not store.reserve(1)
    assert not len(store)


def test_an_answer_of_more_than_a_tenth_is_refused_and_the_old_one_stays() -> None:
    old = entry()
    store = Store(old.size * 10)
    assert put(store, old)
    assert not put(store, entry(body=b"{ }"))
    assert store.get(old.key, 0.0) is old


def test_the_least_recently_used_goes_first() -> None:
    stored = [numbered(n, b"x" * 3000) for n in range(12)]
    store = Store(stored[0].size * 10 + OVERHEAD)
    for one in stored[:10]:
        assert put(store, one)
    assert store.get(stored[0].key, 0.0) is stored[0]
    for one in stored[10:]:
        assert put(store, one)
    assert [n for n, one in enumerate(stored) if store.get(one.key, 0.0) is None] == [1, 2]
    assert store.evictions == 2


def test_collecting_makes_room_a_little_at_a_time() -> None:
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


def test_a_sweep_drops_what_has_expired_and_no_more_than_its_budget() -> None:
    store = roomy()
    for n in range(10):
        put(store, numbered(n, now=float(n)))
    assert store.get(b"%032d" % 0, 9.0) is not None  # being used does not make it live longer
    assert swept(store, TTL) == 0
    assert swept(store, TTL + 6.5, budget=8) == 3
    assert swept(store, TTL + 6.5) == 4
    assert swept(store, TTL + 6.5) == 0
    assert (len(store), store.expirations) == (3, 7)
    assert swept(store, TTL + 9.5) == 3
    assert (len(store), store.bytes, store._wheel, any(store._index)) == (0, 0, {}, False)


def test_each_entry_lives_as_long_as_it_was_given() -> None:
    store = roomy()
    for n, ttl in enumerate([600.0, 1.0, 60.0, 0.1]):
        put(store, numbered(n, ttl=ttl))
    assert [swept(store, now) for now in (1.0, 2.0, 61.0, 599.0, 601.0)] == [1, 1, 1, 0, 1]


def test_an_entry_is_got_until_it_expires_and_kept_while_it_may_be_stale() -> None:
    for stale_seconds in (0.0, 10.0):
        store = roomy(stale_seconds)
        stored = entry(now=5.0)
        put(store, stored)
        assert store.get(stored.key, 304.9) is stored
        assert store.get(stored.key, 304.9 + stale_seconds) is stored
        assert store.get(stored.key, 305.0 + stale_seconds) is None
        assert (len(store), store.bytes, store.expirations) == (0, 0, 1)


def test_what_is_being_collected_may_fill_half_of_the_room_to_the_byte() -> None:
    store = Store(200)
    assert store.reserve(60)
    assert not store.reserve(41)
    assert store.reserve(40)
    assert not store.reserve(1)
    store.release(100)
    assert store.reserved == 0


# Races


def test_a_get_that_a_write_overtook_is_refused() -> None:
    store = roomy()
    early = store.generation()
    store.invalidate(ALICE, [b"/v1/other"])
    assert not store.put(entry(), FILES, ALICE, early)
    assert put(store, entry())


def test_a_post_or_another_owner_is_not_overtaken_by_a_write() -> None:
    store = roomy()
    early = store.generation()
    store.invalidate(ALICE, [])
    assert store.put(entry(b"p" * 32), FILES, UNOWNED, early)
    assert store.put(entry(b"b" * 32), FILES, BOB, early)


def test_owners_that_share_a_slot_refuse_each_others_gets() -> None:
    store = roomy()
    early = store.generation()
    store.invalidate(ALICE[:2] + b"somebody else!", [])
    assert not store.put(entry(), FILES, ALICE, early)


@pytest.mark.parametrize("path", [None, b"/v1/models"])
def test_whatever_a_clearing_overtook_is_refused(path: bytes | None) -> None:
    store = roomy()
    early = store.generation()
    store.clear(path)
    assert not store.put(entry(), FILES, ALICE, early)
    assert not store.put(entry(), FILES, UNOWNED, early)
    assert put(store, entry())


def test_a_write_spares_posts_and_strangers_and_other_paths() -> None:
    store = roomy()
    spared = [
        (numbered(1), FILES, BOB),
        (numbered(2), FILES, UNOWNED),
        (numbered(3), b"/v1/models", ALICE),
        (numbered(4), b"/v1/files/a/content", ALICE),
    ]
    hit = [(numbered(n), FILES if n < 8 else b"/v1/files/a", ALICE) for n in range(5, 10)]
    for one, path, owner in spared + hit:
        put(store, one, path, owner)
    store.invalidate(ALICE, [b"/v1/files/a", b"/v1/files/", b"/v1"])
    assert list(store) == [one for one, _, _ in spared]


def test_clearing_a_path_spares_the_others() -> None:
    store = roomy()
    for n, (path, owner) in enumerate(
        [(FILES, ALICE), (FILES, BOB), (FILES, UNOWNED), (b"/v1/files/a", ALICE)]
    ):
        put(store, numbered(n), path, owner)
    store.clear(b"/v1/files/")
    assert [one.key for one in store] == [b"%032d" % 3]


# Slices


def test_a_write_to_a_path_of_many_takes_effect_at_once_and_is_done_in_slices() -> None:
    store = roomy()
    for n in range(1000):
        put(store, numbered(n))
    full = store.bytes
    store.invalidate(ALICE, [FILES])
    assert full * 0.8 < store.bytes < full, "it was done in one go"
    assert all(store.get(b"%032d" % n, 0.0) is None for n in range(900))
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


@pytest.mark.parametrize("spread", [False, True], ids=["one place", "many places"])
def test_what_was_cleared_is_freed_in_slices(spread: bool) -> None:
    store = roomy()
    places, entries = [], []
    for n in range(500):
        one = numbered(n, b"body", ttl=TTL + n)
        put(store, one, b"/v1/%d" % n if spread else FILES)
        places.append(one.bucket)
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
    assert not any(places), "a cycle is left"


def test_a_path_of_many_owners_is_taken_apart_in_slices() -> None:
    store = roomy()
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


def test_full_places_that_were_cleared_are_freed_in_slices_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "MAX_BUCKET_ENTRIES", 10)
    store = roomy()
    places: list[OwnerBucket] = []
    for n in range(100):
        one = numbered(n)
        put(store, one)
        assert one.bucket is not None
        if one.bucket not in places[-1:]:
            places.append(one.bucket)
    store.clear()
    while store.free_cleared(5):
        pass
    assert not any(places), "what hung on another went with it, in one go"
    assert len(places) == 10


def test_what_was_cleared_is_freed_no_slower_than_entries_come() -> None:
    store = roomy()
    for n in range(500):
        put(store, numbered(n))
    store.clear()
    for n in range(500):
        put(store, numbered(n))
    assert not store.free_cleared(1)


def test_clearing_forgets_what_a_write_left_to_be_swept() -> None:
    store = roomy()
    for n in range(500):
        put(store, numbered(n))
    store.invalidate(ALICE, [FILES])
    store.clear()
    assert put(store, numbered(1))
    while store.free_cleared() or store.remove_expired(0.0):
        pass
    assert len(list(store)) == len(store) == 1


def test_a_long_silence_is_swept_in_slices() -> None:
    store = roomy()
    put(store, numbered(1))
    put(store, numbered(2, ttl=86_400.0))
    slices = 0
    while store.remove_expired(TTL + 3600.0, 100):
        slices += 1
    assert slices >= 3600 * SLOTS_PER_SECOND // 100
    assert len(store) == 1


# Arithmetic


@pytest.mark.parametrize("owner", [ALICE, UNOWNED, None], ids=["one", "posts", "many"])
@pytest.mark.parametrize(
    ("count", "width", "length"),
    [(2000, 60, 2), (1000, 900, 300), (400, 900, 6000), (50, 1, 10**5)],
)
@pytest.mark.parametrize("spread", [False, True], ids=["one path", "many paths"])
def test_the_bytes_accounted_for_are_close_to_those_in_use(
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
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert store.bytes / 1.3 < grown < store.bytes * 1.3
