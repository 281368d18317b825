"""When the pieces of a stream came, so that it can be replayed as it was.

A pace is packed as marks of eight bytes, two unsigned numbers of 32 bits, little endian:
milliseconds since the first piece, and the byte at which the piece ends. Pieces that came within
one millisecond are one.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

MAX_MARKS: Final = 65_536
"""In a pace; what comes later counts as one piece with the last."""

_MARK = Struct("<II")
_LARGEST = 2**32 - 1


class StreamTiming:
    """Takes note of pieces as they come.

    :param now: monotonic seconds.
    """

    __slots__ = ("_began", "_end", "_last", "_marks")

    def __init__(self, now: float) -> None:
        self._began = now
        self._last = -1
        self._end = 0
        self._marks = bytearray()

    def add(self, now: float, size: int) -> None:
        """A piece of *size* bytes is here."""
        if not self._marks:
            self._began = now
        came = min(max(int((now - self._began) * 1000), self._last), _LARGEST)
        self._end += size
        mark = _MARK.pack(came, min(self._end, _LARGEST))
        if came == self._last or len(self._marks) >= MAX_MARKS * _MARK.size:
            self._marks[-_MARK.size :] = mark
        else:
            self._last = came
            self._marks += mark

    def packed(self) -> bytes:
        """The marks."""
        return bytes(self._marks)


def timed_pieces(packed: bytes) -> Iterator[tuple[float, int]]:
    """Seconds since the first piece, and where the piece ends, of each mark.

    :raises ValueError: where *packed* is none.
    """
    if len(packed) % _MARK.size:
        raise ValueError("half a mark")
    return ((came / 1000, end) for came, end in _MARK.iter_unpack(packed))
