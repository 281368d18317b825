"""The stored responses of one worker, in memory that all processes of a machine share: a ring.

A record is appended at the head, and overwrites the oldest ones, which are at the tail. One process
writes to a ring, and all read from it. Nothing is locked, so the writer may be killed at any time.

1. A position counts the bytes that have ever been appended, and is never used twice. The place in
   the ring is the remainder of its division by the capacity. A record is not divided: one that does
   not fit before the end of the ring begins at the start of it, after a gap.
2. The writer moves the tail beyond the records that it is about to overwrite, then writes the
   record, then moves the head. So what is between tail and head is complete. If the writer is
   killed, its replacement goes on at the head.
3. A reader copies a record, and then looks at the tail again: a record that has been overwritten
   meanwhile was before the tail first. A record also has its position and a check value, in case
   the processor delays the writing of the tail. What does not agree is no record.
4. What is before the tail is read no more, and its pages may be returned to the system. A reader
   that copies zeros from them finds the tail after its record.
5. A record has the position of the one before it in its chain (:mod:`.shared_records`), which is
   always smaller. A chain ends where its next position is before the tail.

All numbers are 8 bytes, and are read and written in one piece.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

RING_STATE_BYTES: Final = 64
"""Of a ring besides its records."""

PAGE_BYTES: Final = mmap.ALLOCATIONGRANULARITY
"""Of what the system maps and takes back; a page, or several."""

MAX_CHAIN_RECORDS: Final = 32
"""Records of a chain that are read. Clients can choose requests whose keys have equal hashes."""

_HEAD, _TAIL, _CAPACITY, _GAP, _RECORDS, _STORES, _EVICTIONS, _EXPIRATIONS = range(8)

_CHECK = Struct("<Q")
_FIELDS = Struct("<QQQQdd32s")
_LENGTH = Struct("<Q")
_LENGTH_AT: Final = 16
_HEADER_BYTES: Final = _CHECK.size + _FIELDS.size
_ALIGNMENT: Final = 8


class Header(NamedTuple):
    """What precedes a record.

    :ivar length: of the record in bytes.
    :ivar previous: the position of the record before it in its chain; 0: none.
    :ivar generation: of the second level when the response was requested.
    :ivar stored: seconds of the monotonic clock, which the processes of a machine share.
    :ivar expires: seconds of the same clock.
    """

    position: int
    length: int
    previous: int
    generation: int
    stored: float
    expires: float
    key: bytes


_NO_HEADER = Header(0, 0, 0, 0, 0.0, 0.0, b"")


class RingNumbers(NamedTuple):
    """The numbers of a ring.

    :ivar capacity: bytes of the memory; 0: nothing is stored.
    :ivar used_bytes: of the records, and of a gap between them.
    :ivar records: also outdated and replaced ones that are not overwritten.
    :ivar stores: records appended since the start.
    :ivar evictions: records that were overwritten.
    :ivar expirations: records that were removed because they had expired.
    """

    capacity: int
    used_bytes: int
    records: int
    stores: int
    evictions: int
    expirations: int


class RecordRing:
    """A ring, for one process.

    :param state: :data:`RING_STATE_BYTES`, at first zero.
    :param map_memory: returns the memory of the records, given the capacity of the ring; or an
        empty one if that is not possible at present: nothing is found and stored then.
    :param release: returns a part of the memory to the system, given the begin and the length in
        bytes, multiples of :data:`PAGE_BYTES`. The part may have any content afterwards.
    """

    def __init__(
        self,
        state: memoryview,
        map_memory: Callable[[int], memoryview],
        release: Callable[[memoryview, int, int], None],
    ) -> None:
        self._cells = state.cast("Q")
        self._released = self._cells[_TAIL]  # what is before has been released, or is lost
        self._map_memory = map_memory
        self._release = release
        self._memory = memoryview(b"")

    # For all processes.

    def numbers(self) -> RingNumbers:
        """Return the numbers for operators."""
        cells = self._cells
        return RingNumbers(
            cells[_CAPACITY], cells[_HEAD] - cells[_TAIL], *cells[_RECORDS : _EXPIRATIONS + 1]
        )

    def find(self, key: bytes, position: int) -> Header | None:
        """Return the newest record of *key* in the chain that begins at *position*.

        A record behind :data:`MAX_CHAIN_RECORDS` others is not found.
        """
        cells = self._cells
        for _ in range(MAX_CHAIN_RECORDS):
            if not cells[_TAIL] <= position < cells[_HEAD]:
                return None
            header = self._header(position)
            if cells[_TAIL] > position or header.position != position:
                return None  # it is being overwritten
            if header.key == key:
                return header
            if header.previous >= position:
                return None
            position = header.previous
        return None

    def read(self, header: Header) -> bytes | None:
        """Return the record of *header*; ``None`` if it has been overwritten meanwhile."""
        data = self._copy(header.position, _HEADER_BYTES + header.length)
        content = data[_CHECK.size :]
        if (
            self._cells[_TAIL] > header.position
            or len(data) != _HEADER_BYTES + header.length
            or _CHECK.unpack_from(data)[0] != crc32(content)
            or _FIELDS.unpack_from(content) != header
        ):
            return None
        return content[_FIELDS.size :]

    def __iter__(self) -> Iterator[Header]:
        """The records, oldest first. Nothing is appended meanwhile."""
        position = self._cells[_TAIL]
        while position < self._cells[_HEAD]:
            header = self._header(self._after_gap(position))
            if header is _NO_HEADER:
                return
            yield header
            position = header.position + _size(header.length)

    # For the writer.

    def resize(self, capacity: int) -> None:
        """Give the ring another capacity; a change of it drops the records and their memory.

        :param capacity: the bytes that are affordable.
        """
        cells = self._cells
        capacity -= capacity % _ALIGNMENT
        previous = cells[_CAPACITY]
        if capacity == previous:
            return
        self.clear()
        if capacity:  # positions never decrease, and 0 means none
            cells[_TAIL] = (cells[_HEAD] // capacity + 1) * capacity
            cells[_HEAD] = cells[_TAIL]
        memory = self._mapped(previous) if previous else None
        cells[_CAPACITY] = capacity
        if memory:
            self._release(memory, 0, page_end(previous))
        self._released = cells[_TAIL]

    def clear(self) -> None:
        """Drop all records; :meth:`release_free` returns their memory."""
        self._cells[_TAIL] = self._cells[_HEAD]
        self._cells[_RECORDS] = 0

    def append(
        self,
        key: bytes,
        previous: int,
        generation: int,
        stored: float,
        expires: float,
        parts: tuple[bytes, ...],
    ) -> int:
        """Append a record; return its position, or 0 if it is too large.

        :param parts: of the record. The other parameters are the attributes of :class:`Header`.
        """
        cells = self._cells
        capacity = cells[_CAPACITY]
        length = sum(map(len, parts))
        size = _size(length)
        if size > capacity // 10:
            return 0
        memory = self._mapped(capacity)
        if not memory:
            return 0
        begin = position = self._after_gap(cells[_HEAD])
        at = position % capacity
        if at + size > capacity:
            position, at = position + capacity - at, 0
        if cells[_TAIL] < position + size - capacity:
            self._make_room(position + size - capacity)
        if position != begin:
            cells[_GAP] = begin
        fields = _FIELDS.pack(position, length, previous, generation, stored, expires, key)
        content = b"".join((fields, *parts))
        memory[at : at + _CHECK.size] = _CHECK.pack(crc32(content))
        at += _CHECK.size
        memory[at : at + len(content)] = content
        cells[_HEAD] = position + size
        cells[_RECORDS] += 1
        cells[_STORES] += 1
        return position

    def remove_expired(self, now: float, budget: int) -> None:
        """Remove records that have expired, from the oldest one on; at most *budget*."""
        cells = self._cells
        while budget and cells[_TAIL] < cells[_HEAD]:
            budget -= 1
            header = self._header(self._after_gap(cells[_TAIL]))
            if header is _NO_HEADER or header.expires > now:
                return
            self._move_tail(header.position + _size(header.length), 1, _EXPIRATIONS)

    def release_free(self, budget: int) -> None:
        """Return memory of removed records to the system, at most *budget* bytes."""
        cells, capacity = self._cells, self._cells[_CAPACITY]
        begin = max(self._released, cells[_HEAD] - capacity)  # later records are where others were
        if begin >= cells[_TAIL]:
            return
        first = begin % capacity
        end = min(first + min(cells[_TAIL] - begin, budget), capacity)
        first_page, end_page = page_end(first), end - end % PAGE_BYTES
        memory = self._mapped(capacity)
        if memory and first_page < end_page:
            self._release(memory, first_page, end_page - first_page)
        reached = end if end == capacity else max(end_page, first)
        self._released = begin + reached - first

    def _make_room(self, limit: int) -> None:
        """Remove the records that begin before the position *limit*."""
        tail, capacity, removed = self._cells[_TAIL], self._cells[_CAPACITY], 0
        memory = self._mapped(capacity)
        while tail < limit:
            tail = self._after_gap(tail)
            at = tail % capacity + _LENGTH_AT
            tail += _size(_LENGTH.unpack(memory[at : at + _LENGTH.size])[0])
            removed += 1
        self._move_tail(tail, removed, _EVICTIONS)

    def _move_tail(self, tail: int, removed: int, counter: int) -> None:
        cells = self._cells
        cells[_TAIL] = tail
        # A writer that was killed may not have counted its last record.
        cells[_RECORDS] = max(cells[_RECORDS] - removed, 0) if tail < cells[_HEAD] else 0
        cells[counter] += removed

    def _after_gap(self, position: int) -> int:
        """Return where the first record at or after *position* begins."""
        if position != self._cells[_GAP]:
            return position
        capacity = self._cells[_CAPACITY]
        return position + capacity - position % capacity

    def _header(self, position: int) -> Header:
        data = self._copy(position, _HEADER_BYTES)
        if len(data) != _HEADER_BYTES:
            return _NO_HEADER
        return Header._make(_FIELDS.unpack_from(data, _CHECK.size))

    def _copy(self, position: int, length: int) -> bytes:
        """Return the bytes at *position*; fewer if the ring has been resized meanwhile."""
        capacity = self._cells[_CAPACITY]
        if not capacity:
            return b""
        at = position % capacity
        return bytes(self._mapped(capacity)[at : at + length])

    def _mapped(self, capacity: int) -> memoryview:
        if len(self._memory) != capacity:
            self._memory = self._map_memory(capacity)
        return self._memory


def page_end(place: int) -> int:
    """Return the end of the last page that begins before *place*."""
    return -(-place // PAGE_BYTES) * PAGE_BYTES


def _size(length: int) -> int:
    """Return the bytes that a record of *length* takes in the ring."""
    return -(-(_HEADER_BYTES + length) // _ALIGNMENT) * _ALIGNMENT
