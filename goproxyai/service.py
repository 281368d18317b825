"""The daemon: what is built at the start, what runs beside the requests, how it stops.

Stopping (SIGTERM): readiness turns 503, listening stops, what is in flight finishes within
``DRAIN_TIMEOUT``; then everything left is broken off, the cache is kept where that is wanted, and
the process ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IStreamServerEndpoint
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.counters import Counters
from goproxyai.egress.agent import RelayAgent
from goproxyai.egress.relay import RelayClient
from goproxyai.egress.routes import Routes
from goproxyai.egress.trust import tls_to
from goproxyai.http11.accepting import Accepting, fit
from goproxyai.http11.client import Timeouts
from goproxyai.http11.entrance import Entrance
from goproxyai.http11.outbox import Outbox
from goproxyai.http11.server import ServerFactory
from goproxyai.http11.ticking import Ticker
from goproxyai.http11.turns import ends_of_turns
from goproxyai.pipeline.admit import Admission
from goproxyai.pipeline.log import AccessLog, Write
from goproxyai.pipeline.notes import Terms
from goproxyai.pipeline.relay import Relay
from goproxyai.policy.store import Store
from goproxyai.settings import Settings
from goproxyai.snapshot import Snapshot
from goproxyai.web import Front, System

EVICTION_SECONDS = 1.0
"""Between two looks for expired answers."""

EVICTION_SLICE = 100
"""Answers that are dropped between two looks at the clock."""

EVICTION_TURN = 0.002
"""Seconds of one turn of the reactor that dropping may take, and a slice."""

_log = Logger(namespace="goproxyai")


class ListenError(SystemExit):
    """An address cannot be listened on: ends the process with one line, status 1."""


@attrs.define(eq=False)
class Upkeep(Service):
    """What runs beside the requests: deadlines, refills, eviction."""

    clock: Any
    ticker: Ticker
    admission: Admission
    store: Store | None
    _eviction: LoopingCall = attrs.field(init=False)
    _again: IDelayedCall | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._eviction = LoopingCall(self._evict)
        self._eviction.clock = self.clock

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self.ticker.start()
        self.admission.start()
        self._eviction.start(EVICTION_SECONDS, now=False)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        self.ticker.stop()
        self.admission.stop()
        if self._eviction.running:
            self._eviction.stop()
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _evict(self) -> None:
        """Drop what has expired or was cleared; go on in the next turn if that takes long."""
        store = self.store
        if store is None or self._again is not None:
            return
        now = self.clock.seconds()
        more = True
        while more and self.clock.seconds() < now + EVICTION_TURN:
            more = store.sweep(now, EVICTION_SLICE) | store.reclaim(EVICTION_SLICE)
        if more:
            self._again = self.clock.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._again = None
        self._evict()


@attrs.define(eq=False)
class Door(Service):
    """The listening sockets.

    :ivar addresses: what is listened on, once it is.
    """

    clock: Any
    listen: tuple[tuple[str, IStreamServerEndpoint], ...]
    factory: ServerFactory
    _ports: list[IListeningPort] = attrs.field(factory=list)
    _accepting: list[Accepting] = attrs.field(factory=list)

    @property
    def addresses(self) -> list[Any]:
        """The addresses, port numbers filled in."""
        return [port.getHost() for port in self._ports]

    def startService(self) -> None:
        """Listen.

        :raises ListenError: with one line that says where that failed.
        """
        super().startService()
        for description, endpoint in self.listen:
            listening = endpoint.listen(self.factory)
            result: list[Any] = []
            listening.addBoth(result.append)  # endpoints that listen do so at once, or fail
            if not result or isinstance(result[0], Failure):
                raise ListenError(f"goproxyai: cannot listen on {description}: {_why(result)}")
            self._ports.append(result[0])
            self._accepting.append(Accepting(result[0], self.clock, self._closed))
        fit(self.factory.entrance.crowd)  # nobody comes in before the reactor's next turn
        for address in self.addresses:
            _log.info("listening on {address}", address=str(address))

    def _closed(self, count: int) -> None:
        self.factory.entrance.counters.refused["no_descriptor"] += count

    async def close(self) -> None:
        """Listen no more."""
        while self._accepting:
            self._accepting.pop().stop()
        ports, self._ports = self._ports, []
        for port in ports:
            stopping = port.stopListening()
            if stopping is not None:
                await stopping


def endpoints(
    reactor: Any, descriptions: tuple[str, ...]
) -> tuple[tuple[str, IStreamServerEndpoint], ...]:
    """What *descriptions* stand for, each with its description.

    :raises ListenError: with one line that says which is none.
    """
    found = []
    for description in descriptions:
        try:
            found.append((description, serverFromString(reactor, description)))
        except Exception as error:  # each kind of endpoint has errors of its own
            raise ListenError(
                f"goproxyai: LISTEN is {description!r}, expected a Twisted endpoint such as "
                f"tcp:8080 ({error})"
            ) from None
    return tuple(found)


def _why(result: list[Any]) -> str:
    return result[0].getErrorMessage() if result else "the endpoint does not answer at once"


class Daemon(MultiService):
    """The tree of services; use :func:`make_daemon`.

    :param on_drain: called when stopping begins.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        system: System,
        agent: RelayAgent,
        access_log: AccessLog,
        upkeep: Upkeep,
        door: Door,
        snapshot: Snapshot | None,
        on_drain: Callable[[], None],
    ) -> None:
        super().__init__()
        self.system = system
        self.agent = agent
        self.door = door
        self._reactor = reactor
        self._drain_timeout = settings.drain_timeout
        self._access_log = access_log
        self._snapshot = snapshot
        self._on_drain = on_drain
        upkeep.setServiceParent(self)
        door.setServiceParent(self)

    def startService(self) -> None:
        """Restore the cache, then listen."""
        if self._snapshot is not None:
            self._snapshot.load()
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Drain, then stop; fires when everything has ended."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._on_drain()
        self.system.ready = False
        await self.door.close()
        connections = self.door.factory.connections
        _log.info("draining {count} connections", count=len(connections))
        deadline = self._reactor.seconds() + self._drain_timeout
        while self._busy() and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.05)
        for connection in tuple(connections):
            connection.shut()
        self.agent.pool.close()
        deadline = self._reactor.seconds() + 1.0
        while (connections or len(self.agent.pool)) and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.01)
        for connection in tuple(connections):
            connection.abort()
        stopping = super().stopService()
        if stopping is not None:
            await stopping
        self._access_log.flush()
        if self._snapshot is not None:
            self._snapshot.save()

    def _busy(self) -> bool:
        return any(not connection.idle for connection in self.door.factory.connections)


def _nothing() -> None:
    """The default for what is done when stopping begins."""


def make_daemon(
    reactor: Any,
    settings: Settings,
    write_requests: Write | None = None,
    on_drain: Callable[[], None] = _nothing,
    tls: Callable[[str], Any] = tls_to,
) -> Daemon:
    """Build the daemon; nothing runs before ``startService``.

    :param reactor: connects, listens and tells the time.
    :param write_requests: gets the events of requests; ``None`` where nobody wants them.
    :param tls: the client side of TLS to a host.
    """
    ticker = Ticker(reactor)
    counters = Counters()
    caching = settings.cache_ttl > 0 and settings.max_cache_size > 0
    store = Store(settings.max_cache_size, settings.cache_stale) if caching else None
    admission = Admission(reactor, settings.rate_limit, settings.trusted_proxies)
    routes = Routes(reactor, settings.proxy_url, settings.no_proxy, tls)
    timeouts = Timeouts(head=settings.request_timeout, silence=settings.idle_timeout)
    outbox = Outbox(ends_of_turns(reactor))
    agent = RelayAgent(reactor, ticker, routes, timeouts, settings.connect_timeout, outbox)
    access_log = AccessLog(reactor, counters, write_requests)
    client = RelayClient(agent)
    terms = Terms(
        client.route(settings.openai_api_url.origin),
        settings.openai_api_url.base_path,
        settings.cache_shared,
        settings.coalesce,
        settings.cache_ttl,
        settings.cache_max_ttl,
    )
    relay = Relay(
        reactor,
        terms,
        client,
        admission,
        store,
        counters,
        access_log,
    )
    entrance = Entrance(
        ticker,
        counters,
        settings.max_connections,
        settings.max_connections_per_client,
        settings.trusted_proxies,
    )
    system = System(settings, relay, counters, entrance.crowd)
    factory = ServerFactory(
        ticker, Front(system).dispatch, settings.max_body_size, outbox, entrance
    )
    upkeep = Upkeep(reactor, ticker, admission, store)
    door = Door(reactor, endpoints(reactor, settings.listen), factory)
    snapshot = _snapshot(reactor, settings, store)
    return Daemon(reactor, settings, system, agent, access_log, upkeep, door, snapshot, on_drain)


def _snapshot(reactor: Any, settings: Settings, store: Store | None) -> Snapshot | None:
    """Where the cache is kept while the daemon is down, if it is."""
    path, key = settings.cache_snapshot, settings.cache_snapshot_key
    if store is None or path is None or key is None:
        return None
    return Snapshot(path, key, store, reactor.seconds, upstream=settings.openai_api_url.text)
