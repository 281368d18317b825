"""The second level of the cache: stored responses in memory that the processes of a machine share.

Each worker stores responses in a ring of its own (:mod:`.record_ring`), and reads those of all. So
a response is stored, and found, without a message and without a lock.

1. The index has a row for each hash of a key, and in it a column for each worker: the position of
   its newest record with that hash. Older records of the hash follow in a chain. A worker writes to
   its own column alone, after the record is complete.
2. Of several records of a key, the one that was stored last counts. A record that has expired, or
   that a write or a clearing has overtaken (:mod:`.shared_write_log`), does not.
3. A record may outlive the one that has replaced it, which is in another ring: that one expires
   earlier, or is overwritten. So a worker that replaces a record of another one enters when, in a
   table by the hash of the key, and older records do not count. A collision can drop others.
4. The oldest records of a ring are overwritten first. A record that is not found is a miss, and
   nothing else depends on it.
5. The times of a record are seconds of the monotonic clock, which the processes of a machine share,
   so that a change of the wall clock does not matter. They precede the record in its ring.

Keys are digests, so their first bytes are a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from goproxyai.cache.entry import Entry
from goproxyai.cache.record import (
    Record,
    decode_record,
    encoded_entry_parts,
    encoded_parts,
    restored_times,
)
from goproxyai.state.record_ring import Header, RecordRing, RingNumbers
from goproxyai.state.shared_write_log import SharedWriteLog

ROWS: Final = 2**18
"""Of the index: 2 MB for each worker."""

REPLACED_ROWS: Final = 2**13
"""Of the table of replaced records: 64 KB for each worker."""

EXPIRED_PER_SECOND: Final = 1000
"""Expired records that a worker removes in a second; each takes some microseconds."""

RELEASED_PER_SECOND: Final = 16 * 1024 * 1024
"""Bytes of removed records that a worker returns to the system in a second; takes some ms."""

_NUMBER_BYTES: Final = 8


def index_bytes(workers: int) -> int:
    """Return the size of the index and the table of replaced records for a number of workers."""
    return (ROWS + REPLACED_ROWS) * workers * _NUMBER_BYTES


class SharedRecords:
    """The second level, for one process.

    :param index: :func:`index_bytes`, at first zero.
    :param rings: of all workers.
    :param own: the index of this worker; the parent leaves it out.
    :param seconds: the monotonic clock.
    :param unix_seconds: the wall clock.
    :ivar writes: the writes and clearings.
    :ivar rings: of all workers.
    """

    def __init__(
        self,
        index: memoryview,
        rings: Sequence[RecordRing],
        writes: SharedWriteLog,
        seconds: Callable[[], float],
        unix_seconds: Callable[[], float],
        own: int = -1,
    ) -> None:
        end = index_bytes(len(rings))
        replaced_at = ROWS * len(rings) * _NUMBER_BYTES
        self._index = index[:replaced_at].cast("Q")
        self._replaced = index[replaced_at:end].cast("d")  # seconds; 0: never
        self._own = own
        self._seconds = seconds
        self._unix_seconds = unix_seconds
        self.writes = writes
        self.rings = rings

    def has(self, key: bytes, owner: bytes, path: bytes) -> bool:
        """Whether there is a response; the parameters are those of :meth:`.SecondLevel.look_up`."""
        return self._find(key, owner, path) is not None

    def get(self, key: bytes, owner: bytes, path: bytes) -> Record | None:
        """Return the response, if there is one."""
        found = self._find(key, owner, path)
        return None if found is None else self._read(*found)

    def store(self, entry: Entry, path: bytes, owner: bytes, generation: int) -> bool:
        """Store a response; return ``False`` if it is too large.

        :param generation: of :attr:`writes` when the response was requested.
        """
        parts = encoded_entry_parts(entry, path, owner)
        return self._append(
            self._own, entry.key, generation, entry.stored_at, entry.lifetime, parts
        )

    def record_clearing(self, path: bytes | None) -> None:
        """Drop the records of *path*, or all, and refuse the responses in flight."""
        if path is None:
            self.writes.record_clearing(None)
            self.clear_own()
        else:
            self.writes.record_clearing(path.rstrip(b"/"))

    # Once a second, and by a reload, in a worker.

    def remove_expired(self) -> None:
        """Remove expired records of this worker, and return memory to the system."""
        ring = self.rings[self._own]
        ring.remove_expired(self._seconds(), EXPIRED_PER_SECOND)
        ring.release_free(RELEASED_PER_SECOND)

    def resize(self, ring_bytes: int) -> None:
        """Give the ring of this worker another size."""
        self.rings[self._own].resize(ring_bytes)

    def clear_own(self) -> None:
        """Drop the records of this worker."""
        self.rings[self._own].clear()

    # In the parent, while no worker serves.

    def __iter__(self) -> Iterator[Record]:
        """The responses of all workers."""
        for ring in self.rings:
            for header in ring:
                record = self._read(ring, header)
                if record is None or self._find(record.key, record.owner, record.path) != (
                    ring,
                    header,
                ):
                    continue
                yield record

    def restore(self, records: Iterator[Record]) -> int:
        """Store responses that have not expired in all rings in turn; return their number."""
        count, generation = 0, self.writes.generation
        for record in records:
            times = restored_times(record, self._seconds(), self._unix_seconds(), 0.0)
            if times is not None:
                worker, parts = count % len(self.rings), encoded_parts(record)
                count += self._append(worker, record.key, generation, *times, parts)
        return count

    def clear(self) -> None:
        """Drop all records."""
        for ring in self.rings:
            ring.clear()

    def numbers(self) -> RingNumbers:
        """Return the sums of the numbers of all workers."""
        return RingNumbers(*map(sum, zip(*[ring.numbers() for ring in self.rings], strict=True)))

    def _find(self, key: bytes, owner: bytes, path: bytes) -> tuple[RecordRing, Header] | None:
        begin = _row(key) * len(self.rings)
        positions = self._index[begin : begin + len(self.rings)].tolist()
        found = None
        if not any(positions):
            return None
        now = self._seconds()
        for ring, position in zip(self.rings, positions, strict=True):
            header = ring.find(key, position) if position else None
            if (
                header is not None
                and header.expires > now
                and not self.writes.is_outdated(owner, path, header.generation)
                and (found is None or header.stored > found[1].stored)
            ):
                found = ring, header
        if found is None or self._is_replaced(found[1]):
            return None
        return found

    def _is_replaced(self, header: Header) -> bool:
        begin = _replaced_row(header.key) * len(self.rings)
        times = self._replaced[begin : begin + len(self.rings)].tolist()
        return any(times) and header.stored < max(filter(None, times))

    def _read(self, ring: RecordRing, header: Header) -> Record | None:
        data = ring.read(header)
        if data is None:
            return None
        record, shift = decode_record(data), self._unix_seconds() - self._seconds()
        return replace(record, stored=header.stored + shift, expires=header.expires + shift)

    def _append(
        self,
        worker: int,
        key: bytes,
        generation: int,
        stored: float,
        lifetime: float,
        parts: tuple[bytes, ...],
    ) -> bool:
        rings = self.rings
        begin = _row(key) * len(rings)
        positions = self._index[begin : begin + len(rings)].tolist()
        own = positions[worker]
        replaces = sum(positions) != own and self._has_other(worker, key, positions)
        position = rings[worker].append(key, own, generation, stored, stored + lifetime, parts)
        if not position:
            return False
        if replaces:
            self._replaced[_replaced_row(key) * len(rings) + worker] = stored
        self._index[begin + worker] = position
        return True

    def _has_other(self, worker: int, key: bytes, positions: list[int]) -> bool:
        """Whether another worker has a record of *key*, which may be outdated.

        :param positions: the row of the index.
        """
        return any(
            position and index != worker and self.rings[index].find(key, position) is not None
            for index, position in enumerate(positions)
        )


def _row(key: bytes) -> int:
    return (key[0] | key[1] << 8 | key[2] << 16) % ROWS


def _replaced_row(key: bytes) -> int:
    return (key[-2] | key[-1] << 8) % REPLACED_ROWS
