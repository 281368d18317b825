"""The store against a model: a list of entries, least recently used first.

The store's order of use is an approximation. So the model checks that the epochs of the entries
never decrease in the exact order, and that an evicted entry was used in the oldest epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from goproxyai.cache import invalidation_index, segments, use_order
from goproxyai.cache import store as store_module
from goproxyai.cache.entry import Entry, OwnerBucket, OwnerGroup, PathIndex
from goproxyai.cache.expiry_wheel import SLOTS_PER_SECOND, WHEEL_SLOTS
from goproxyai.cache.invalidation_index import (
    BUCKET_OVERHEAD_BYTES,
    GROUP_OVERHEAD_BYTES,
    PATH_OVERHEAD_BYTES,
)
from goproxyai.cache.store import Store
from goproxyai.cache.write_log import UNOWNED
from tests.support.examples import fewer_examples
from tests.unit.cache.stored import ALICE, BOB, FILES, TTL, entry

MAX_BYTES = 60_000
STALE_SECONDS = 30.0


_Chained = TypeVar("_Chained", OwnerBucket, OwnerGroup)


def chain(*newest: _Chained) -> Iterator[_Chained]:
    """The members of chains of full buckets or groups."""
    for one in newest:
        member: _Chained | None = one
        while member is not None:
            yield member
            member = member.previous


def is_due(one: Entry, now: float) -> bool:
    """Whether the slot of *one* has passed, so that the entry is removed."""
    due = int((one.expires_at + STALE_SECONDS) * SLOTS_PER_SECOND)
    return due < int(now * SLOTS_PER_SECOND)


class StoreAgainstModel(RuleBasedStateMachine):
    """The model is a list of entries, and a log of the writes and clearings."""

    KEYS = st.integers(0, 30).map(lambda n: bytes([n % 7]) + b"%031d" % n)
    OWNERS = st.sampled_from([ALICE, BOB, UNOWNED])
    PATHS = st.sampled_from([FILES, b"/v1/files/a", b"/v1/models"])
    counts_dropped = False
    """Whether evictions and expirations may count entries that were dropped before."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(MAX_BYTES, STALE_SECONDS)
        self.now = 1000.0
        self.model: list[Entry] = []
        self.where: dict[Entry, tuple[bytes, bytes]] = {}
        self.log: list[bytes | None] = []  # the owner of each write; None for a clearing
        self.requests: list[tuple[int, int]] = []  # generation and length of the log
        self.stores = self.reserved = 0
        self.removed = 0  # evicted or expired

    def forget(self, entries: Iterable[Entry]) -> int:
        """Remove *entries* from the model; return their number."""
        gone = set(entries)
        self.model = [old for old in self.model if old not in gone]
        return len(gone)

    def forget_evicted(self, epochs: dict[Entry, int]) -> None:
        """Remove evicted entries from the model.

        :param epochs: of all entries before the eviction.
        """
        gone = [old for old in self.model if old.bucket is None]
        self.removed += self.forget(gone)
        if gone and self.model:
            latest = max(epochs[old] for old in gone)
            assert latest <= min(epochs[old] for old in self.model)

    def epochs(self) -> dict[Entry, int]:
        """The epoch of the last use of each entry."""
        return {
            one: epoch
            for segment in self.store._entries._segments.all
            for one, epoch in zip(segment.entries, segment.epochs, strict=True)
        }

    @rule(seconds=st.sampled_from([0.5, 29.9, 60.0, 150.0, 299.5]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def send_request(self) -> None:
        self.requests.append((self.store.generation(), len(self.log)))

    @rule(
        keys=st.lists(KEYS, min_size=1, max_size=8),
        owner=OWNERS,
        path=PATHS,
        length=st.integers(0, 6000),
        ttl=st.sampled_from([TTL, TTL, 1.0, 3600.0]),
        which=st.sampled_from([0, 0, -1, -2]),
    )
    def store_responses(
        self, keys: list[bytes], owner: bytes, path: bytes, length: int, ttl: float, which: int
    ) -> None:
        requests = [(self.store.generation(), len(self.log)), *self.requests[-2:]]
        generation, since = requests[max(which, -len(requests))]
        later = self.log[since:]
        outdated = None in later or (owner != UNOWNED and owner in later)
        assert self.store.is_outdated(owner, generation) is outdated
        for key in keys:
            new = entry(key, b"x" * length, now=self.now, ttl=ttl)
            storable = new.size <= MAX_BYTES // 10 and not outdated
            epochs = self.epochs()
            stored = self.store.put(new, path, owner, generation)
            if storable:
                self.model = [old for old in self.model if old.key != key]
                self.forget_evicted(epochs)
            if stored:
                assert storable
                self.stores += 1
                self.model.append(new)
                self.where[new] = (path, owner)
            elif storable:
                assert not self.model, "an entry could have been evicted"

    @rule(key=KEYS)
    def look_up(self, key: bytes) -> None:
        found = next((old for old in self.model if old.key == key), None)
        if found is not None:
            self.model.remove(found)
            if found.expires_at + STALE_SECONDS <= self.now:
                found = None
                self.removed += 1
            else:
                self.model.append(found)
        assert self.store.get(key, self.now) is found

    @rule(owner=st.sampled_from([ALICE, BOB]))
    def write(self, owner: bytes) -> None:
        hit = [old for old in self.model if self.where[old][1] == owner]
        self.log.append(owner)
        self.store.invalidate(owner)
        self.forget(hit)

    @rule(budget=st.sampled_from([1, 3, 100_000]))
    def remove_expired(self, budget: int) -> None:
        more = self.store.remove_expired(self.now, budget)
        gone = [old for old in self.model if old.bucket is None]
        assert len(gone) <= budget
        assert all(is_due(old, self.now) for old in gone)
        self.removed += self.forget(gone)
        if budget == 100_000:
            assert not more
            assert not [old for old in self.model if is_due(old, self.now)]

    @rule(path=PATHS, rarely=st.integers(0, 2))
    def clear_path(self, path: bytes, rarely: int) -> None:
        if not rarely:
            hit = [old for old in self.model if self.where[old][0] == path]
            self.store.clear(path)
            self.forget(hit)
            self.log.append(None)

    @rule(rarely=st.integers(0, 3))
    def clear(self, rarely: int) -> None:
        if not rarely:  # otherwise the store never fills
            self.store.clear()
            self.forget(self.model)
            self.log.append(None)

    @rule(budget=st.integers(1, 20))
    def free_cleared(self, budget: int) -> None:
        more = self.store.free_cleared(budget)
        assert more is bool(self.store._cleared.pending)

    @rule(count=st.integers(0, MAX_BYTES))
    def reserve(self, count: int) -> None:
        fits = self.reserved + count <= MAX_BYTES // 2
        epochs = self.epochs()
        assert self.store.reserve(count) is fits
        self.forget_evicted(epochs)
        if fits:
            self.reserved += count

    @rule()
    def release(self) -> None:
        self.store.release(self.reserved)
        self.reserved = 0

    @invariant()
    def entries_and_counts_are_those_of_the_model(self) -> None:
        store = self.store
        assert set(store) == set(self.model)
        epochs = self.epochs()
        assert [epochs[one] for one in store] == [epochs[one] for one in self.model]
        assert store.reserved == self.reserved
        assert store.stores == self.stores
        counted = store.evictions + store.expirations
        assert counted == self.removed or (counted > self.removed and self.counts_dropped)

    @invariant()
    def bytes_are_those_of_entries_and_containers_and_within_the_bound(self) -> None:
        store, index = self.store, self.store._index
        assert 0 <= store.bytes <= MAX_BYTES - store.reserved
        entries = store._entries.entries()
        paths = [path for shard in index._shards for path in shard.values()]
        paths += [one for one in index.pending if isinstance(one, PathIndex)]
        groups = [group for shard in index._groups for group in chain(*shard.values())]
        groups += chain(*[one for one in index.pending if isinstance(one, OwnerGroup)])
        assert store.bytes == (
            sum(one.size for one in entries)
            + BUCKET_OVERHEAD_BYTES * len({one.bucket for one in entries})
            + sum(PATH_OVERHEAD_BYTES + len(path.path) for path in paths)
            + GROUP_OVERHEAD_BYTES * len(groups)
        )

    @invariant()
    def shards_and_segments_hold_the_same_entries(self) -> None:
        table = self.store._entries
        entries = table.entries()
        by_key = {key: one for shard in table._shards for key, one in shard.items()}
        assert len(by_key) == len(entries) == len(self.store)
        assert all(by_key[one.key] is one for one in entries)
        found = table._segments
        assert table._segments.count == len(entries)
        with_room = [each for each in found.all if len(each.entries) < segments.SEGMENT_ENTRIES]
        assert set(found._open) == set(with_room)
        assert len(found._open) == len(with_room)
        for segment in found.all:
            for slot, one in enumerate(segment.entries):
                assert one.segment is segment
                assert one.slot == slot
                number = int((one.expires_at + STALE_SECONDS) * SLOTS_PER_SECOND)
                assert segment.expiries[slot] == number % WHEEL_SLOTS
                assert number >= table.wheel._first

    @invariant()
    def index_is_that_of_the_model(self) -> None:
        expected: dict[bytes, dict[bytes, set[Entry]]] = {}
        for old in self.model:
            path, owner = self.where[old]
            expected.setdefault(path, {}).setdefault(owner, set()).add(old)
        found: dict[bytes, dict[bytes, set[Entry]]] = {}
        for shard in self.store._index._shards:
            for path, path_index in shard.items():
                for owner, newest in path_index.items():
                    for bucket in chain(newest):
                        if bucket.group.dropped:
                            assert self.store._index.pending
                            continue
                        assert bucket, "an empty bucket is left"
                        assert all(one.bucket is bucket for one in bucket)
                        assert [one.bucket_index for one in bucket] == list(range(len(bucket)))
                        found.setdefault(path, {}).setdefault(owner, set()).update(bucket)
        assert found == expected

    @invariant()
    def groups_have_the_buckets_of_their_owner(self) -> None:
        expected = {old.bucket for old in self.model}
        found: set[OwnerBucket | None] = set()
        for shard in self.store._index._groups:
            for owner, newest in shard.items():
                for group in chain(newest):
                    assert group, "an empty group is left"
                    assert not group.dropped
                    assert all(one.group is group and one.owner == owner for one in group)
                    found.update(one for one in group if not one.path_index.dropped)
        assert found == expected


class StoreOfSmallPartsAgainstModel(StoreAgainstModel):
    """Buckets, segments and epochs are full soon; an invalidation removes one entry at once."""

    counts_dropped = True

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(invalidation_index, "MAX_BUCKET_ENTRIES", 2)
        self.patch.setattr(segments, "SEGMENT_ENTRIES", 3)
        self.patch.setattr(use_order, "EPOCHS", 6)
        self.patch.setattr(use_order, "_MIN_EPOCHS", 2)
        self.patch.setattr(store_module, "_REMOVED_PER_INVALIDATION", 1)

    def teardown(self) -> None:
        self.patch.undo()


@pytest.mark.unmeasured
@pytest.mark.parametrize("machine", [StoreAgainstModel, StoreOfSmallPartsAgainstModel])
def test_store_behaves_as_the_model(machine: type[StoreAgainstModel]) -> None:
    run_state_machine_as_test(machine, settings=fewer_examples(2, stateful_step_count=50))
