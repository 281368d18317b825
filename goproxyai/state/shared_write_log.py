"""The writes and clearings of all workers of a machine: a table in memory that they share.

The table decides whether a record of the second level (:mod:`.shared_records`) is outdated, as
:mod:`goproxyai.cache.write_log` does within a process. A write counts for all workers as soon as it
is in the table, without a message.

1. The generation is the number of writes and clearings of all workers. A request notes it before it
   asks upstream. A write increments it, and enters the new one for its owner, a clearing for its
   path, or for all paths.
2. Each worker has a column, to which no other process writes: its number of writes and clearings,
   and the generation of the last one of each owner and path. So nothing is locked.
3. The numbers only grow. So a generation that is noted after the end of a write is not smaller than
   that of the write, and one that is noted before its beginning is.
4. Owners and paths share rows by hash. A collision can make a record outdated that is not. One that
   is outdated never counts as fresh.

A number is 8 bytes, and is read and written in one piece.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from goproxyai.cache.write_log import UNOWNED

ROWS: Final = 2**13
"""For owners, and as many for paths: 64 KB each for a worker."""

_NUMBER_BYTES: Final = 8


def write_log_bytes(workers: int) -> int:
    """Return the size of the memory for a number of workers."""
    return (2 + 2 * ROWS) * workers * _NUMBER_BYTES


class SharedWriteLog:
    """The table, for one process.

    :param memory: :func:`write_log_bytes`, at first zero.
    :param own: the index of this worker; the parent, which does not write, leaves it out.
    """

    def __init__(self, memory: memoryview, workers: int, own: int = -1) -> None:
        numbers = memory[: write_log_bytes(workers)].cast("Q")
        self._workers = workers
        self._own = own
        self._counts = numbers[:workers]
        self._clearings = numbers[workers : 2 * workers]
        self._writes = numbers[2 * workers : (2 + ROWS) * workers]
        self._path_clearings = numbers[(2 + ROWS) * workers :]

    @property
    def generation(self) -> int:
        """The number of writes and clearings so far."""
        return sum(self._counts)

    def record_write(self, owner: bytes) -> None:
        """Count a successful write of *owner*."""
        self._writes[self._row(owner) + self._own] = self._next_generation()

    def record_clearing(self, path: bytes | None) -> None:
        """Count a clearing of *path*, or of all paths."""
        generation = self._next_generation()
        if path is None:
            self._clearings[self._own] = generation
        else:
            self._path_clearings[self._row(path) + self._own] = generation

    def last_write(self, owner: bytes) -> int:
        """Return the generation of the last write of *owner*; 0: it has not written."""
        return self._last(self._writes, owner)

    def is_outdated(self, owner: bytes, path: bytes, generation: int) -> bool:
        """Whether the response to a request of *generation* is outdated."""
        if generation == sum(self._counts):
            return False
        return (
            generation < max(self._clearings)
            or generation < self._last(self._path_clearings, path)
            or (owner != UNOWNED and generation < self._last(self._writes, owner))
        )

    def _next_generation(self) -> int:
        self._counts[self._own] += 1
        return sum(self._counts)

    def _last(self, numbers: memoryview, name: bytes) -> int:
        row = self._row(name)
        return max(numbers[row : row + self._workers])

    def _row(self, name: bytes) -> int:
        return crc32(name) % ROWS * self._workers
