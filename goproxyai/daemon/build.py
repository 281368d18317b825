"""The composition root: builds every part of the daemon and connects the parts."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from goproxyai.admin.app import AdminApp
from goproxyai.admin.dashboard_feed import DashboardFeed, Feed
from goproxyai.admin.events import EventStream
from goproxyai.admin.metrics import Metrics
from goproxyai.admin.remote_pages import RemoteFeed, RemotePages
from goproxyai.admin.routes import AdminRoutes, admin_routes, health_routes
from goproxyai.admin.sources import LiveState, Sources
from goproxyai.admin.stats import Stats
from goproxyai.cache.replayed_entries import ReplayedEntries
from goproxyai.cache.store import Store
from goproxyai.config.settings import Settings
from goproxyai.daemon.endpoints import parse_endpoints
from goproxyai.daemon.listeners import Listeners
from goproxyai.daemon.maintenance import Maintenance
from goproxyai.daemon.passed_sockets import WorkerParts
from goproxyai.daemon.proxy_options import make_proxy_options
from goproxyai.daemon.resident_memory import ResidentMemory
from goproxyai.daemon.service import Daemon
from goproxyai.egress.agent import RelayAgent, timeouts_of
from goproxyai.egress.routes import Routes
from goproxyai.egress.tls import tls_to
from goproxyai.egress.treq_client import RelayClient
from goproxyai.http11.connection_limits import ConnectionLimits
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.bypass_warning import BypassWarning
from goproxyai.proxy.cache_lookup import CacheLookup
from goproxyai.proxy.context import OptionsHolder, ProxyContext
from goproxyai.proxy.explanation import Explainer
from goproxyai.proxy.handler import ProxyHandler
from goproxyai.proxy.health_probe import HealthProbe
from goproxyai.proxy.live_requests import LiveRequests
from goproxyai.proxy.open_tunnels import OpenTunnels
from goproxyai.proxy.relayed_routes import METHODS, NOT_RELAYED, RelayedRoutes
from goproxyai.proxy.request_id import RequestIds
from goproxyai.proxy.upstreams import Upstream, Upstreams
from goproxyai.reactor.deadlines import Ticker
from goproxyai.reactor.lean_loop import end_of_turn_scheduler
from goproxyai.reactor.write_batch import WriteBatcher, Writer
from goproxyai.router import ExplainedRoutes, Router
from goproxyai.state.refilled_buckets import RefilledBuckets
from goproxyai.state.shared_state import NO_SHARED_STATE, RateLimiter
from goproxyai.telemetry.access_log import AccessLog
from goproxyai.telemetry.counters import Counters, is_own_page
from goproxyai.telemetry.events import Write
from goproxyai.telemetry.trace_protocol import Tracer
from goproxyai.upstream.breaker import CircuitBreaker
from goproxyai.upstream.retries import RetryBudget
from goproxyai.usage.prices import Prices

if TYPE_CHECKING:
    from goproxyai.daemon.cache_snapshot import CacheSnapshot
    from goproxyai.state.redis.shared import RedisState


def make_daemon(
    reactor: Any,
    settings: Settings,
    write_requests: Write | None = None,
    on_drain: Callable[[], None] = lambda: None,
    tls: Callable[[str], Any] = tls_to,
    prices: Prices | None = None,
    tracer: Tracer | None = None,
    dropped_log_lines: Callable[[], int] = lambda: 0,
    worker: WorkerParts | None = None,
) -> Daemon:
    """Build the daemon; nothing runs before ``startService``.

    :param reactor: connects, listens and keeps the time.
    :param write_requests: writes the events of requests; ``None`` where no events are written.
    :param on_drain: called when stopping begins.
    :param tls: makes the client's TLS options for a host name.
    :param prices: token prices; ``None`` for no prices.
    :param tracer: ``None`` where tracing is off.
    :param dropped_log_lines: returns the number of log lines that were dropped.
    :param worker: what makes the daemon one of several workers.
    :raises ListenError: where an endpoint of ``LISTEN`` or ``ADMIN_LISTEN`` is invalid.
    """
    ticker = Ticker(reactor)
    memory = RequestMemory(settings.max_request_memory)
    writer = WriteBatcher(end_of_turn_scheduler(reactor))
    counters = Counters()
    counters.tokens.prices = prices or Prices()
    access_log = AccessLog(
        reactor, counters, write_requests, settings.log_slow, settings.log_sample
    )
    access_log.tracer = tracer
    replayed = ReplayedEntries(memory)
    bypass_warning = BypassWarning(counters, ticker.now)
    tunnels = OpenTunnels(settings.tunnel_idle_timeout)
    ticker.watched |= {memory, replayed, bypass_warning, tunnels}
    store = Store(settings.max_cache_size, settings.cache_stale, replayed)
    state, admission = _admission(reactor, settings, counters, store, worker)
    shared = state or (NO_SHARED_STATE if worker is None else worker.link)
    agent = _agent(reactor, settings, ticker, writer, memory, tls)
    client = RelayClient(agent)
    upstreams = _upstreams(settings, client)
    instance = new_instance() if worker is None else worker.instance
    options = make_proxy_options(settings, upstreams.first, instance, traced=tracer is not None)
    context = ProxyContext(
        reactor,
        reactor.seconds,
        OptionsHolder(options),
        store,
        CacheLookup(
            store,
            is_first_level=shared.second_level is not None,
            catch_up=None if worker is None else worker.link.catch_up,
        ),
        upstreams,
        client,
        RetryBudget(),
        counters,
        access_log,
        memory,
        replayed,
        bypass_warning,
        tunnels,
        shared=shared,
    )
    handler = ProxyHandler(context, admission)
    limits = _connection_limits(settings, ticker, counters)
    ticker.watched.add(ResidentMemory(memory, store, lambda: limits.slots.admitted))
    live = LiveRequests(reactor.seconds, admission.client, lambda path: not is_own_page(path))
    admin = _admin_app(
        settings, context, handler, admission, limits, dropped_log_lines, live, worker, state
    )
    public, private = _routers(settings, admin, handler, admission, context)
    factory = ServerFactory(ticker, public.dispatch, settings.max_body_size, writer, limits, memory)
    admin_factory = factory.sibling(private.dispatch)
    live.connections = factory.connections
    factory.keep_alive_seconds = admin_factory.keep_alive_seconds = settings.keepalive_timeout
    probe = _health_probe(reactor, settings, client, upstreams)
    return Daemon(
        reactor,
        admin,
        agent,
        context,
        admission,
        handler,
        Maintenance(reactor, ticker, admission, store, upstreams, probe, admin.events),
        _listeners(reactor, settings, factory, admin_factory, worker),
        _snapshot(settings, store, reactor.seconds) if worker is None else None,
        on_drain,
        state,
        waits_for_parent=worker is not None,
    )


def _admission(
    reactor: Any,
    settings: Settings,
    counters: Counters,
    store: Store,
    worker: WorkerParts | None,
) -> tuple[RedisState | None, Admission]:
    limiter: RateLimiter
    if worker is None:
        limiter = RefilledBuckets(reactor, settings.rate_limit)
    else:
        limiter = worker.link.limiter
    others = NO_SHARED_STATE if worker is None else worker.link
    state: RedisState | None = None
    if settings.state_url is not None:
        # The modules take 1 MB, and are imported with `STATE_URL` only.
        from goproxyai.daemon.shared_redis import make_redis_state

        state = make_redis_state(reactor, settings, counters, store, limiter, others)
    return state, Admission(
        reactor,
        settings.rate_limit,
        settings.trusted_proxies,
        limiter if state is None else state.limiter,
        may_refuse_all=state is not None and settings.state_strict,
    )


def _snapshot(
    settings: Settings, store: Store, seconds: Callable[[], float]
) -> CacheSnapshot | None:
    """Return the snapshot; libsodium takes 1 MB, and is imported with ``CACHE_SNAPSHOT`` only."""
    if settings.cache_snapshot is None:
        return None
    from goproxyai.daemon.cache_snapshot import StoreRecords, snapshot_of

    return snapshot_of(settings, StoreRecords(store, seconds))


def new_instance() -> bytes:
    """Return a new identification of a service in ``Via``."""
    return token_hex(6).encode("ascii")


def _listeners(
    reactor: Any,
    settings: Settings,
    factory: ServerFactory,
    admin_factory: ServerFactory,
    worker: WorkerParts | None,
) -> Listeners:
    if worker is not None:
        endpoints, admin_endpoints = worker.endpoints(reactor, settings.tls_client_ca)
        counts = factory.connection_limits.counts
        may_accept = worker.balance(lambda: counts.opened - counts.closed).may_accept
        return Listeners(reactor, endpoints, factory, admin_endpoints, admin_factory, may_accept)
    authority = settings.tls_client_ca
    return Listeners(
        reactor,
        parse_endpoints(reactor, settings.listen, client_ca=authority),
        factory,
        parse_endpoints(reactor, settings.admin_listen, "ADMIN_LISTEN", authority),
        admin_factory,
    )


def _routers(
    settings: Settings,
    admin: AdminApp,
    handler: ProxyHandler,
    admission: Admission,
    context: ProxyContext,
) -> tuple[Router, Router]:
    """Return the routers of ``LISTEN`` and of ``ADMIN_LISTEN``."""
    access_log = context.access_log
    request_ids = RequestIds(new_instance())  # workers share the other one

    relayed = RelayedRoutes(settings.relay_paths, METHODS)
    explainer = Explainer(context, admission, handler.single_flight)
    explained = ExplainedRoutes(relayed, explainer.explain)

    def router(
        routes: RelayedRoutes, served: AdminRoutes, explained: ExplainedRoutes | None
    ) -> Router:
        return Router(
            admin, handler, admin.stats, admission, access_log, request_ids, routes, served,
            explained,
        )  # fmt: skip

    private = router(NOT_RELAYED, admin_routes(), explained)
    if settings.admin_listen:
        return router(relayed, health_routes(), None), private
    return router(relayed, admin_routes(), explained), private


def _admin_app(
    settings: Settings,
    context: ProxyContext,
    handler: ProxyHandler,
    admission: Admission,
    limits: ConnectionLimits,
    dropped_log_lines: Callable[[], int],
    live: LiveRequests,
    worker: WorkerParts | None,
    state: RedisState | None,
) -> AdminApp:
    sources = Sources(
        context.clock,
        context.counters,
        context.access_log,
        admission,
        context.store,
        handler.single_flight,
        context.upstreams,
        context.client.pool,
        limits.slots,
        context.memory,
        dropped_log_lines,
        live,
        None if state is None else LiveState(state),
    )
    stats = Stats(settings, sources)
    feed: Feed
    if worker is None:
        feed, remote = DashboardFeed(sources, stats), None
        events = EventStream(feed, context.clock)
        feed.subscriptions = events.__len__
    else:
        feed, remote = RemoteFeed(worker.link), RemotePages(worker.link)
        events = EventStream(feed, context.clock)
    return AdminApp(
        settings,
        stats,
        events,
        Metrics(sources),
        context.store,
        context.upstreams,
        context.clock,
        context.shared,
        remote,
    )


def _agent(
    reactor: Any,
    settings: Settings,
    ticker: Ticker,
    writer: Writer,
    memory: RequestMemory,
    tls: Callable[[str], Any],
) -> RelayAgent:
    routes = Routes(reactor, settings.proxy_url, settings.no_proxy, tls)
    return RelayAgent(
        reactor, ticker, routes, timeouts_of(settings), settings.connect_timeout, writer, memory
    )


def _upstreams(settings: Settings, client: RelayClient) -> Upstreams:
    return Upstreams(
        tuple(
            Upstream(
                rank,
                client.route(url.origin),
                url.base_path,
                url.text,
                CircuitBreaker(settings.breaker),
            )
            for rank, url in enumerate(settings.openai_api_url)
        )
    )


def _connection_limits(settings: Settings, ticker: Ticker, counters: Counters) -> ConnectionLimits:
    return ConnectionLimits(
        ticker,
        counters.connections,
        settings.max_connections,
        settings.max_connections_per_client,
        settings.trusted_proxies,
    )


def _health_probe(
    reactor: Any, settings: Settings, client: RelayClient, upstreams: Upstreams
) -> HealthProbe | None:
    if settings.health_probe is None:
        return None
    return HealthProbe(reactor, client, upstreams, settings.health_probe)
