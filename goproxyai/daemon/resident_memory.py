"""Keep the resident memory of the process within its bound.

1. Unused memory is returned to the system while requests in progress hold much of it, or did, and
   after the memory that no account explains has grown.
2. CPython and glibc keep a part of the memory that is freed: its blocks lie between blocks in use,
   such as cache entries. Each round of large requests may leave more of it. What remains is
   compared with the accounts, and the budget of requests in progress shrinks by the excess, see
   :func:`~goproxyai.limits.request_memory.affordable_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from goproxyai.admin.process_numbers import anonymous_bytes
from goproxyai.cache.store import Store
from goproxyai.daemon.memory import malloc_trim
from goproxyai.limits.request_memory import RequestMemory, affordable_bytes

INTERVAL_SECONDS = 1.0
"""Between two returns of memory. One took 0.3 to 5 ms in a process of 200 MB."""

WINDOW_SECONDS = 30.0
"""Connections explain memory if they were open in this window and the one before: the memory of a
burst of connections stays with the process when they end."""

TRIMMED_BYTES = 1024 * 1024
"""Memory that requests in progress have held, after which unused memory is returned; and growth of
the memory that no account explains. A burst of requests may end between two ticks."""

WARNED_SHARE = 0.75
"""Share of the configured budget below which a warning is logged, once an hour at most."""

WARNING_INTERVAL_SECONDS = 3600.0

_MIB = 1024 * 1024
_log = Logger()


class ResidentMemory:
    """Returns unused memory, and adapts the budget to the rest.

    The first tick takes the present memory, without the accounted bytes, as that of the start.

    :param connections: returns the number of open connections.
    :param resident: returns the resident memory in bytes, 0 if it is unknown; without the second
        level of the cache, which workers share.
    :param trim: returns unused memory to the system.
    :ivar unexplained: bytes above the memory of the start that no account explains.
    """

    def __init__(
        self,
        memory: RequestMemory,
        store: Store,
        connections: Callable[[], int],
        resident: Callable[[], int] = anonymous_bytes,
        trim: Callable[[int], int] = malloc_trim,
    ) -> None:
        self._memory = memory
        self._store = store
        self._connections = connections
        self._resident = resident
        self._trim = trim
        self._peak = 0  # bytes that requests held, since the last return of memory
        self._unexplained_before = 0  # the least, since the last return of memory
        self._not_before = 0.0
        self._no_warning_before = 0.0
        self._start: int | None = None
        self._window_ends_at = 0.0
        self._fewest = [0, 0]  # open connections at least: in the previous window, and in this one
        self.unexplained = 0

    def tick(self, now: float) -> None:
        used = self._memory.used
        self._peak = max(self._peak, used)
        self._unexplained_before = min(self._unexplained_before, self.unexplained)
        growth = self.unexplained - self._unexplained_before
        if max(self._peak, growth) >= TRIMMED_BYTES and now >= self._not_before:
            self._not_before = now + INTERVAL_SECONDS
            self._peak = used
            self._unexplained_before = self.unexplained
            self._trim(0)
        resident = self._resident()
        if resident:
            self._adapt(resident, now)

    def _adapt(self, resident: int, now: float) -> None:
        """Adapt the budget to the *resident* bytes."""
        memory, store = self._memory, self._store
        beyond = resident - memory.used - store.bytes - store.reserved
        if self._start is None:
            self._start = beyond
        self.unexplained = max(0, beyond - self._start)
        limit = affordable_bytes(
            memory.max_bytes, store.max_bytes, self._lasting_connections(now), self.unexplained
        )
        memory.restrict(limit)
        if limit < memory.max_bytes * WARNED_SHARE and now >= self._no_warning_before:
            self._no_warning_before = now + WARNING_INTERVAL_SECONDS
            _log.warn(
                "requests in progress may hold {limit:.1f} MB instead of MAX_REQUEST_MEMORY, "
                "because the process has {unexplained:.1f} MB more memory than the cache and "
                "requests use",
                limit=limit / _MIB,
                unexplained=self.unexplained / _MIB,
            )

    def _lasting_connections(self, now: float) -> int:
        """Return the number of connections that were open for a window at least."""
        count = self._connections()
        if now >= self._window_ends_at:
            self._window_ends_at = now + WINDOW_SECONDS
            self._fewest = [self._fewest[1], count]
        self._fewest[1] = min(self._fewest[1], count)
        return min(self._fewest)

    def postpone(self, lost: float, now: float) -> None:
        """Do nothing: there are no deadlines."""
