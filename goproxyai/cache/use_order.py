"""The order of use: an approximation of "least recently used".

1. Time is counted in uses and divided into epochs. An entry has the number of the epoch of its last
   use, one byte in its :class:`~.entry.Segment`. Noting a use writes that byte and moves nothing:
   a linked list of entries would touch three entries with each use. A repeated use in one epoch
   counts once.
2. An entry of the oldest epoch is evicted first. Entries of one epoch are in no particular order.
   So an entry is never evicted before another one that was used last in an earlier epoch.
3. There are at most :data:`EPOCHS`. When they are used up, the numbers are shifted down. If more
   than half of them have entries, pairs of epochs are merged, and an epoch takes twice as many uses
   from then on. If there are few when entries are evicted, epochs become shorter. So an evicted
   entry is usually among the 1/32 of the entries that were used least recently, and among 1/8 of
   them after the pattern of uses has changed. The order is exact in a store in which fewer than 64
   uses lie between the last use of an entry and its eviction.
4. A shift takes 3 ms at most for a million entries, and is done after thousands of uses
   (:data:`_EPOCHS_IN_STORE`).
"""

from __future__ import annotations

from typing import Final

from goproxyai.cache.entry import Entry
from goproxyai.cache.segments import Segments

EPOCHS: Final = 128
"""To search all epochs of a million entries, and to find none, takes 4 ms."""

_MIN_EPOCHS: Final = 32
_EPOCHS_IN_STORE: Final = 1024
"""An epoch has at least this part of the number of entries as uses."""


class UseOrder:
    """Finds the least recently used entry.

    :ivar epoch: the number of the present epoch.
    :ivar left: uses until the end of the epoch.
    """

    __slots__ = ("_cursor", "_oldest", "_period", "_segments", "epoch", "left")

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self.start()

    def start(self) -> None:
        """Begin with an empty store."""
        self._oldest = 0  # no entry was used last in an earlier epoch
        self._cursor = 0  # no earlier segment has an entry of the oldest epoch
        self._period = 1  # uses in an epoch
        self.epoch = 0
        self.left = 1

    def next_epoch(self) -> None:
        """Begin the next epoch with a use. The epochs of the segments may be replaced."""
        if self.epoch == EPOCHS - 1:
            self._shift()
        self.epoch += 1
        self._period = max(self._period, self._segments.count // _EPOCHS_IN_STORE)
        self.left = self._period - 1

    def _shift(self) -> None:
        """Free a quarter of the epochs or more."""
        free = EPOCHS // 4
        while self._oldest < free and self._in_oldest() is None:
            self._cursor = 0
            self._oldest += 1
        oldest = self._oldest
        halve = oldest < free and self.epoch - oldest >= EPOCHS // 2
        table = bytes([max(0, number - oldest) >> halve for number in range(256)])
        for segment in self._segments.all:
            segment.epochs = segment.epochs.translate(table)
        self.epoch = table[self.epoch]
        self._oldest = self._cursor = 0
        if halve:
            self._period *= 2

    def least_recently_used(self) -> Entry | None:
        """Return an entry of the oldest epoch; ``None`` if there is none."""
        segments = self._segments
        if not segments.count:
            return None
        while (entry := self._in_oldest()) is None:
            self._leave_oldest()
        return entry

    def _in_oldest(self) -> Entry | None:
        """Return an entry of the oldest epoch, if it has one."""
        segments = self._segments.all
        for cursor in range(self._cursor, len(segments)):
            slot = segments[cursor].epochs.find(self._oldest)
            if slot >= 0:
                self._cursor = cursor
                return segments[cursor].entries[slot]
        return None

    def _leave_oldest(self) -> None:
        """The oldest epoch has no entries; another entry may not be put into it."""
        self._cursor = 0
        self._oldest += 1
        if self.epoch - self._oldest < _MIN_EPOCHS:
            self._period = max(1, self._period // 2)
            self.left = min(self.left, self._period)
        if self._oldest == self.epoch:
            self.next_epoch()  # tell the entries that are used from now on from the others
