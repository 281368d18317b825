"""The entries by key, in the order of their last use, and by the time of their expiry.

The entries are spread over 256 dicts by the first byte of the key. Growing one large dict of a
million entries would stop the reactor for tens of milliseconds; growing a shard takes 1/256 of
that.
"""

from __future__ import annotations

from typing import Any, Final

from goproxyai.cache.entry import Entry
from goproxyai.cache.expiry_wheel import ExpiryWheel
from goproxyai.cache.segments import Segments
from goproxyai.cache.use_order import UseOrder

SHARDS: Final = 256


class EntryTable:
    """A dict of entries that finds those that are to be removed first.

    :param stale_seconds: time for which an expired entry is kept.
    :ivar wheel: the entries by the time of their expiry.
    """

    __slots__ = ("_order", "_segments", "_shards", "wheel")

    def __init__(self, stale_seconds: float) -> None:
        self._shards = _empty_shards()
        self._segments = Segments()
        self._order = UseOrder(self._segments)
        self.wheel = ExpiryWheel(self._segments, stale_seconds)

    def __len__(self) -> int:
        return self._segments.count

    def entries(self) -> list[Entry]:
        """All entries, least recently used first."""
        pairs = [
            (epoch, entry)
            for segment in self._segments.all
            for epoch, entry in zip(segment.epochs, segment.entries, strict=True)
        ]
        pairs.sort(key=lambda pair: pair[0])
        return [entry for _, entry in pairs]

    def find(self, key: bytes) -> Entry | None:
        """Return the entry without using it."""
        return self._shards[key[0]].get(key)

    def use(self, key: bytes) -> Entry | None:
        """Return the entry, now one of the most recently used."""
        entry = self._shards[key[0]].get(key)
        if entry is not None:
            order, segment = self._order, entry.segment
            assert segment is not None, "a stored entry is in a segment"
            if segment.epochs[entry.slot] != order.epoch:
                if order.left:
                    order.left -= 1
                else:
                    order.next_epoch()
                segment.epochs[entry.slot] = order.epoch
        return entry

    def add(self, entry: Entry) -> None:
        """Add an entry of a new key as one of the most recently used."""
        order = self._order
        if order.left:
            order.left -= 1
        else:
            order.next_epoch()
        self._shards[entry.key[0]][entry.key] = entry
        self._segments.add(entry, order.epoch, self.wheel.slot_of(entry))

    def remove(self, entry: Entry) -> None:
        """Remove an entry."""
        del self._shards[entry.key[0]][entry.key]
        self._segments.remove(entry)

    def least_recently_used(self) -> Entry | None:
        """Return an entry that was not used for the longest time; ``None`` if there is none."""
        return self._order.least_recently_used()

    def detach(self) -> list[Any]:
        """Become empty; return the containers that hold the entries."""
        containers = [self._segments.detach(), self._shards]
        self._shards = _empty_shards()
        self._order.start()
        return containers


def _empty_shards() -> list[dict[bytes, Entry]]:
    return [{} for _ in range(SHARDS)]
