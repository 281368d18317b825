"""The entries by the time at which they are removed: a timing wheel with slots of half a second.

The wheel has 256 slots. The number of an entry's slot is a byte in its :class:`~.entry.Segment`, so
that the wheel takes one byte an entry. A slot is visited every 128 seconds, and the entries that
expire in a later turn stay.
"""

from __future__ import annotations

from typing import Final

from goproxyai.cache.entry import Entry
from goproxyai.cache.segments import Segments

SLOTS_PER_SECOND: Final = 2
"""An entry is removed at most 1/SLOTS_PER_SECOND seconds late."""

WHEEL_SLOTS: Final = 256

_KEPT_PER_STEP: Final = 8
"""Entries that stay, and that are looked at in the time of one removal."""


class ExpiryWheel:
    """Finds the entries that are due.

    :param segments: the entries.
    :param stale_seconds: time for which an expired entry is kept.
    """

    __slots__ = ("_cursor", "_first", "_position", "_removals", "_segments", "_stale_seconds")

    def __init__(self, segments: Segments, stale_seconds: float) -> None:
        self._segments = segments
        self._stale_seconds = stale_seconds
        self._first = 0  # the slot that is visited next, counted from the start of the clock
        self._cursor = 0  # earlier segments were visited
        self._position = 0  # earlier entries of the segment were visited
        self._removals = 0  # of the segments, if no entry was moved since the last visit

    def _number_of(self, entry: Entry) -> int:
        due_at = entry.stored_at + entry.lifetime + self._stale_seconds
        return int(due_at * SLOTS_PER_SECOND)

    def slot_of(self, entry: Entry) -> int:
        """Return the slot of an entry that is going to be added, a byte."""
        number = self._number_of(entry)
        if not self._segments.count or number <= self._first:
            self._first, self._cursor, self._position = number, 0, 0
        return number % WHEEL_SLOTS

    def has_due(self, now: float) -> bool:
        """Whether slots before *now* are left to be visited."""
        return self._segments.count > 0 and self._first < int(now * SLOTS_PER_SECOND)

    def next_due(self, now: float) -> tuple[Entry | None, int]:
        """Visit a segment up to the next entry that is due, or to its end.

        :meth:`has_due` must be true.

        :returns: the entry, which the caller removes, and the steps that finding it took.
        """
        end = int(now * SLOTS_PER_SECOND)
        if self._first < end - WHEEL_SLOTS:  # one turn visits all slots
            self._first, self._cursor, self._position = end - WHEEL_SLOTS, 0, 0
        if self._segments.removals != self._removals:
            self._position = 0
        self._removals = self._segments.removals
        segment = self._segments.all[self._cursor]
        slot, kept = self._first % WHEEL_SLOTS, 0
        while (position := segment.expiries.find(slot, self._position)) >= 0:
            entry = segment.entries[position]
            if self._number_of(entry) < end:
                self._position = position  # the entry that takes its place is visited next
                self._removals += 1
                return entry, 1 + kept // _KEPT_PER_STEP
            self._position = position + 1
            kept += 1
        self._position = 0
        self._cursor += 1
        if self._cursor >= len(self._segments.all):
            self._cursor = 0
            self._first += 1
        return None, 1 + kept // _KEPT_PER_STEP
