"""The arrival times of a stream's pieces, for a replay with the original timing.

A timing is packed as marks of eight bytes: two little-endian unsigned 32-bit numbers, which are the
milliseconds since the first piece and the offset in the body at which the piece ends. Pieces that
arrive within one millisecond share a mark.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from struct import Struct
from typing import Final

MAX_MARKS: Final = 65_536
"""Marks in a timing; later pieces extend the last mark."""

_MARK = Struct("<II")
_MAX_NUMBER = 2**32 - 1
_NUMBER_BYTES: Final = 4


class StreamTiming:
    """Records the arrival of pieces.

    :param now: monotonic seconds.
    """

    __slots__ = ("_arrivals", "_end", "_ends", "_first_at", "_last")

    def __init__(self, now: float) -> None:
        self._first_at = now
        self._last = -1  # milliseconds of the last mark
        self._end = 0
        self._arrivals = array("I")
        self._ends = array("I")

    def add(self, now: float, size: int) -> None:
        """Record a piece of *size* bytes."""
        if self._last < 0:
            self._first_at = now
        arrival = int((now - self._first_at) * 1000)
        self._end += size
        end = min(self._end, _MAX_NUMBER)
        if arrival <= self._last:
            self._ends[-1] = end
            return
        self._last = arrival = min(arrival, _MAX_NUMBER)
        if len(self._ends) < MAX_MARKS:
            self._arrivals.append(arrival)
            self._ends.append(end)
        else:
            self._arrivals[-1] = arrival
            self._ends[-1] = end

    def packed(self) -> bytes:
        """Return the marks."""
        marks = array("I", bytes(2 * _NUMBER_BYTES * len(self._ends)))
        marks[::2], marks[1::2] = self._arrivals, self._ends
        if sys.byteorder == "big":
            marks.byteswap()
        return marks.tobytes()


def timed_pieces(packed: bytes) -> Iterator[tuple[float, int]]:
    """Return the seconds since the first piece and the end offset of each mark.

    :raises ValueError: if *packed* is not a whole number of marks.
    """
    if len(packed) % _MARK.size:
        raise ValueError("an incomplete mark")
    return ((arrival / 1000, end) for arrival, end in _MARK.iter_unpack(packed))
