"""One periodic call checks the deadlines of all connections.

A ``callLater`` for each of ten thousand idle connections costs more than the connections. Instead,
a connection stores its deadline in an attribute, and the ticker calls each connection four times a
second. A deadline is late by up to :data:`TICK_SECONDS`. A deadline that was computed from
:attr:`Ticker.now`, which is cheaper than the clock, may be early by as much.

A process can stand still: SIGSTOP, a paused virtual machine, a frozen cgroup. Peers go on, and what
they sent meanwhile is in the kernel. A deadline that passed during a standstill must not be judged
before the reactor has read. So the ticker skips one check after a standstill and moves the
deadlines; :class:`Deadline` starts again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

TICK_SECONDS = 0.25
"""Interval between two checks of the deadlines."""

STANDSTILL_SECONDS = 1.0
"""Lateness of a timer from which the process is taken to have stood still."""

MAX_POSTPONED_SECONDS = 30.0
"""The most that remains of a deadline that a standstill postponed. Bounds the deadlines that were
set after a standstill and before its detection, which are postponed as well."""

NEVER = float("inf")
"""The deadline of a connection that waits for nothing."""

_log = Logger()


class Ticking(Protocol):
    """An object with deadlines."""

    def tick(self, now: float) -> None:
        """Act on the deadlines that have passed at *now* (seconds of the reactor's clock)."""

    def postpone(self, lost: float, now: float) -> None:
        """Move the deadlines after a standstill of *lost* seconds that ended before *now*."""


def postponed(expires_at: float, lost: float, now: float) -> float:
    """Return the deadline that replaces *expires_at* after a standstill.

    :param lost: seconds for which the process stood still.
    """
    return max(expires_at, min(expires_at + lost, now + MAX_POSTPONED_SECONDS))


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
        self._skipped = False  # the last check, because of a standstill
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
        """Call ``tick`` on everything watched, or ``postpone`` after a standstill.

        Two checks in a row are never skipped: a reactor that is always late is overloaded, and
        deadlines must hold under overload.
        """
        now = self.clock.seconds()
        lost, self.now = now - self.now - TICK_SECONDS, now
        self._skipped = lost > STANDSTILL_SECONDS and not self._skipped
        if self._skipped:
            _log.info("the process stood still for {lost:.1f} s; deadlines are moved", lost=lost)
        for each in tuple(self.watched):
            try:
                if self._skipped:
                    each.postpone(lost, now)
                else:
                    each.tick(now)
            except Exception:  # the deadlines of the other connections must be checked
                _log.failure("unhandled error in a deadline")


class Deadline:
    """A single deadline with a timer of its own. A standstill starts it again, once.

    :param expired: called when *seconds* have passed.
    """

    def __init__(self, clock: IReactorTime, seconds: float, expired: Callable[[], object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._expired = expired
        self._due_at = clock.seconds() + seconds
        self._restarted = False
        self._timer: IDelayedCall = clock.callLater(seconds, self._fire)

    def cancel(self) -> None:
        """Stop the timer, if it runs."""
        if self._timer.active():
            self._timer.cancel()

    def _fire(self) -> None:
        late = self._clock.seconds() - self._due_at
        if late > STANDSTILL_SECONDS and not self._restarted:
            self._restarted = True
            remaining = min(self._seconds, MAX_POSTPONED_SECONDS)
            self._timer = self._clock.callLater(remaining, self._fire)
        else:
            self._expired()
