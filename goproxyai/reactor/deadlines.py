"""One coarse ticker keeps every deadline of every connection.

A ``callLater`` for each of ten thousand idle connections would cost more than the connections.
Instead a connection notes ``deadline`` (an attribute, one store) and the ticker looks at all of
them four times a second. A deadline is late by up to :data:`TICK`; one that was counted from
:attr:`Ticker.now`, which is cheaper than the clock, may be early by as much.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

TICK = 0.25
"""Seconds between two looks at the deadlines."""

NEVER = float("inf")

_log = Logger(namespace="goproxyai.ticking")


class Ticking(Protocol):
    """What has deadlines."""

    def tick(self, now: float) -> None:
        """See to what is due at *now* (seconds of the reactor's clock)."""


class Ticker:
    """Calls ``tick`` on everything in :attr:`watched`.

    :ivar seconds: the reactor's clock.
    :ivar now: the reactor's seconds at the last tick: a clock that costs nothing to read.
    :ivar watched: one entry a connection; connections add and remove themselves.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.seconds = clock.seconds
        self.clock = clock
        self.now = clock.seconds()
        self.watched: set[Ticking] = set()
        self._loop = LoopingCall(self.check_deadlines)
        self._loop.clock = clock

    def start(self) -> None:
        """Begin ticking."""
        self.now = self.clock.seconds()
        self._loop.start(TICK, now=False)

    def stop(self) -> None:
        """Stop ticking; deadlines are no longer kept."""
        if self._loop.running:
            self._loop.stop()

    def check_deadlines(self) -> None:
        """Call ``tick`` on everything watched; the loop does so every :data:`TICK` seconds."""
        now = self.now = self.clock.seconds()
        for one in tuple(self.watched):
            try:
                one.tick(now)
            except Exception:  # one connection's defect must not end every other's deadlines
                _log.failure("a defect while seeing to deadlines")
