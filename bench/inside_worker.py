"""The daemon in memory as one of two workers, with the memory that workers share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from bench.inside import InMemoryDaemon, imported

WORKERS = 2
RING_BYTES = 256 * 1024 * 1024


class _Port:
    """A port that need not be paused: no connection waits."""

    def stopReading(self) -> None:
        pass


class _Reactor(MemoryReactorClock):
    def listenTCP(self, *arguments: Any, **options: Any) -> Any:
        super().listenTCP(*arguments, **options)
        return _Port()


class _Parts:
    """What makes a daemon a worker; it listens on a port of its own."""

    instance = b"instance"

    def __init__(self, link: Any) -> None:
        self.link = link

    def endpoints(self, reactor: Any, _: str | None) -> Any:
        parse = imported("goproxyai.daemon.endpoints:parse_endpoints")
        return parse(reactor, ("tcp:0:interface=127.0.0.1",)), ()

    def balance(self, connections: Callable[[], int]) -> Any:
        balance = imported("goproxyai.daemon.accept_balance:AcceptBalance")
        return balance([0] * WORKERS, 0, connections)


class WorkerDaemon(InMemoryDaemon):
    """A worker. Every response that is stored is in its ring; the other worker does nothing.

    :param more: settings of the daemon.
    """

    def __init__(self, **more: str) -> None:
        memory = "goproxyai.daemon.shared_memory:"
        shared = imported(memory + "make_shared_memory")(WORKERS)
        reactor: Any = _Reactor()
        reactor.seconds = time.monotonic
        self.link = imported("goproxyai.state.parent_link:ParentLink")(
            reactor,
            0,
            imported(memory + "map_records")(shared, WORKERS, time.monotonic, 0),
            imported(memory + "map_marks")(shared, WORKERS, 0),
            at_end_of_turn=self._call_at_end,
        )
        self.link.second_level.records.resize(RING_BYTES)
        super().__init__(False, False, reactor, {"worker": _Parts(self.link)}, **more)
        self.link.store = self.daemon.context.store

    def _call_at_end(self, call: Callable[[], None]) -> None:
        self._at_end.append(call)
