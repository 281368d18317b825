"""One periodic call checks the deadlines of all connections.

A ``callLater`` for each of ten thousand idle connections costs more than the connections. Instead,
a connection stores its deadline in an attribute, and the ticker calls each connection four times a
second. A deadline is late by up to :data:`TICK_SECONDS`. A deadline that was computed from
:attr:`Ticker.now`, which is cheaper than the clock, may be early by as much.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

TICK_SECONDS = 0.25
"""Interval between two checks of the deadlines."""

NEVER = float("inf")
"""The deadline of a connection that waits for nothing."""

_log = Logger()


class Ticking(Protocol):
    """An object with deadlines."""

    def tick(self, now: float) -> None:
        """Act on the deadlines that have passed at *now* (seconds of the reactor's clock)."""


class Ticker:
    """Calls ``tick`` of every object in :attr:`watched`.

    :ivar seconds: the reactor's clock.
    :ivar now: the clock's seconds at the last tick.
    :ivar watched: the open connections, which add and remove themselves.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.seconds = clock.seconds
        self.clock = clock
        self.now = clock.seconds()
        self.watched: set[Ticking] = set()
        self._loop = LoopingCall(self.check_deadlines)
        self._loop.clock = clock

    def start(self) -> None:
        self.now = self.clock.seconds()
        self._loop.start(TICK_SECONDS, now=False)

    def stop(self) -> None:
        """Stop the checks; may be called when they do not run."""
        if self._loop.running:
            self._loop.stop()

    def check_deadlines(self) -> None:
        """Call ``tick`` on everything watched; the loop does so every :data:`TICK_SECONDS`."""
        now = self.now = self.clock.seconds()
        for each in tuple(self.watched):
            try:
                each.tick(now)
            except Exception:  # the deadlines of the other connections must be checked
                _log.failure("unhandled error in a deadline")
