"""Memory, descriptors and CPU time of this process, as the system tells them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

DESCRIPTORS_SECONDS: Final = 5.0
"""Between two counts of the open descriptors: a count of ten thousand takes 2 ms."""

_PROCESSES = Path("/proc")


@attrs.frozen
class ProcessNumbers:
    """The resources of a process, or the sums of several.

    :ivar resident_bytes: memory; 0 where the system does not tell.
    :ivar descriptors: that are open; 0 where the system does not tell.
    :ivar max_descriptors: that may be open; 0 without a limit.
    :ivar cpu_ms: CPU time since the start, in milliseconds.
    :ivar processes: that the sums are of.
    """

    resident_bytes: int = 0
    descriptors: int = 0
    max_descriptors: int = 0
    cpu_ms: int = 0
    processes: int = 1

    def plus(self, other: ProcessNumbers) -> ProcessNumbers:
        """Return the sums."""
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return ProcessNumbers(*[one + another for one, another in pairs])


class OwnProcess:
    """Reads the numbers of this process.

    :param seconds: the monotonic clock.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._descriptors = 0
        self._counts_at = 0.0

    def read(self) -> ProcessNumbers:
        now = self._seconds()
        if now >= self._counts_at:
            self._counts_at = now + DESCRIPTORS_SECONDS
            self._descriptors = open_descriptors()
        return ProcessNumbers(
            resident_bytes(),
            self._descriptors,
            _max_descriptors(),
            int(time.process_time() * 1000),
        )


def open_descriptors() -> int:
    """Return the number of open descriptors, 0 where the system does not tell."""
    try:
        return len(os.listdir(_PROCESSES / "self" / "fd")) - 1  # without the one of the listing
    except OSError:
        return 0


def resident_bytes(process: int | str = "self") -> int:
    """Return the resident memory of a process, 0 where the system does not tell.

    :param process: its ID.
    """
    resident, _ = _resident_pages(process)
    return resident * os.sysconf("SC_PAGE_SIZE")


def anonymous_bytes() -> int:
    """Return the resident memory of this process without files and without shared memory.

    0 where the system does not tell.
    """
    resident, shared = _resident_pages("self")
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _resident_pages(process: int | str) -> tuple[int, int]:
    """Return the resident pages of a process, and how many of them are of files or shared."""
    try:
        _, resident, shared, *_ = (_PROCESSES / str(process) / "statm").read_bytes().split()
    except OSError:
        return 0, 0
    return int(resident), int(shared)


def _max_descriptors() -> int:
    """Return how many descriptors may be open, 0 without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit
