"""All entries, in segments of some thousand entries with one byte a column for each entry.

``bytearray.find`` finds the entries with a given byte in a column: 0.1 us for a segment. A segment
is small, so that growing one never takes long, and so that the numbers of slots are shared.
"""

from __future__ import annotations

from typing import Final

from goproxyai.cache.entry import INDEXES, Entry, Segment

SEGMENT_ENTRIES: Final = 4096


class Segments:
    """The segments of a store. An empty segment stays, since it takes few bytes.

    :ivar all: at least one.
    :ivar count: the number of entries.
    :ivar removals: removed entries so far; a removal moves another entry of the segment.
    """

    __slots__ = ("_open", "all", "count", "removals")

    def __init__(self) -> None:
        self.removals = 0
        self._start_empty()

    def _start_empty(self) -> None:
        self.all = [Segment()]
        self._open = self.all.copy()  # segments with room
        self.count = 0

    def add(self, entry: Entry, epoch: int, expiry: int) -> None:
        """Add an entry with the bytes of its columns."""
        if not self._open:
            self._open.append(Segment())
            self.all.append(self._open[0])
        segment = self._open[-1]
        entries = segment.entries
        slot = len(entries)
        entry.segment, entry.slot = segment, INDEXES[slot]
        entries.append(entry)
        segment.epochs.append(epoch)
        segment.expiries.append(expiry)
        self.count += 1
        if slot == SEGMENT_ENTRIES - 1:
            self._open.pop()

    def remove(self, entry: Entry) -> None:
        """Remove an entry; the last one of its segment takes its slot."""
        segment, slot = entry.segment, entry.slot
        assert segment is not None, "a stored entry is in a segment"
        entries, epochs, expiries = segment.entries, segment.epochs, segment.expiries
        if len(entries) == SEGMENT_ENTRIES:
            self._open.append(segment)
        last, epoch, expiry = entries.pop(), epochs.pop(), expiries.pop()
        if last is not entry:
            entries[slot], epochs[slot], expiries[slot] = last, epoch, expiry
            last.slot = slot
        entry.segment = None
        self.count -= 1
        self.removals += 1

    def detach(self) -> list[list[Entry]]:
        """Become empty; return the lists of entries."""
        lists = [segment.entries for segment in self.all]
        self._start_empty()
        self.removals += 1
        return lists
