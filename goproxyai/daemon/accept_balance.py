"""Which worker accepts the next connection: one with the fewest.

All workers wait on the same sockets, and the kernel wakes all of them for a new connection. Without
a rule, the worker that runs first accepts most connections of a burst: one of two workers got 50 to
86 % of 32 connections, and 50 % with the rule (``bench.cores``). Kept connections stay where they
are.

Each worker writes its number of connections into memory that the workers share. A worker with more
connections than another one leaves a new connection to the others, for at most
:data:`PATIENCE_SECONDS`: the others may be busy. It does not wait again for
:data:`IMPATIENT_SECONDS` then. The parent takes a worker that has ended out of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from math import inf
from typing import Final

PATIENCE_SECONDS: Final = 0.01
"""The longest time that a worker leaves a connection to others."""

IMPATIENT_SECONDS: Final = 0.05

ABSENT: Final = -1
"""The count of a worker that does not accept."""

COUNT_BYTES: Final = 8

Counts = MutableSequence[int]
"""The number of connections of each worker, or :data:`ABSENT`."""


class AcceptBalance:
    """Decides for one worker.

    :param counts: of all workers. :param own: the index of this one.
    :param connections: returns the number of open connections.
    """

    def __init__(self, counts: Counts, own: int, connections: Callable[[], int]) -> None:
        self._counts = counts
        self._own = own
        self._connections = connections
        self._waiting_since = inf
        self._impatient_until = -inf

    def may_accept(self, now: float) -> bool:
        """Return whether to accept a connection that waits; notes the number of connections."""
        own = self._counts[self._own] = self._connections()
        fewest = min([count for count in self._counts if count != ABSENT])
        if own <= fewest or now < self._impatient_until:
            self._waiting_since = inf
            return True
        if self._waiting_since == inf:
            self._waiting_since = now
        if now < self._waiting_since + PATIENCE_SECONDS:
            return False
        self._waiting_since = inf
        self._impatient_until = now + IMPATIENT_SECONDS
        return True
