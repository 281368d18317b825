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

_trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
_malloc_trim: Callable[[int], int] = _trim or (lambda _: 0)


def collect_and_trim() -> None:
    """Run a full collection, and return unused memory to the system.

    glibc returns only the end of its heap by itself. Without ``malloc_trim`` the memory of a cache
    that was full once stays with the process, in gaps between live objects. Takes some 10 ms for a
    cache of 100 MB.
    """
    gc.collect()
    _malloc_trim(0)


def configure_gc(clock: Any) -> None:
    """Exempt all objects of the start-up from collection, and run full collections periodically.

    Requests leave no reference cycles, and connections leave only those of Twisted. So the young
    generations are collected often and at little cost. The old generation holds every cache entry:
    a collection takes a third of a second for a million entries, in which no request is served.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _YOUNG_COLLECTIONS, _NEVER)
    collections = LoopingCall(collect_and_trim)
    collections.clock = clock
    collections.start(COLLECTION_INTERVAL_SECONDS, now=False)
