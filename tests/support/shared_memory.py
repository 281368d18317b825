"""The memory that workers share, without processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from goproxyai.cache.record import Record, restored_entry
from goproxyai.state.claim_marks import ClaimMarks, marks_bytes
from goproxyai.state.record_ring import RING_STATE_BYTES, RecordRing
from goproxyai.state.shared_records import SharedRecords, index_bytes
from goproxyai.state.shared_write_log import SharedWriteLog, write_log_bytes

UNIX = 1e9
"""Unix seconds, at which the records of the tests are stored."""


class SharedMemory:
    """The memory of a service.

    :param ring_bytes: of each worker.
    :ivar now: seconds of the monotonic clock. :ivar unix: seconds of the wall clock.
    :ivar released: sizes of the memory that was returned to the system.
    """

    def __init__(self, workers: int = 2, ring_bytes: int = 100_000) -> None:
        self.workers = workers
        self.now = 100.0
        self.unix = UNIX
        self.index = memoryview(bytearray(index_bytes(workers)))
        self.marks_memory = memoryview(bytearray(marks_bytes(workers)))
        self.released: list[int] = []
        self.ring_memory = [bytearray(ring_bytes) for _ in range(workers)]
        self._writes = memoryview(bytearray(write_log_bytes(workers)))
        self._states = [memoryview(bytearray(RING_STATE_BYTES)) for _ in range(workers)]
        for worker in range(workers):
            self.ring(worker).resize(ring_bytes)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.unix += seconds

    def records(self, own: int = -1) -> SharedRecords:
        """The second level as a worker has it, or as the parent has it."""
        rings = [self.ring(worker) for worker in range(self.workers)]
        return SharedRecords(
            self.index, rings, self.writes(own), lambda: self.now, lambda: self.unix, own
        )

    def marks(self, own: int = -1) -> ClaimMarks:
        return ClaimMarks(self.marks_memory, self.workers, own)

    def writes(self, own: int = -1) -> SharedWriteLog:
        return SharedWriteLog(self._writes, self.workers, own)

    def ring(self, worker: int) -> RecordRing:
        return RecordRing(
            self._states[worker],
            self._mapping(worker),
            lambda memory, begin, length: self._release(worker, begin, length),
        )

    def _release(self, worker: int, begin: int, length: int) -> None:
        """Make a part of the memory zero, as the system does."""
        self.released.append(length)
        memory = memoryview(self.ring_memory[worker])[begin : begin + length]
        memory[:] = bytes(len(memory))

    def _mapping(self, worker: int) -> Callable[[int], memoryview]:
        return lambda capacity: memoryview(self.ring_memory[worker])[:capacity]


def store(records: SharedRecords, one: Record) -> bool:
    """Store *one*, whose request is of the present generation."""
    entry = restored_entry(one, records._seconds(), records._unix_seconds(), 0.0)
    assert entry is not None
    return records.store(entry, one.path, one.owner, records.writes.generation)


class Killed(BaseException):
    """The process is killed."""


class Kill:
    """Kills a process at one of its writes to shared memory.

    :ivar after: the number of writes before; ``None``: it lives.
    """

    def __init__(self) -> None:
        self.after: int | None = None

    def watch(self, ring: RecordRing, memory: bytearray) -> None:
        """Count the writes to *ring*, whose records are in *memory*."""
        ring._cells = _WatchedMemory(ring._cells, self)  # type: ignore[assignment]
        ring._memory = _WatchedMemory(memoryview(memory), self)  # type: ignore[assignment]

    def watch_index(self, records: SharedRecords) -> None:
        """Count the writes to the index."""
        records._index = _WatchedMemory(records._index, self)  # type: ignore[assignment]

    def is_due(self) -> bool:
        if self.after is None:
            return False
        self.after -= 1
        return self.after < 0


class _WatchedMemory:
    """Memory of a process that is killed. A write of many bytes is killed in its middle."""

    def __init__(self, view: memoryview, kill: Kill) -> None:
        self._view = view
        self._kill = kill

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, at: Any) -> Any:
        return self._view[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        if self._kill.is_due():
            if isinstance(at, slice) and isinstance(value, bytes):
                half = len(value) // 2
                self._view[at.start : at.start + half] = value[:half]
            raise Killed
        self._view[at] = value
