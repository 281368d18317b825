"""The cache against a naive model, its races and its arithmetic."""

from __future__ import annotations

import gc
import os
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from goproxyai.policy.headers import Headers
from goproxyai.policy.store import Entry, Store

TTL = 300.0
ROOM = 30_000
ALICE, BOB = b"\0\0alice-alice-al", b"\0\1bob-bob-bob-bo"
HEADERS: Headers = [(b"Content-Type", b"application/json"), (b"x-request-id", b"req_1")]


def entry(
    key: bytes = b"k" * 32,
    body: bytes = b"{}",
    *,
    now: float = 0.0,
    credential: bytes = ALICE,
    path: bytes = b"/v1/files",
    is_get: bool = True,
    headers: Headers = HEADERS,
    age: int = 0,
) -> Entry:
    wall = 1_700_000_000.0 + now
    expires = now + TTL
    return Entry(
        key, 200, b"OK", headers, body, now, wall, expires, age, credential, path, is_get, False
    )


def roomy() -> Store:
    return Store(10_000_000, TTL)


class StoreAgainstModel(RuleBasedStateMachine):
    """The model is a list of entries, least recently used first, and a log of what happened."""

    KEYS = st.integers(0, 30).map(lambda n: b"%032d" % n)
    CREDENTIALS = st.sampled_from([ALICE, BOB])
    PATHS = st.sampled_from([b"/v1/files", b"/v1/files/", b"/v1/files/a", b"/v1/models"])

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(ROOM, TTL)
        self.now = 0.0
        self.model: list[Entry] = []
        self.log: list[bytes | None] = []  # writers, and None for a clearing
        self.tickets: list[tuple[int, int]] = []
        self.stores = self.evictions = self.expirations = self.reserved = 0

    @rule(seconds=st.sampled_from([0.5, 60.0, 150.0, 299.5]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def request_goes_upstream(self) -> None:
        self.tickets.append((self.store.ticket(), len(self.log)))

    @rule(
        keys=st.lists(KEYS, min_size=1, max_size=8),
        credential=CREDENTIALS,
        path=PATHS,
        is_get=st.booleans(),
        length=st.integers(0, 3000),
        which=st.sampled_from([0, 0, -1, -2]),
    )
    def answers_come(
        self,
        keys: list[bytes],
        credential: bytes,
        path: bytes,
        is_get: bool,
        length: int,
        which: int,
    ) -> None:
        tickets = [(self.store.ticket(), len(self.log)), *self.tickets[-2:]]
        ticket, since = tickets[max(which, -len(tickets))]
        overtaken = None in self.log[since:] or (is_get and credential in self.log[since:])
        for key in keys:
            new = entry(
                key, b"x" * length, now=self.now, credential=credential, path=path, is_get=is_get
            )
            stored = self.store.put(new, ticket)
            assert stored is (new.size <= ROOM // 10 and not overtaken)
            if stored:
                self.stores += 1
                self.model = [old for old in self.model if old.key != key]
                while sum(old.size for old in self.model) + new.size > ROOM:
                    del self.model[0]
                    self.evictions += 1
                self.model.append(new)

    @rule(key=KEYS)
    def look_up(self, key: bytes) -> None:
        found = next((old for old in self.model if old.key == key), None)
        if found is not None:
            self.model.remove(found)
            if found.expires_at <= self.now:
                found = None
                self.expirations += 1
            else:
                self.model.append(found)
        assert self.store.get(key, self.now) is found

    @rule(credential=CREDENTIALS, paths=st.lists(PATHS, min_size=1, max_size=3))
    def write_succeeds(self, credential: bytes, paths: list[bytes]) -> None:
        places = {path.rstrip(b"/") for path in paths}
        hit = [
            old
            for old in self.model
            if old.is_get and old.credential == credential and old.path.rstrip(b"/") in places
        ]
        self.log.append(credential)
        self.model = [old for old in self.model if old not in hit]
        assert self.store.invalidate(credential, paths) == len(hit)

    @rule(budget=st.sampled_from([1, 3, 1000]))
    def sweep(self, budget: int) -> None:
        by_expiry = sorted(self.model, key=lambda old: old.expires_at)
        expired = [old for old in by_expiry if old.expires_at <= self.now]
        dropped = self.store.evict_expired(self.now, budget)
        assert dropped == min(budget, len(expired))
        left = [old for old in self.model if old.key in self.store._entries]
        assert len(left) == len(self.model) - dropped
        assert all(old in expired for old in self.model if old not in left)
        self.model = left
        self.expirations += dropped

    @rule(really=st.integers(0, 3))
    def clear(self, really: int) -> None:
        if really:  # seldom, or the store would never fill
            return
        assert self.store.clear() == len(self.model)
        self.log.append(None)
        self.model = []

    @rule(budget=st.integers(1, 20))
    def reclaim(self, budget: int) -> None:
        before = sum(map(len, self.store._retired))
        more = self.store.reclaim(budget)
        assert sum(map(len, self.store._retired)) == max(0, before - budget)
        assert more is (before > budget)

    @rule(count=st.integers(0, ROOM))
    def collect(self, count: int) -> None:
        fits = self.reserved + count <= ROOM
        assert self.store.reserve(count) is fits
        if fits:
            self.reserved += count

    @rule()
    def stop_collecting(self) -> None:
        self.store.release(self.reserved)
        self.reserved = 0

    @invariant()
    def the_store_is_what_the_model_says(self) -> None:
        store = self.store
        assert list(store._entries.values()) == self.model
        assert len(store) == len(self.model)
        assert store.bytes == sum(old.size for old in self.model) <= ROOM
        assert store.reserved == self.reserved
        counted = (store.stores, store.evictions, store.expirations)
        assert counted == (self.stores, self.evictions, self.expirations)

    @invariant()
    def every_order_and_the_index_are_in_step(self) -> None:
        store = self.store
        expiring = list(store._expiring.values())
        assert {old.key for old in expiring} == set(store._entries)
        assert expiring == sorted(expiring, key=lambda old: old.expires_at)
        index: dict[tuple[bytes, bytes], set[bytes]] = {}
        for old in self.model:
            if old.is_get:
                index.setdefault((old.credential, old.path.rstrip(b"/")), set()).add(old.key)
        assert store._index == index


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


# What an entry holds


def test_the_head_is_wire_bytes_without_what_each_reply_says_anew() -> None:
    lines: Headers = [
        (b"Content-Type", b"text/plain"),
        (b"Content-Length", b"2"),
        (b"SET-COOKIE", b"a=b"),
        (b"set-cookie2", b"a=b"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Age", b"7"),
        (b"X-Twice", b"1"),
        (b"x-twice", b""),
    ]
    stored = entry(headers=lines)
    assert stored.head == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Twice: 1\r\nx-twice: \r\n"
    )
    assert stored.headers == [lines[0], lines[6], lines[7]]


HEADER_TEXT = st.binary(max_size=20).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))


@given(st.lists(st.tuples(st.sampled_from([b"A", b"b-C", b"x"]), HEADER_TEXT)))
def test_headers_are_read_back_from_the_head(lines: Headers) -> None:
    assert entry(headers=lines).headers == lines
    assert entry(headers=[]).headers == []


def test_age_counts_from_upstream_and_never_backwards() -> None:
    stored = entry(now=100.0, age=5)
    assert stored.age(100.0) == 5
    assert stored.age(102.9) == 7
    assert stored.age(50.0) == 5


# Bounds


@pytest.mark.parametrize(("most_bytes", "ttl"), [(0, TTL), (10**9, 0.0), (0, 0.0)])
def test_without_room_or_time_nothing_is_stored(most_bytes: int, ttl: float) -> None:
    store = Store(most_bytes, ttl)
    assert not store.put(entry(), store.ticket())
    assert not len(store)


def test_an_answer_of_more_than_a_tenth_is_refused_and_the_old_one_stays() -> None:
    old = entry()
    store = Store(old.size * 10, TTL)
    assert store.put(old, store.ticket())
    assert not store.put(entry(body=b"{ }"), store.ticket())
    assert store.get(old.key, 0.0) is old


def test_the_least_recently_used_goes_first() -> None:
    stored = [entry(b"%032d" % n, b"x" * 200) for n in range(12)]
    store = Store(stored[0].size * 10, TTL)
    for one in stored[:10]:
        assert store.put(one, store.ticket())
    assert store.get(stored[0].key, 0.0) is stored[0]
    for one in stored[10:]:
        assert store.put(one, store.ticket())
    assert [n for n, one in enumerate(stored) if store.get(one.key, 0.0) is None] == [1, 2]
    assert (store.bytes, store.evictions) == (store.most_bytes, 2)


def test_a_sweep_drops_what_has_expired_and_no_more_than_its_budget() -> None:
    store = roomy()
    for n in range(10):
        store.put(entry(b"%032d" % n, now=float(n)), store.ticket())
    assert store.get(b"%032d" % 0, 9.0) is not None  # being used does not make it live longer
    assert store.evict_expired(TTL - 0.1) == 0
    assert store.evict_expired(TTL + 6, budget=4) == 4
    assert store.evict_expired(TTL + 6, budget=4) == 3
    assert store.evict_expired(TTL + 6) == 0
    assert (len(store), store.expirations) == (3, 7)
    assert store.evict_expired(TTL + 9) == 3
    assert (len(store), store.bytes, store._index) == (0, 0, {})


def test_an_entry_lives_up_to_its_expiry_and_not_at_it() -> None:
    store = roomy()
    stored = entry(now=5.0)
    store.put(stored, store.ticket())
    assert store.get(stored.key, 304.9) is stored
    assert store.get(stored.key, 305.0) is None
    assert (len(store), store.bytes, store.expirations) == (0, 0, 1)


def test_what_is_being_collected_may_fill_the_room_to_the_byte() -> None:
    store = Store(100, TTL)
    assert store.reserve(60)
    assert not store.reserve(41)
    assert store.reserve(40)
    assert not store.reserve(1)
    store.release(100)
    assert store.reserved == 0


# Races


def test_a_get_that_a_write_overtook_is_refused() -> None:
    store = roomy()
    early = store.ticket()
    store.invalidate(ALICE, [b"/v1/other"])
    assert not store.put(entry(), early)
    assert store.put(entry(), store.ticket())


def test_a_post_or_another_credential_is_not_overtaken_by_a_write() -> None:
    store = roomy()
    early = store.ticket()
    store.invalidate(ALICE, [])
    assert store.put(entry(b"p" * 32, is_get=False), early)
    assert store.put(entry(b"b" * 32, credential=BOB), early)


def test_credentials_that_share_a_slot_refuse_each_others_gets() -> None:
    store = roomy()
    early = store.ticket()
    store.invalidate(ALICE[:2] + b"somebody else!", [])
    assert not store.put(entry(), early)


def test_whatever_a_clearing_overtook_is_refused() -> None:
    store = roomy()
    early = store.ticket()
    assert store.clear() == 0
    assert not store.put(entry(), early)
    assert not store.put(entry(is_get=False), early)
    assert store.put(entry(), store.ticket())


def test_a_write_spares_posts_and_strangers_and_other_paths() -> None:
    store = roomy()
    spared = [
        entry(b"1" * 32, credential=BOB),
        entry(b"2" * 32, is_get=False),
        entry(b"3" * 32, path=b"/v1/models"),
        entry(b"4" * 32, path=b"/v1/files/a/content"),
    ]
    hit = [entry(b"5" * 32), entry(b"6" * 32), entry(b"7" * 32, path=b"/v1/files/a")]
    for one in spared + hit:
        store.put(one, store.ticket())
    assert store.invalidate(ALICE, [b"/v1/files/a", b"/v1/files", b"/v1"]) == len(hit)
    assert all(store.get(one.key, 0.0) is one for one in spared)
    assert store.bytes == sum(one.size for one in spared)


# Slices


def test_what_was_cleared_is_freed_no_slower_than_entries_come() -> None:
    store = roomy()
    for n in range(500):
        store.put(entry(b"%032d" % n), store.ticket())
    store.clear()
    for n in range(500):
        store.put(entry(b"%032d" % n), store.ticket())
    assert not store.reclaim()


# Arithmetic


@pytest.mark.parametrize("is_get", [True, False])
@pytest.mark.parametrize(
    ("count", "lines", "length"), [(5000, 0, 2), (3000, 20, 300), (1000, 20, 6000), (50, 5, 10**5)]
)
def test_the_bytes_accounted_for_are_close_to_those_in_use(
    is_get: bool, count: int, lines: int, length: int
) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        store = Store(10**12, TTL)
        before = tracemalloc.get_traced_memory()[0]
        for n in range(count):
            store.put(
                entry(
                    os.urandom(32),
                    os.urandom(length),
                    now=n / 7,
                    credential=os.urandom(16),
                    path=b"/v1/files/%020d" % n,
                    is_get=is_get,
                    headers=[(b"X-Header-%d" % i, b"v" * 40) for i in range(lines)],
                ),
                store.ticket(),
            )
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert store.bytes / 1.3 < grown < store.bytes * 1.3
