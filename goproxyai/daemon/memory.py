"""Garbage collection that does not stall requests, and memory that goes back to the system."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any

from twisted.internet.task import LoopingCall

COLLECTION_INTERVAL_SECONDS = 600.0
"""Interval between two calls of :func:`collect_and_trim`."""

_YOUNG_OBJECTS = 2_500
"""Allocations between two collections of the youngest generation; one takes 2 ms at most."""

_YOUNG_COLLECTIONS = 3
"""Collections of the youngest generation between two of the middle generation."""

_NEVER = 1 << 30

MAPPED_BYTES = 256 * 1024
"""Size from which glibc maps each allocation separately, so that its memory returns at once.

By default glibc raises this size up to 32 MB with each large block that is freed. Then large bodies
are cut out of the heap, and smaller ones keep their gaps from being used or returned: 40 evicted
responses of 6 MB left 65 MB behind."""

KEPT_TOP_BYTES = 4 * 1024 * 1024
"""Unused bytes at the end of the heap that glibc keeps. It ends the automatic raise as well."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>

_libc = ctypes.CDLL(None)  # malloc_trim and mallopt are glibc's own
malloc_trim: Callable[[int], int] = getattr(_libc, "malloc_trim", lambda _: 0)
"""Returns unused memory to the system; the argument is the size of the top to keep."""

_mallopt: Callable[[int, int], int] = getattr(_libc, "mallopt", lambda *_: 0)


def collect_and_trim() -> None:
    """Run a full collection, and return unused memory to the system.

    glibc returns only the end of its heap by itself. Without ``malloc_trim`` the memory of a cache
    that was full once stays with the process, in gaps between live objects. Takes some 10 ms for a
    cache of 100 MB.
    """
    gc.collect()
    malloc_trim(0)


def configure_memory(clock: Any) -> None:
    """Configure glibc, and the garbage collection.

    All objects of the start-up are exempt from collection. Full collections are periodic.

    Requests leave no reference cycles, and connections leave only those of Twisted. So the young
    generations are collected often and at little cost. The old generation holds every cache entry:
    a collection takes a third of a second for a million entries, in which no request is served.
    """
    _mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, KEPT_TOP_BYTES)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _YOUNG_COLLECTIONS, _NEVER)
    collections = LoopingCall(collect_and_trim)
    collections.clock = clock
    collections.start(COLLECTION_INTERVAL_SECONDS, now=False)
