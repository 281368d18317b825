"""The daemon: what is built at the start, what runs beside the requests, how it stops.

Stopping (SIGTERM): listening stops, readiness turns 503, what is idle is closed, what is in flight
finishes within ``DRAIN_TIMEOUT``; then everything left is broken off, the cache is kept where that
is wanted, the last spans are sent, and the process ends.
"""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from typing import Any

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IStreamServerEndpoint
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.admin.app import AdminApp, Router, draining
from goproxyai.admin.events import EventStream
from goproxyai.admin.stats import Stats
from goproxyai.cache.store import Store
from goproxyai.config.settings import Settings
from goproxyai.daemon.cache_snapshot import CacheSnapshot
from goproxyai.daemon.endpoints import ListenError, endpoints
from goproxyai.egress.agent import RelayAgent
from goproxyai.egress.routes import Routes
from goproxyai.egress.tls import tls_to
from goproxyai.egress.treq_client import RelayClient
from goproxyai.http11.connection_deadlines import Timeouts
from goproxyai.http11.connection_limits import ConnectionLimits
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.handler import ProxyHandler
from goproxyai.proxy.health_probe import HealthProbe
from goproxyai.proxy.request_id import RequestIds
from goproxyai.proxy.request_plan import ProxyOptions
from goproxyai.proxy.upstreams import Upstream, Upstreams
from goproxyai.reactor.accept import Accepting, fit
from goproxyai.reactor.deadlines import Ticker
from goproxyai.reactor.lean_loop import end_of_turn_scheduler
from goproxyai.reactor.write_batch import WriteBatcher
from goproxyai.telemetry.access_log import AccessLog, Tracer, Write
from goproxyai.telemetry.counters import Counters
from goproxyai.upstream.breaker import Breaker
from goproxyai.usage.prices import Prices

EVICTION_SECONDS = 1.0
"""Between two looks for expired answers."""

TURN_SECONDS = 1.0
"""Between two turns of the circuit breakers."""

EVICTION_SLICE = 50
"""Answers that are dropped between two looks at the clock."""

EVICTION_TURN = 0.001
"""Seconds of one turn of the reactor that dropping may take, and a slice."""

FIRST_SECONDS = 0.5
"""For which, once the daemon drains, a client that has just come may take to ask its first."""

_log = Logger(namespace="goproxyai")


@attrs.define(eq=False)
class Maintenance(Service):
    """What runs beside the requests: deadlines, refills, eviction, probes."""

    clock: Any
    ticker: Ticker
    admission: Admission
    store: Store
    upstreams: Upstreams
    probing: HealthProbe | None
    live: EventStream
    _eviction: LoopingCall = attrs.field(init=False)
    _turning: LoopingCall = attrs.field(init=False)
    _again: IDelayedCall | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._eviction = LoopingCall(self._evict)
        self._eviction.clock = self.clock
        self._turning = LoopingCall(self._turn)
        self._turning.clock = self.clock

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self.ticker.start()
        self.admission.start()
        self._eviction.start(EVICTION_SECONDS, now=False)
        self._turning.start(TURN_SECONDS)
        self.live.start()
        if self.probing is not None:
            self.probing.start()

    def stopService(self) -> None:
        """End."""
        super().stopService()
        self.ticker.stop()
        self.admission.stop()
        self.live.stop()
        for call in (self._eviction, self._turning):
            if call.running:
                call.stop()
        if self.probing is not None:
            self.probing.stop()
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _turn(self) -> None:
        """Let time pass for what judges upstreams."""
        now = self.clock.seconds()
        for upstream in self.upstreams.each:
            upstream.breaker.turn(now)

    def _evict(self) -> None:
        """Drop what has expired, was cleared or is too much; go on in the next turn if need be."""
        store = self.store
        if self._again is not None:
            return
        now = self.clock.seconds()
        more = True
        while more and self.clock.seconds() < now + EVICTION_TURN:
            more = store.sweep(now, EVICTION_SLICE) | store.reclaim(EVICTION_SLICE)
            more |= store.shrink(EVICTION_SLICE)
        if more:
            self._again = self.clock.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._again = None
        self._evict()


@attrs.define(eq=False)
class Listeners(Service):
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
        fit(self.factory.connection_limits.slots)  # nobody comes in before the reactor's next turn
        for address in self.addresses:
            _log.info("listening on {address}", address=str(address))

    def _closed(self, count: int) -> None:
        self.factory.connection_limits.counts.refused["no_descriptor"] += count

    async def close(self) -> None:
        """Listen no more."""
        while self._accepting:
            self._accepting.pop().stop()
        ports, self._ports = self._ports, []
        for port in ports:
            stopping = port.stopListening()
            if stopping is not None:
                await stopping


def _why(result: list[Any]) -> str:
    return result[0].getErrorMessage() if result else "the endpoint does not answer at once"


class Daemon(MultiService):
    """The tree of services; use :func:`make_daemon`.

    :param on_drain: called when stopping begins.
    :ivar stopping: whether it has begun.
    """

    stopping = False

    def __init__(
        self,
        reactor: Any,
        system: AdminApp,
        agent: RelayAgent,
        access_log: AccessLog,
        upkeep: Maintenance,
        door: Listeners,
        snapshot: CacheSnapshot | None,
        on_drain: Callable[[], None],
    ) -> None:
        super().__init__()
        self.system = system
        self.agent = agent
        self.door = door
        self.upkeep = upkeep
        self._reactor = reactor
        self._access_log = access_log
        self._snapshot = snapshot
        self._on_drain = on_drain
        upkeep.setServiceParent(self)
        door.setServiceParent(self)

    def startService(self) -> None:
        """Restore the cache, then listen."""
        if self._access_log.tracer is not None:
            self._access_log.tracer.start()
        if self._snapshot is not None and _caches(self.settings):
            self._snapshot.load()
        super().startService()

    @property
    def settings(self) -> Settings:
        """Those that hold."""
        return self.system.settings

    def write_requests(self, write: Write | None) -> None:
        """Let others, or nobody, read the events of requests from now on."""
        self._access_log.write_to(write)

    @property
    def prices(self) -> Prices:
        """Of tokens, those that hold."""
        return self.system.stats.counters.tokens.prices

    def change(self, settings: Settings, prices: Prices | None = None) -> None:
        """Go on with other settings, in this one turn: each request is served by some or others.

        :param settings: differing in what can change only, see :data:`goproxyai.daemon.reload.LIVE`.
        :param prices: of tokens from now on; those that hold where none are given.
        """
        before, agent, relay = self.settings, self.agent, self.system.relay
        self.system.settings = self.system.stats.settings = settings
        if prices is not None:
            self.system.stats.counters.tokens.prices = prices
        relay.admission.limit(settings.rate_limit)
        relay.admission.trust(settings.trusted_proxies)
        relay.log.slow = settings.log_slow
        relay.log.sample = settings.log_sample
        self.door.factory.connection_limits.trust(settings.trusted_proxies)
        agent.connect_timeout = settings.connect_timeout
        agent.timeouts.head = settings.request_timeout
        agent.timeouts.silence = settings.idle_timeout
        self.door.factory.max_body_bytes = settings.max_body_size
        if _kept(before) != _kept(settings):
            terms = relay.terms
            relay.terms = attrs.evolve(
                terms,
                ttl=settings.cache_ttl,
                most_ttl=settings.cache_max_ttl,
                retry_status=settings.retry_status,
                patience=settings.request_timeout,
                cached=_caches(settings),
            )
            relay.store.resize(settings.max_cache_size)
            if not relay.terms.cached:
                relay.store.clear()

    def stopService(self) -> Deferred[None]:
        """Drain, then stop; fires when everything has ended."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.stopping = True
        self._on_drain()
        await self.door.close()
        await deferLater(self._reactor, 0)  # what had been sent by now is read, and served
        self.system.stats.ready = False
        self.system.live.close()
        connections = self.door.factory.connections
        _log.info("draining {count} connections", count=len(connections))
        await self._drain()
        for connection in tuple(connections):
            connection.shut(draining())
        self.agent.pool.close()
        await self._until(1.0, lambda: not (connections or len(self.agent.pool)), 0.01)
        for connection in tuple(connections):
            connection.abort()
        stopping = super().stopService()
        if stopping is not None:
            await stopping
        self._access_log.flush()
        if self._snapshot is not None and _caches(self.settings):
            self._snapshot.save()
        if self._access_log.tracer is not None:
            await self._access_log.tracer.stop()

    async def _drain(self) -> None:
        """Close what is idle, and wait for the rest; for clients that have just come, a moment."""
        connections, timeout = self.door.factory.connections, self.settings.drain_timeout
        began = self._reactor.seconds()
        for connection in tuple(connections):
            connection.drain(True)
        await self._until(
            min(FIRST_SECONDS, timeout), lambda: not any(each.fresh for each in connections)
        )
        for connection in tuple(connections):
            connection.drain(False)
        left = began + timeout - self._reactor.seconds()
        await self._until(left, lambda: all(each.idle for each in connections))

    async def _until(
        self, seconds: float, condition: Callable[[], bool], step: float = 0.05
    ) -> None:
        """Wait for *condition*, at most so many *seconds*."""
        deadline = self._reactor.seconds() + seconds
        while not condition() and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, step)


def _nothing() -> None:
    """The default for what is done when stopping begins."""


def make_daemon(
    reactor: Any,
    settings: Settings,
    write_requests: Write | None = None,
    on_drain: Callable[[], None] = _nothing,
    tls: Callable[[str], Any] = tls_to,
    prices: Prices | None = None,
    tracer: Tracer | None = None,
) -> Daemon:
    """Build the daemon; nothing runs before ``startService``.

    :param reactor: connects, listens and tells the time.
    :param write_requests: gets the events of requests; ``None`` where nobody wants them.
    :param tls: the client side of TLS to a host.
    :param prices: of tokens; none where none are given.
    :param tracer: follows the requests; ``None`` where nobody does.
    """
    ticker = Ticker(reactor)
    counters = Counters()
    counters.tokens.prices = prices or Prices()
    store = Store(settings.max_cache_size, settings.cache_stale)
    admission = Admission(reactor, settings.rate_limit, settings.trusted_proxies)
    routes = Routes(reactor, settings.proxy_url, settings.no_proxy, tls)
    timeouts = Timeouts(head=settings.request_timeout, silence=settings.idle_timeout)
    outbox = WriteBatcher(end_of_turn_scheduler(reactor))
    agent = RelayAgent(reactor, ticker, routes, timeouts, settings.connect_timeout, outbox)
    access_log = AccessLog(
        reactor, counters, write_requests, settings.log_slow, settings.log_sample
    )
    access_log.tracer = tracer
    client = RelayClient(agent)
    upstreams = Upstreams(
        tuple(
            Upstream(
                rank, client.route(url.origin), url.base_path, url.text, Breaker(settings.breaker)
            )
            for rank, url in enumerate(settings.openai_api_url)
        )
    )
    terms = ProxyOptions(
        upstreams.each[0],
        settings.cache_shared,
        settings.coalesce,
        settings.cache_ttl,
        settings.cache_max_ttl,
        settings.retry_status,
        settings.request_timeout,
        _caches(settings),
        tracer is not None,
    )
    relay = ProxyHandler(
        reactor,
        upstreams,
        terms,
        client,
        admission,
        store,
        counters,
        access_log,
    )
    connection_limits = ConnectionLimits(
        ticker,
        counters.connections,
        settings.max_connections,
        settings.max_connections_per_client,
        settings.trusted_proxies,
    )
    stats = Stats(settings, relay, counters, connection_limits.slots)
    system = AdminApp(settings, relay, stats, EventStream(reactor, stats))
    front = Router(system, RequestIds(token_hex(6).encode("ascii")))
    factory = ServerFactory(
        ticker, front.dispatch, settings.max_body_size, outbox, connection_limits
    )
    probing = None
    if settings.health_probe is not None:
        probing = HealthProbe(reactor, client, upstreams, settings.health_probe)
    upkeep = Maintenance(reactor, ticker, admission, store, upstreams, probing, system.live)
    door = Listeners(reactor, endpoints(reactor, settings.listen), factory)
    snapshot = _snapshot(reactor, settings, store)
    return Daemon(reactor, system, agent, access_log, upkeep, door, snapshot, on_drain)


def _caches(settings: Settings) -> bool:
    """Whether answers are kept at all."""
    return settings.cache_ttl > 0 and settings.max_cache_size > 0


def _kept(settings: Settings) -> tuple[object, ...]:
    """What decides how long answers are kept, how many, and when they are asked for again."""
    return (
        settings.cache_ttl,
        settings.cache_max_ttl,
        settings.max_cache_size,
        settings.retry_status,
        settings.request_timeout,
    )


def _snapshot(reactor: Any, settings: Settings, store: Store) -> CacheSnapshot | None:
    """Where the cache is kept while the daemon is down, if it is."""
    path, key = settings.cache_snapshot, settings.cache_snapshot_key
    if path is None or key is None:
        return None
    return CacheSnapshot(path, key, store, reactor.seconds, upstream=settings.openai_url)
