"""Memory that the parent and its workers share: a file without a name.

The counts of connections are at its beginning, the tables of claims and of writes, and the second
level of the cache follow. The file is also the lock for writing to a log that is not a file. Only
the parts that are used take memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from twisted.logger import Logger

from goproxyai.config.variables import MAX_WORKERS
from goproxyai.daemon.accept_balance import COUNT_BYTES, Counts
from goproxyai.state.claim_marks import ClaimMarks, marks_bytes
from goproxyai.state.record_ring import RING_STATE_BYTES, RecordRing, page_end
from goproxyai.state.shared_records import SharedRecords, index_bytes
from goproxyai.state.shared_write_log import SharedWriteLog, write_log_bytes

MAX_RING_BYTES: Final = 2**36
"""Of the memory for the records of one worker."""

_log = Logger(namespace="goproxyai")


_MARKS_AT: Final = page_end(MAX_WORKERS * COUNT_BYTES)
_WRITES_AT: Final = page_end(_MARKS_AT + marks_bytes(MAX_WORKERS))
_STATES_AT: Final = page_end(_WRITES_AT + write_log_bytes(MAX_WORKERS))
_INDEX_AT: Final = page_end(_STATES_AT + MAX_WORKERS * RING_STATE_BYTES)
_RINGS_AT: Final = page_end(_INDEX_AT + index_bytes(MAX_WORKERS))


def make_shared_memory(workers: int) -> int:
    """Return the descriptor of a file in memory; its processes can also lock it.

    :raises OSError: where the limit of the size of files is too small for it.
    """
    if hasattr(os, "memfd_create"):  # needs no directory that can be written to
        descriptor = os.memfd_create("goproxyai workers")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, _RINGS_AT + workers * MAX_RING_BYTES)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def map_counts(descriptor: int, workers: int) -> Counts:
    """Return the counts that all processes with the file *descriptor* share."""
    return cast("Counts", _mapped(descriptor, 0, workers * COUNT_BYTES).cast("q"))


def map_marks(descriptor: int, workers: int, own: int = -1) -> ClaimMarks:
    """Return the table of claims that all processes with the file *descriptor* share.

    :param own: the index of this worker; the parent leaves it out.
    """
    return ClaimMarks(_mapped(descriptor, _MARKS_AT, marks_bytes(workers)), workers, own)


def map_records(
    descriptor: int, workers: int, seconds: Callable[[], float], own: int = -1
) -> SharedRecords:
    """Return the second level that all processes with the file *descriptor* share.

    :param descriptor: stays open.
    :param seconds: the monotonic clock.
    :param own: the index of this worker; the parent leaves it out.
    """
    writes = _mapped(descriptor, _WRITES_AT, write_log_bytes(workers))
    states = _mapped(descriptor, _STATES_AT, workers * RING_STATE_BYTES)

    def ring(worker: int) -> RecordRing:
        begin = _RINGS_AT + worker * MAX_RING_BYTES
        return RecordRing(
            states[worker * RING_STATE_BYTES : (worker + 1) * RING_STATE_BYTES],
            _RingMapping(descriptor, begin).map,
            _release,
        )

    return SharedRecords(
        _mapped(descriptor, _INDEX_AT, index_bytes(workers)),
        [ring(worker) for worker in range(workers)],
        SharedWriteLog(writes, workers, own),
        seconds,
        time.time,
        own,
    )


def _mapped(descriptor: int, begin: int, length: int) -> memoryview:
    return memoryview(mmap.mmap(descriptor, length, offset=begin))


class _RingMapping:
    """Maps the memory of one ring, and logs the first failure."""

    def __init__(self, descriptor: int, begin: int) -> None:
        self._descriptor = descriptor
        self._begin = begin
        self._has_failed = False

    def map(self, capacity: int) -> memoryview:
        """Return the memory, or an empty one where the limit of the address space is met."""
        try:
            return _mapped(self._descriptor, self._begin, capacity)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                _log.error(
                    "{capacity} bytes of the second level of the cache cannot be mapped: "
                    "{problem}; raise the limit of the address space (ulimit -v), or lower "
                    "MAX_CACHE_SIZE",
                    capacity=capacity,
                    problem=error.strerror,
                )
            return memoryview(b"")


def _release(memory: memoryview, begin: int, length: int) -> None:
    """Return a part of *memory* to the system where it can; the part is zero then."""
    if hasattr(mmap, "MADV_REMOVE"):
        with suppress(OSError):  # a file on a disk may not support it
            cast("mmap.mmap", memory.obj).madvise(mmap.MADV_REMOVE, begin, length)
