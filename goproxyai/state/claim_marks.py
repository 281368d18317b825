"""Which workers ask upstream for which keys: marks in memory that they share with their parent.

A question to the parent takes two wake-ups of processes, 0.2 ms. Nearly always no other worker asks
upstream for the same key. So a worker takes an exclusive claim by a mark in the table, without a
question. Only where there is another mark it asks the parent, which decides (:mod:`.claims`).

1. A row has the keys of the same hash. A worker has one byte in each row, its mark, which it sets
   only if the byte is zero. The last byte of a row counts the claims of the parent's table.
2. A worker sets its mark, and then reads the row. The parent increments its count, and then reads
   the row. So of two that want a claim at the same time, at least one sees the other. A worker that
   sees another mark removes its own before it asks.
3. The worker removes its mark when its claim ends, after it has stored the response if there is
   one. So at any time another worker finds the mark or the response (:mod:`.shared_records`).
4. Nothing is locked, and no byte is changed by two processes at a time. If the processor delays a
   write for longer than the interpreter needs for the next read, two workers have a claim, and make
   an upstream request each. Nothing else depends on the marks.

Keys are digests, so that some of their bytes are a hash.
"""

from __future__ import annotations

from typing import Final

ROWS: Final = 2**16

_MAX_COUNT: Final = 255


def marks_bytes(workers: int) -> int:
    """Return the size of the memory for a number of workers."""
    return ROWS * (workers + 1)


class ClaimMarks:
    """The table, for one process.

    :param memory: :func:`marks_bytes`, at first zero.
    :param workers: the number of workers.
    :param own: the index of this worker; the parent leaves it out.
    """

    def __init__(self, memory: memoryview, workers: int, own: int = -1) -> None:
        self._columns = workers + 1
        self._bytes = memory[: marks_bytes(workers)]
        self._own = own

    def __len__(self) -> int:
        """The number of marks."""
        marks = self._bytes.tobytes()
        counts = marks[self._columns - 1 :: self._columns]
        return len(marks) - marks.count(0) - (len(counts) - counts.count(0))

    # For a worker.

    def mark(self, key: bytes) -> bool:
        """Set the mark of this worker, if the row has no other; return whether it is set."""
        row = self._row(key)
        own = row + self._own
        marks = self._bytes
        if marks[own]:  # this worker asks upstream for another key of this row
            return False
        marks[own] = 1
        if marks[row : row + self._columns].tobytes().count(0) == self._columns - 1:
            return True
        marks[own] = 0
        return False

    def unmark(self, key: bytes) -> None:
        """Remove the mark of this worker."""
        self._bytes[self._row(key) + self._own] = 0

    # For the parent.

    def begin(self, key: bytes) -> None:
        """The parent has a claim of *key* in its table."""
        place = self._row(key) + self._columns - 1
        self._bytes[place] = min(self._bytes[place] + 1, _MAX_COUNT)

    def end(self, key: bytes) -> None:
        """The parent has a claim of *key* no longer; a count that was at its maximum stays."""
        place = self._row(key) + self._columns - 1
        count = self._bytes[place]
        if 0 < count < _MAX_COUNT:
            self._bytes[place] = count - 1

    def marked(self, key: bytes) -> list[int]:
        """Return the workers that have a mark in the row of *key*."""
        row = self._row(key)
        marks = self._bytes[row : row + self._columns - 1].tobytes()
        return [worker for worker, mark in enumerate(marks) if mark]

    def remove_all(self, worker: int) -> None:
        """Remove all marks of a worker that has ended."""
        self._bytes[worker :: self._columns] = bytes(ROWS)

    def _row(self, key: bytes) -> int:
        return (key[3] | key[4] << 8) * self._columns
