"""The cache: entries in memory, bounded in bytes, the least recently used evicted first.

1. A stored entry is in two containers: the :class:`~.entry_table.EntryTable` and the
   :class:`~.invalidation_index.InvalidationIndex`. An entry that is not stored is in neither.
2. Memory bound: :attr:`Store.bytes`, which counts texts, containers and overhead, plus
   :attr:`Store.reserved`, the bodies that are being recorded, never exceeds ``max_bytes``. After
   :meth:`Store.resize` to a smaller bound, the sum does not grow until it is below the bound.
   Cleared entries are no longer counted; :meth:`Store.put` frees at least as many as it adds.
3. No call takes long. Clearing the store and invalidating an owner take effect at once, and their
   entries are removed in slices by :meth:`Store.remove_expired` and :meth:`Store.free_cleared`.
   Room for a large response is made with each read of it (:meth:`Store.reserve`), so that storing
   the response does not evict a thousand small entries at once.
4. Expiry is in seconds of a monotonic clock (``now``). Whether a response is outdated is decided by
   generations, see :mod:`.write_log`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from goproxyai.cache.deferred_free import DeferredFree
from goproxyai.cache.entry import Entry
from goproxyai.cache.entry_table import EntryTable
from goproxyai.cache.invalidation_index import (
    BUCKET_OVERHEAD_BYTES,
    GROUP_OVERHEAD_BYTES,
    PATH_OVERHEAD_BYTES,
    InvalidationIndex,
)
from goproxyai.cache.write_log import WriteLog

_MAX_CONTAINER_BYTES: Final = BUCKET_OVERHEAD_BYTES + PATH_OVERHEAD_BYTES + GROUP_OVERHEAD_BYTES
"""The most that the containers grow by for one entry, besides the length of its path."""

_FREED_PER_PUT = 8
_REMOVED_PER_INVALIDATION = 64


class RemovalListener(Protocol):
    """Is told of entries that leave the store."""

    def entry_removed(self, entry: Entry) -> None:
        """An entry has been removed."""

    def cache_cleared(self) -> None:
        """All entries have been dropped at once."""


class Store:
    """The entries of the cache.

    :param max_bytes: the memory bound; 0 stores nothing.
    :param stale_seconds: time for which an expired entry is kept.
    :param removals: is told of removed entries.
    :ivar max_entry_bytes: the largest size of an entry: a tenth of the bound.
    :ivar bytes: memory of the entries and containers.
    :ivar reserved: memory of the responses that are being recorded.
    :ivar stores: entries stored since the start.
    :ivar evictions: entries removed to make room since the start.
    :ivar expirations: expired entries removed since the start.
    """

    __slots__ = (
        "_bound", "_cleared", "_entries", "_index", "_removals", "_writes", "bytes", "evictions",
        "expirations", "max_bytes", "max_entry_bytes", "reserved", "stale_seconds", "stores",
    )  # fmt: skip

    def __init__(
        self,
        max_bytes: int,
        stale_seconds: float = 0.0,
        removals: RemovalListener | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.max_entry_bytes = max_bytes // 10
        self.stale_seconds = stale_seconds
        self.bytes = 0
        self.reserved = 0
        self.stores = 0
        self.evictions = 0
        self.expirations = 0
        self._removals = removals
        self._bound = max_bytes  # above max_bytes only while the store shrinks
        self._entries = EntryTable(stale_seconds)
        self._index = InvalidationIndex()
        self._writes = WriteLog()
        self._cleared = DeferredFree()

    def __len__(self) -> int:
        """The number of entries, including dropped ones that are still to be removed."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """The entries, least recently used first, without dropped ones."""
        return iter([entry for entry in self._entries.entries() if not entry.is_dropped])

    def get(self, key: bytes, now: float) -> Entry | None:
        """Return the entry, now the most recently used.

        The entry may be expired by less than ``stale_seconds``.
        """
        entry = self._entries.use(key)
        if entry is None:
            return None
        if entry.stored_at + entry.lifetime + self.stale_seconds <= now:
            self._remove(entry)
            self.expirations += 1
            return None
        if self._index.pending and entry.is_dropped:
            self._remove(entry)
            return None
        return entry

    def peek(self, key: bytes, now: float) -> Entry | None:
        """Return the entry that :meth:`get` would return, without using or removing it."""
        entry = self._entries.find(key)
        if entry is None or entry.is_dropped:
            return None
        expired = entry.stored_at + entry.lifetime + self.stale_seconds <= now
        return None if expired else entry

    def generation(self) -> int:
        """The generation to note when a request is sent, for :meth:`put`."""
        return self._writes.generation

    def is_outdated(self, owner: bytes, generation: int) -> bool:
        """Whether a write of *owner* or a clearing happened after *generation*."""
        return self._writes.is_outdated(owner, generation)

    def put(self, entry: Entry, path: bytes, owner: bytes, generation: int) -> bool:
        """Store an entry; an entry of the same key is replaced.

        :param path: without the query and without trailing slashes.
        :param owner: the credential whose writes invalidate the entry, or
            :data:`~.write_log.UNOWNED`.
        :param generation: the :meth:`generation` when the request was sent.
        :returns: ``False`` if the entry is too large or outdated.
        """
        size = entry.size
        if size > self.max_entry_bytes or self._writes.is_outdated(owner, generation):
            return False
        if self._cleared.pending:
            self._cleared.free(_FREED_PER_PUT)
        previous = self._entries.find(entry.key)
        if previous is not None:
            self._remove(previous)
        if not self._make_room(size + len(path) + _MAX_CONTAINER_BYTES):
            return False
        self._entries.add(entry)
        self.bytes += size + self._index.add(entry, path, owner)
        self.stores += 1
        return True

    def _make_room(self, count: int) -> bool:
        """Evict entries until *count* more bytes are within the bound; ``False`` if impossible."""
        limit = self._bound - self.reserved - count
        while self.bytes > limit:
            entry = self._entries.least_recently_used()
            if entry is None:
                return False
            self._remove(entry)
            self.evictions += 1
        return True

    def _remove(self, entry: Entry) -> None:
        self._entries.remove(entry)
        self.bytes -= entry.size + self._index.remove(entry)
        if self._removals is not None:
            self._removals.entry_removed(entry)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Drop the entries of *keys* that are in the store."""
        for key in keys:
            entry = self._entries.find(key)
            if entry is not None:
                self._remove(entry)

    def invalidate(self, owner: bytes) -> None:
        """Record a successful write: drop the owner's entries, refuse responses in flight."""
        self._writes.record_write(owner)
        self._index.drop_owner(owner)
        self._remove_dropped(_REMOVED_PER_INVALIDATION)

    def clear(self, path: bytes | None = None) -> None:
        """Drop all entries, or those of *path*, and refuse responses in flight.

        :param path: without the query; entries with any query are dropped.
        """
        self._writes.record_clearing()
        if path is not None:
            self._index.drop_path(path.rstrip(b"/"))
            self._remove_dropped(_REMOVED_PER_INVALIDATION)
        elif self._entries:
            # The table of entries is freed first: the entries hold the bodies.
            containers = [*self._index.detach(), *self._entries.detach()]
            self._cleared.add(containers)
            self.bytes = 0
            if self._removals is not None:
                self._removals.cache_cleared()

    def _remove_dropped(self, budget: int) -> int:
        """Remove dropped entries in at most *budget* steps; return the steps that are left."""
        while self._index.pending and budget > 0:
            budget -= 1
            entry, freed = self._index.next_dropped()
            self.bytes -= freed
            if entry is not None:
                self._remove(entry)
        return budget

    def remove_expired(self, now: float, budget: int = 100) -> bool:
        """Remove dropped entries, and entries that expired more than ``stale_seconds`` ago.

        :param budget: steps of some microseconds each.
        :returns: whether there are more to remove.
        """
        budget = self._remove_dropped(budget)
        wheel = self._entries.wheel
        while budget > 0 and wheel.has_due(now):
            entry, steps = wheel.next_due(now)
            budget -= steps
            if entry is not None:
                self._remove(entry)
                self.expirations += 1
        return bool(self._index.pending) or wheel.has_due(now)

    def free_cleared(self, budget: int = 100) -> bool:
        """Free the memory of cleared entries, at most *budget* items.

        :returns: whether there is more to free.
        """
        return self._cleared.free(budget)

    def resize(self, max_bytes: int) -> None:
        """Set another bound; if it is smaller, :meth:`evict_excess` evicts the excess."""
        self.max_bytes = max_bytes
        self.max_entry_bytes = max_bytes // 10
        self._bound = max(max_bytes, self.bytes + self.reserved)

    def evict_excess(self, budget: int = 100) -> bool:
        """Evict entries beyond the bound that :meth:`resize` set, at most *budget*.

        :returns: whether there are more to evict.
        """
        if self._bound == self.max_bytes:
            return False
        limit = self.max_bytes - self.reserved
        while self._entries and self.bytes > limit and budget > 0:
            entry = self._entries.least_recently_used()
            assert entry is not None, "the store is not empty"
            self._remove(entry)
            self.evictions += 1
            budget -= 1
        self._bound = max(self.max_bytes, self.bytes + self.reserved)
        return bool(self._entries) and self.bytes > limit

    def reserve(self, count: int) -> bool:
        """Reserve memory for *count* more bytes of a response; :meth:`release` gives it back.

        :param count: bytes of one read, so that few entries are evicted at a time.
        :returns: ``False`` if there is no room. At most half of ``max_bytes`` can be reserved, so
            that a few large responses cannot evict all entries.
        """
        if self.reserved + count > self.max_bytes // 2 or not self._make_room(count):
            return False
        self.reserved += count
        return True

    def release(self, count: int) -> None:
        """Give back bytes that :meth:`reserve` granted."""
        self.reserved -= count
