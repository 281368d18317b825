"""The entries by key, in the order of their last use.

The entries are spread over 256 ordered dicts by the first byte of the key. Growing one large dict
of a million entries would stop the reactor for tens of milliseconds; growing a shard takes 1/256 of
that. Each shard is in the order of use, so the least recently used entry of all is the first entry
of one of the shards. A heap of (sequence number, shard) finds that shard.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush, heapreplace
from typing import Any, Final

from goproxyai.cache.entry import Entry

SHARDS: Final = 256


class EntryTable:
    """A dict of entries with constant-time access to the least recently used entry."""

    __slots__ = ("_count", "_heap", "_in_heap", "_shards", "_uses")

    def __init__(self) -> None:
        self._uses = 0
        self._start_empty()

    def _start_empty(self) -> None:
        self._shards: list[OrderedDict[bytes, Entry]] = [OrderedDict() for _ in range(SHARDS)]
        # For each shard: the number of a use that is not later than that of its first entry.
        self._heap: list[tuple[int, int]] = []
        self._in_heap = bytearray(SHARDS)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def entries(self) -> list[Entry]:
        """All entries, unordered."""
        return [entry for shard in self._shards for entry in shard.values()]

    def find(self, key: bytes) -> Entry | None:
        """Return the entry without using it."""
        return self._shards[key[0]].get(key)

    def use(self, key: bytes) -> Entry | None:
        """Return the entry, now the most recently used."""
        shard = self._shards[key[0]]
        entry = shard.get(key)
        if entry is not None:
            shard.move_to_end(key)
            self._uses = entry.last_use = self._uses + 1
        return entry

    def add(self, entry: Entry) -> None:
        """Add an entry of a new key as the most recently used."""
        number = entry.key[0]
        self._shards[number][entry.key] = entry
        self._uses = entry.last_use = self._uses + 1
        if not self._in_heap[number]:
            self._in_heap[number] = 1
            heappush(self._heap, (entry.last_use, number))
        self._count += 1

    def remove(self, entry: Entry) -> None:
        """Remove an entry."""
        del self._shards[entry.key[0]][entry.key]
        self._count -= 1

    def least_recently_used(self) -> Entry | None:
        """Return the entry that was not used for the longest time; ``None`` if there is none."""
        heap = self._heap
        while heap:
            last_use, number = heap[0]
            shard = self._shards[number]
            if not shard:
                heappop(heap)
                self._in_heap[number] = 0
                continue
            first = next(iter(shard.values()))
            if first.last_use == last_use:
                return first
            heapreplace(heap, (first.last_use, number))
        return None

    def detach(self) -> list[Any]:
        """Become empty; return the containers that hold the entries."""
        containers = [self._shards]
        self._start_empty()
        return containers
