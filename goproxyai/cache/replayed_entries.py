"""The memory of cache entries that are still replayed after the cache has removed them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from goproxyai.cache.entry import Entry
from goproxyai.limits.request_memory import Holding, RequestMemory

MAX_PACED_SHARE = 0.25
"""Share of the budget that such entries may hold; above it, their replays are not paced."""


class Pacing(Protocol):
    """A replay that may be slower than its client."""

    def hurry(self) -> None:
        """Write the rest as fast as the client reads."""


class ReplayedEntries:
    """Counts the entries that clients read slowly and that the cache has removed meanwhile.

    An entry is counted once, however many clients read it, from its removal to the end of its last
    replay. Entries that a write dropped are counted at the next tick. The tick also makes room for
    what was counted: a removal happens within an operation of the store, which must not be entered
    again by the end of a request.
    """

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._holding = Holding(memory)
        self._replays: dict[Entry, set[Pacing]] = {}
        self._removed: dict[Entry, int] = {}  # the bytes that are counted

    def __len__(self) -> int:
        """The number of entries that are being replayed."""
        return len(self._replays)

    def begin(self, entry: Entry, replay: Pacing) -> Callable[[], None]:
        """Note that *replay* reads *entry*; returns what must be called at its end."""
        self._replays.setdefault(entry, set()).add(replay)

        def end() -> None:
            replays = self._replays[entry]
            replays.discard(replay)
            if not replays:
                del self._replays[entry]
                self._holding.hold(self._holding.held - self._removed.pop(entry, 0))

        return end

    def entry_removed(self, entry: Entry) -> None:
        """Count *entry*, which the cache has removed, if it is being replayed."""
        if entry in self._replays and entry not in self._removed:
            self._removed[entry] = entry.size
            self._holding.hold(self._holding.held + entry.size)

    def cache_cleared(self) -> None:
        """Count all entries that are being replayed."""
        for entry in tuple(self._replays):
            self.entry_removed(entry)

    def tick(self, now: float) -> None:
        """Count the entries that were dropped, and act where much is held."""
        for entry in tuple(self._replays):
            if entry.is_dropped:
                self.entry_removed(entry)
        if self._holding.held > self._memory.limit * MAX_PACED_SHARE:
            for entry in tuple(self._removed):
                for replay in tuple(self._replays.get(entry, ())):
                    replay.hurry()
        if self._removed:
            self._memory.make_room()

    def postpone(self, lost: float, now: float) -> None:
        """Do nothing: there are no deadlines."""
