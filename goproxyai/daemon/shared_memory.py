"""Memory that the parent and its workers share: a file without a name.

The counts of connections are at its beginning, the tables of keys and of claims follow. The file is
also the lock for writing to a log that is not a file. Only the parts that are used take memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import cast

from goproxyai.config.variables import MAX_WORKERS
from goproxyai.daemon.accept_balance import COUNT_BYTES, Counts
from goproxyai.state.claim_marks import ClaimMarks, marks_bytes
from goproxyai.state.key_presence import PRESENCE_BYTES, KeyPresence

_COUNTS_BYTES = MAX_WORKERS * COUNT_BYTES
_PAGE_BYTES = mmap.ALLOCATIONGRANULARITY
_PRESENCE_AT = max(_COUNTS_BYTES, _PAGE_BYTES)
_MARKS_AT = -(-(_PRESENCE_AT + PRESENCE_BYTES) // _PAGE_BYTES) * _PAGE_BYTES


def make_shared_memory() -> int:
    """Return the descriptor of a file in memory; its processes can also lock it."""
    if hasattr(os, "memfd_create"):  # needs no directory that can be written to
        descriptor = os.memfd_create("goproxyai workers")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _MARKS_AT + marks_bytes(MAX_WORKERS))
    return descriptor


def map_counts(descriptor: int, workers: int) -> Counts:
    """Return the counts that all processes with the file *descriptor* share."""
    return cast("Counts", memoryview(mmap.mmap(descriptor, workers * COUNT_BYTES)).cast("q"))


def map_presence(descriptor: int) -> KeyPresence:
    """Return the table of keys that all processes with the file *descriptor* share."""
    memory = mmap.mmap(descriptor, PRESENCE_BYTES, offset=_PRESENCE_AT)
    return KeyPresence(memoryview(memory))


def map_marks(descriptor: int, workers: int, own: int = -1) -> ClaimMarks:
    """Return the table of claims that all processes with the file *descriptor* share.

    :param own: the index of this worker; the parent leaves it out.
    """
    memory = mmap.mmap(descriptor, marks_bytes(workers), offset=_MARKS_AT)
    return ClaimMarks(memoryview(memory), workers, own)
