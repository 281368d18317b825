"""The live objects that the admin endpoints report on."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from goproxyai.cache.store import Store
from goproxyai.limits.connection_slots import ConnectionSlots
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.upstreams import Upstreams
from goproxyai.telemetry.access_log import AccessLog
from goproxyai.telemetry.counters import Counters


@attrs.frozen(eq=False)
class Sources:
    """What `/stats`, `/metrics` and the dashboard read; they change none of it.

    :ivar admission: has one token bucket per client.
    :ivar flights: the upstream requests in progress that several clients may share.
    :ivar pool: the open connections to upstreams.
    :ivar slots: the connections from clients.
    :ivar memory: the budget of requests and responses in progress.
    :ivar dropped_log_lines: returns the number of log lines that were dropped.
    """

    clock: IReactorTime
    counters: Counters
    access_log: AccessLog
    admission: Admission
    store: Store
    flights: Sized
    upstreams: Upstreams
    pool: Sized
    slots: ConnectionSlots[Any]
    memory: RequestMemory
    dropped_log_lines: Callable[[], int]

    def refresh(self) -> None:
        """Count the finished requests that still wait in the access log's batch."""
        self.access_log.flush()
