"""Which keys the second level may have: a table in memory that the parent shares with its workers.

A round trip to the parent takes 0.2 ms, most of it to wake the two processes. A look-up that does
not ask for an exclusive claim needs the round trip only if there may be an entry. So the parent
counts the entries of each hash of a key, and the workers read the counters.

1. A counter is incremented before its entry is stored and decremented after its removal. A counter
   that has reached 255 stays there until the second level is cleared.
2. The generation of the second level (:mod:`goproxyai.cache.write_log`) precedes the counters. A
   worker that finds no entry notes the generation for its response.
3. A counter and the generation are each read and written in one piece. Nothing is locked: a worker
   may see an entry some microseconds late, as it would see a message.

Keys are digests, so their first bytes are a hash.
"""

from __future__ import annotations

from typing import Final

from goproxyai.cache.entry import Entry
from goproxyai.cache.store import Store

COUNTERS: Final = 2**20

GENERATION_BYTES: Final = 8

PRESENCE_BYTES: Final = GENERATION_BYTES + COUNTERS
"""Size of the memory."""

_MAX_COUNT: Final = 255


class KeyPresence:
    """The table.

    :param memory: :data:`PRESENCE_BYTES`, at first zero.
    """

    def __init__(self, memory: memoryview) -> None:
        self._generation = memory[:GENERATION_BYTES].cast("Q")
        self._counters = memory[GENERATION_BYTES:PRESENCE_BYTES]

    @property
    def generation(self) -> int:
        """The generation of the second level."""
        return self._generation[0]

    @generation.setter
    def generation(self, generation: int) -> None:
        self._generation[0] = generation

    def may_have(self, key: bytes) -> bool:
        """Whether there may be an entry of *key*; ``False`` is certain."""
        return self._counters[_place(key)] != 0

    def add(self, key: bytes) -> None:
        place = _place(key)
        self._counters[place] = min(self._counters[place] + 1, _MAX_COUNT)

    def remove(self, key: bytes) -> None:
        place = _place(key)
        count = self._counters[place]
        if 0 < count < _MAX_COUNT:
            self._counters[place] = count - 1

    # RemovalListener of the store.

    def entry_removed(self, entry: Entry) -> None:
        self.remove(entry.key)

    def cache_cleared(self) -> None:
        self._counters[:] = bytes(COUNTERS)


class AnnouncedStore(Store):
    """A store that keeps a :class:`KeyPresence`.

    :param max_bytes: the memory bound.
    """

    __slots__ = ("_presence",)

    def __init__(self, max_bytes: int, presence: KeyPresence) -> None:
        super().__init__(max_bytes, removals=presence)
        self._presence = presence

    def put(self, entry: Entry, path: bytes, owner: bytes, generation: int) -> bool:
        self._presence.add(entry.key)
        stored = super().put(entry, path, owner, generation)
        if not stored:
            self._presence.remove(entry.key)
        return stored

    def invalidate(self, owner: bytes) -> None:
        super().invalidate(owner)
        self._presence.generation = self.generation()

    def clear(self, path: bytes | None = None) -> None:
        super().clear(path)
        self._presence.generation = self.generation()


def _place(key: bytes) -> int:
    return (key[0] | key[1] << 8 | key[2] << 16) % COUNTERS
