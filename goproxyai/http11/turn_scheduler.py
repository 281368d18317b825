"""Continue connections whose input exceeds their share of a reactor turn.

A connection has a share, and so have all that send large heads or many requests in one read: a
thousand reads of 64 KB in one turn took half a second.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

CONTINUED_SECONDS = 0.005
"""For which connections are continued in one turn, all together. The last one is completed."""


LARGE_READ_BYTES = 8 * 1024
"""A read above this size is parsed in a later turn once :data:`LARGE_READS_BYTES` are used up."""

LARGE_READS_BYTES = 256 * 1024
"""Bytes of large reads that are parsed in one turn as they arrive; they take some 3 ms."""


class Continued(Protocol):
    """A connection with unparsed input, or a large body that has been received."""

    def __hash__(self) -> int: ...

    def continue_input(self) -> None:
        """Use another share of a turn."""


class TurnScheduler:
    """Continues connections in turn, so that the reactor reads and answers others in between."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[Continued, None] = {}  # in the order of their arrival
        self._call: IDelayedCall | None = None
        self._large_reads_bytes = 0

    def admits(self, count: int) -> bool:
        """Return whether a large read of *count* bytes may be parsed in this turn.

        If not, the connection is to be continued later.
        """
        if self._waiting:
            return False
        self._large_reads_bytes += count
        if self._call is None:
            self._call = self._clock.callLater(0, self._run)
        return self._large_reads_bytes <= LARGE_READS_BYTES

    def add(self, each: Continued) -> None:
        """Continue *each* in a later turn, once."""
        self._waiting.setdefault(each)
        if self._call is None:
            self._call = self._clock.callLater(0, self._run)

    def discard(self, each: Continued) -> None:
        """Do not continue *each*, which is lost; may be repeated."""
        self._waiting.pop(each, None)
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _run(self) -> None:
        self._call = None
        self._large_reads_bytes = 0
        seconds = self._clock.seconds
        ends_at = seconds() + CONTINUED_SECONDS
        try:
            for each in tuple(self._waiting):
                if each in self._waiting:
                    del self._waiting[each]
                    each.continue_input()
                if seconds() >= ends_at:
                    break
        finally:  # a defect in one connection must not keep the others waiting
            if self._waiting and self._call is None:
                self._call = self._clock.callLater(0, self._run)
