"""The service tree of the daemon: start, drain, stop.

::

    Daemon
    +-- RedisState    the connections to STATE_URL, if that is set
    +-- Maintenance   deadlines, token refills, eviction, breaker steps, health probes
    +-- Listeners     the listening sockets

Start: the tracer starts, the cache snapshot is restored, then the services above start in order.

Stop (SIGTERM):

1. ``/health/ready`` answers 503. Connections and requests are served as before for
   ``DRAIN_DELAY``, so that a load balancer notices the 503 before a connection is refused.
2. The listeners close, and new requests on open connections are refused.
3. Drain: requests in progress finish, for at most ``DRAIN_TIMEOUT``. Idle connections stay open as
   long, so that a new request gets its 503 instead of the end of the connection. The first request
   of a connection is served for :data:`FIRST_REQUEST_SECONDS`: it was probably on its way before.
4. The remaining connections are aborted, to clients and to upstreams.
5. The cache snapshot is written, and the tracer sends the last spans.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from goproxyai.admin.app import AdminApp
from goproxyai.admin.refusals import draining
from goproxyai.admin.stats import Stats
from goproxyai.config.settings import Settings
from goproxyai.daemon.listeners import Listeners
from goproxyai.daemon.maintenance import Maintenance
from goproxyai.daemon.proxy_options import caching_enabled
from goproxyai.durations import format_duration
from goproxyai.egress.agent import RelayAgent
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.handler import ProxyHandler
from goproxyai.telemetry.events import Write
from goproxyai.usage.prices import Prices

if TYPE_CHECKING:
    from goproxyai.daemon.cache_snapshot import CacheSnapshot
    from goproxyai.state.redis.shared import RedisState

FIRST_REQUEST_SECONDS = 0.25
"""Time that a drain gives a connection without a request so far to send its first one."""

DRAIN_POLL_SECONDS = 0.05
"""Interval between two checks whether the requests in progress have finished."""

CLOSE_TIMEOUT_SECONDS = 1.0
"""Time in which connections may close orderly before they are aborted."""

CLOSE_POLL_SECONDS = 0.01
"""Interval between two checks whether the connections have closed."""

_log = Logger(namespace="goproxyai")


@attrs.define(eq=False)
class Daemon(MultiService):
    """The root of the service tree; :func:`goproxyai.daemon.build.make_daemon` makes one.

    :param snapshot: ``None`` where the cache is not kept across restarts.
    :param on_drain: called when stopping begins.
    :param state: ``None`` without ``STATE_URL``.
    :param waits_for_parent: whether the parent process says when connections are accepted.
    :ivar stopping: whether stopping has begun.
    """

    _reactor: Any
    admin: AdminApp
    agent: RelayAgent
    context: ProxyContext
    admission: Admission
    handler: ProxyHandler
    maintenance: Maintenance
    listeners: Listeners
    _snapshot: CacheSnapshot | None
    _on_drain: Callable[[], None]
    _state: RedisState | None = None
    _waits_for_parent: bool = False
    stopping: bool = attrs.field(init=False, default=False)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __attrs_post_init__(self) -> None:
        if self._state is not None:  # first, because services stop in reverse order
            self._state.setServiceParent(self)
        self.maintenance.setServiceParent(self)
        self.listeners.setServiceParent(self)

    @property
    def settings(self) -> Settings:
        """The settings in effect."""
        return self.admin.settings

    @property
    def stats(self) -> Stats:
        """The document of ``/stats``."""
        return self.admin.stats

    @property
    def prices(self) -> Prices:
        """The token prices in effect."""
        return self.context.counters.tokens.prices

    def write_requests(self, write: Write | None) -> None:
        """Write the events of requests with *write* from now on; ``None`` writes none."""
        self.context.access_log.write_to(write)

    def startService(self) -> None:
        """Start; the cache is restored before the first connection is accepted."""
        if self.context.access_log.tracer is not None:
            self.context.access_log.tracer.start()
        if self._snapshot is not None and caching_enabled(self.settings):
            self._snapshot.load()
        super().startService()
        if self._state is not None or self._waits_for_parent:
            self.listeners.hold()
        if self._state is not None and not self._waits_for_parent:
            self.serve()

    def serve(self) -> None:
        """Accept connections; if there is a shared state, when it can be used or is away."""
        if self._state is None:
            self.listeners.serve()
        else:
            self._state.when_ready(self.listeners.serve)

    def stopService(self) -> Deferred[None]:
        """Drain, then stop; the Deferred fires when all parts have stopped."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.stopping = True
        self._on_drain()
        self.admin.stats.ready = False
        delay = self.settings.drain_delay
        if delay:
            _log.info(
                "stopping: /health/ready answers 503, listening ends in {delay}",
                delay=format_duration(delay),
            )
            await deferLater(self._reactor, delay)
        await self.listeners.close()
        await deferLater(self._reactor, 0)  # requests that have arrived are read, and served
        self.admin.stats.draining = True
        self.admin.events.close()
        await self._drain()
        await self._close_connections()
        stopping = super().stopService()
        if stopping is not None:
            await stopping
        self.context.access_log.flush()
        if self._snapshot is not None and caching_enabled(self.settings):
            self._snapshot.save()
        if self.context.access_log.tracer is not None:
            await self.context.access_log.tracer.stop()

    async def _drain(self) -> None:
        """Wait for the requests in progress, and for those of clients that have just connected."""
        connections, timeout = self.listeners.factory.connections, self.settings.drain_timeout
        _log.info("draining {count} connections", count=len(connections))
        deadline = self._reactor.seconds() + timeout
        for connection in tuple(connections):
            connection.drain()
        await self._wait_for(
            lambda: not any(each.fresh for each in connections),
            min(FIRST_REQUEST_SECONDS, timeout),
            DRAIN_POLL_SECONDS,
        )
        self.admin.stats.serves_new_connections = False
        await self._wait_for(
            lambda: all(each.finished for each in connections),
            deadline - self._reactor.seconds(),
            DRAIN_POLL_SECONDS,
        )

    async def _close_connections(self) -> None:
        """Close all connections, and abort those that do not close in time."""
        connections = self.listeners.factory.connections
        for connection in tuple(connections):
            connection.shut_down(draining())
        self.agent.pool.close()
        await self._wait_for(
            lambda: not (connections or len(self.agent.pool)),
            CLOSE_TIMEOUT_SECONDS,
            CLOSE_POLL_SECONDS,
        )
        for connection in tuple(connections):
            connection.abort()

    async def _wait_for(
        self, condition: Callable[[], bool], timeout: float, interval: float
    ) -> None:
        """Return when *condition* holds or after *timeout* seconds; poll every *interval*."""
        deadline = self._reactor.seconds() + timeout
        while not condition() and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, interval)
