"""How a listening socket accepts, and what the process's files allow.

1. At most :data:`MOST_ACCEPTS` connections a turn and socket. Twisted takes a hundred, and twenty
   more each time that so many wait: in a storm, turns would last longer and longer, and every
   stream would wait for them.
2. Where the process may open no more files, Twisted closes who waits by means of a file that it
   keeps for that, which is right; it also logs four lines a time, which is not: here it is one,
   once in :data:`LOG_SECONDS`. Where it lost that file it would fail again in every turn: the
   socket then pauses for :data:`PAUSE_SECONDS`.
3. So that it does not come to this, the limit is raised as far as it may be at the start, and
   where that is not enough for all connections, fewer are let in.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from errno import ECONNABORTED, errorcode
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.tcp import Port
from twisted.logger import LogEvent, Logger

from goproxyai.limits.connection_slots import ConnectionSlots, connections_for, descriptors_for

MOST_ACCEPTS = 32
"""Connections that a socket accepts in one turn of the reactor: about half a millisecond."""

LOG_SECONDS = 60.0
"""Between two lines that say that there is no file left."""

PAUSE_SECONDS = 1.0
"""Until a socket that could not accept tries again."""

_log = Logger(namespace="goproxyai.accepting")


class Accepting:
    """How one listening socket accepts.

    :param port: what an endpoint's ``listen`` gave; one that is not Twisted's is left alone.
    :param closed: is told of how many connections were closed since there was no file for them.
    """

    def __init__(self, port: Any, clock: Any, closed: Callable[[int], None]) -> None:
        self._port = port
        self._clock = clock
        self._closed = closed
        self._count = 0
        self._unsaid = 0
        self._stuck = ""
        self._quiet_until = 0.0
        self._again: IDelayedCall | None = None
        if isinstance(port, Port):
            self._accept = port.doRead
            ours: Any = port  # whose type does not tell what it logs with
            ours.doRead = self._turn
            ours._logger = Logger(observer=self._heard)  # type: ignore[arg-type]  # any callable observes

    def stop(self) -> None:
        """The socket is to be closed."""
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _turn(self) -> None:
        self._port.numberAccepts = min(self._port.numberAccepts, MOST_ACCEPTS)
        self._accept()
        if self._count or self._stuck:
            self._no_file()

    def _heard(self, event: LogEvent) -> None:
        """What Twisted would have logged."""
        if "address" in event:
            self._count += 1
        elif event.get("acceptError", errorcode[ECONNABORTED]) != errorcode[ECONNABORTED]:
            self._stuck = event["acceptError"]

    def _no_file(self) -> None:
        count, self._count = self._count, 0
        stuck, self._stuck = self._stuck, ""
        self._closed(count)
        self._port.numberAccepts = MOST_ACCEPTS  # which Twisted takes down to 1: nobody came in
        self._unsaid += count
        now = self._clock.seconds()
        if now >= self._quiet_until:
            self._quiet_until = now + LOG_SECONDS
            unsaid, self._unsaid = self._unsaid, 0
            _log.warn(
                "no file descriptor is left ({error}), {count} connections were closed unheard; "
                "raise the limit (ulimit -n) or lower MAX_CONNECTIONS",
                error=stuck or "EMFILE",
                count=unsaid,
            )
        if stuck and self._again is None:
            self._port.stopReading()
            self._again = self._clock.callLater(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        self._again = None
        self._port.startReading()


def fit(slots: ConnectionSlots[Any]) -> None:
    """Raise the limit on open files, and lower ``slots.max_connections`` to what it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # a sandbox may forbid what the limit allows
            pass
    if soft == unlimited:
        return
    wanted = slots.max_connections
    slots.max_connections = connections_for(soft, wanted)
    if slots.max_connections < wanted:
        _log.warn(
            "MAX_CONNECTIONS is {wanted}, for which {needed} file descriptors are needed, and "
            "{allowed} are allowed (ulimit -n): at most {most} connections are held",
            wanted=wanted,
            needed=descriptors_for(wanted),
            allowed=soft,
            most=slots.max_connections,
        )
