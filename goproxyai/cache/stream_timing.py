"""The arrival times of a stream's pieces, for a replay with the original timing.

A timing is packed as marks of eight bytes: two little-endian unsigned 32-bit numbers, which are the
milliseconds since the first piece and the offset in the body at which the piece ends. Pieces that
arrive within one millisecond share a mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

MAX_MARKS: Final = 65_536
"""Marks in a timing; later pieces extend the last mark."""

_MARK = Struct("<II")
_MAX_NUMBER = 2**32 - 1


class StreamTiming:
    """Records the arrival of pieces.

    :param now: monotonic seconds.
    """

    __slots__ = ("_end", "_first_at", "_last", "_marks")

    def __init__(self, now: float) -> None:
        self._first_at = now
        self._last = -1  # milliseconds of the last mark
        self._end = 0
        self._marks = bytearray()

    def add(self, now: float, size: int) -> None:
        """Record a piece of *size* bytes."""
        if not self._marks:
            self._first_at = now
        arrival = min(max(int((now - self._first_at) * 1000), self._last), _MAX_NUMBER)
        self._end += size
        mark = _MARK.pack(arrival, min(self._end, _MAX_NUMBER))
        if arrival == self._last or len(self._marks) >= MAX_MARKS * _MARK.size:
            self._marks[-_MARK.size :] = mark
        else:
            self._last = arrival
            self._marks += mark

    def packed(self) -> bytes:
        """Return the marks."""
        return bytes(self._marks)


def timed_pieces(packed: bytes) -> Iterator[tuple[float, int]]:
    """Return the seconds since the first piece and the end offset of each mark.

    :raises ValueError: if *packed* is not a whole number of marks.
    """
    if len(packed) % _MARK.size:
        raise ValueError("an incomplete mark")
    return ((arrival / 1000, end) for arrival, end in _MARK.iter_unpack(packed))
