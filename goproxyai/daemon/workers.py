"""Builds the parent process of ``WORKERS``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from goproxyai import __version__
from goproxyai.admin.dashboard_feed import DashboardFeed
from goproxyai.admin.metric_families import PREFIX, labelled_counter, one_counter, one_gauge
from goproxyai.admin.metrics import Metrics
from goproxyai.admin.process_numbers import resident_bytes
from goproxyai.admin.remote_pages import METRICS, STATS, DashboardPage, encode_dashboard
from goproxyai.admin.stats import Stats
from goproxyai.admin.summed_sources import ReportDocument, SummedSources
from goproxyai.config.sources import ConfigSources, LoadedConfig
from goproxyai.config.variable import SettingError
from goproxyai.daemon.build import new_instance
from goproxyai.daemon.cache_snapshot import snapshot_of
from goproxyai.daemon.endpoints import parse_endpoints
from goproxyai.daemon.log_setup import log_file_of
from goproxyai.daemon.parent_listeners import ParentListeners
from goproxyai.daemon.parent_state import ParentState
from goproxyai.daemon.shared_memory import map_counts, map_marks, map_records
from goproxyai.daemon.supervisor import Supervisor
from goproxyai.daemon.worker_process import WorkerProcess, WorkerSetup
from goproxyai.errors import json_bytes
from goproxyai.proxy.admission import Admission
from goproxyai.state.cache_server import CacheServer
from goproxyai.state.messages import Welcome
from goproxyai.state.refilled_buckets import RefilledBuckets
from goproxyai.state.shared_records import SharedRecords
from goproxyai.telemetry.log_output import LogOutput


def check_log_options(output: LogOutput | None) -> None:
    """Check that the workers can write the log.

    :raises SettingError: with one line, if the operator has chosen a logger or syslog.
    """
    if output is None:
        raise SettingError(
            "WORKERS is more than 1, expected 1 with twistd's --logger and --syslog, which write "
            "the log of one process"
        )


def make_parent(
    reactor: Any,
    twistd_options: Mapping[str, Any],
    sources: ConfigSources,
    config: LoadedConfig,
    output: LogOutput,
    shared: int,
    workers: int,
    on_drain: Callable[[], None],
) -> Supervisor:
    """Listen, and build the supervisor.

    :param shared: descriptor of the memory that the processes share, see :class:`.Welcome`.
    :raises ListenError: where an endpoint is invalid, or cannot be listened on.
    """
    settings = config.settings
    client_ca = settings.tls_client_ca
    listeners = ParentListeners(
        parse_endpoints(reactor, settings.listen, client_ca=client_ca),
        parse_endpoints(reactor, settings.admin_listen, "ADMIN_LISTEN", client_ca),
    )
    sockets, admin_sockets = listeners.listen()
    welcome = Welcome(
        __version__,
        workers,
        dict(sources.options),
        sources.directory,
        new_instance(),
        log_file_of(twistd_options),
        shared,
        0,
        sockets,
        admin_sockets,
    )
    limiter = RefilledBuckets(reactor, settings.rate_limit)
    counts = map_counts(shared, workers)
    records = map_records(shared, workers, reactor.seconds)
    cache = CacheServer(records.writes, map_marks(shared, workers))
    supervisor = Supervisor(
        reactor,
        settings,
        config.prices,
        workers,
        WorkerSetup(welcome),
        listeners,
        limiter,
        bool(twistd_options.get("nodaemon")),
        on_drain,
        output.check_size,
        counts,
        snapshot_of(settings, records),
    )
    _add_pages(reactor, supervisor, limiter, config, output, records, cache)
    return supervisor


def _add_pages(
    reactor: Any,
    supervisor: Supervisor,
    limiter: RefilledBuckets,
    config: LoadedConfig,
    output: LogOutput,
    records: SharedRecords,
    cache: CacheServer,
) -> None:
    settings = config.settings

    def reports() -> list[ReportDocument]:
        return [each.report for each in supervisor.serving() if each.report is not None]

    summed = SummedSources(
        reactor,
        Admission(reactor, settings.rate_limit, settings.trusted_proxies, limiter),
        lambda: output.dropped,
        lambda: supervisor.prices,
        reports,
        lambda: None if settings.state_url is None else supervisor.state.lease,
    )
    stats = Stats(settings, summed, config.shown)
    pages = ParentPages(reactor, supervisor, stats, summed, records)
    supervisor.stats = stats
    supervisor.feed = pages.feed
    supervisor.state = ParentState(
        reactor,
        limiter,
        settings.rate_limit,
        len(records.rings),
        supervisor.serving,
        summed,
        pages.render,
        cache,
    )


class ParentPages:
    """Renders the pages for operators with the numbers of all workers.

    :ivar feed: the dashboard's events.
    """

    def __init__(
        self,
        reactor: Any,
        supervisor: Supervisor,
        stats: Stats,
        summed: SummedSources,
        records: SharedRecords,
    ) -> None:
        self._seconds = reactor.seconds
        self._supervisor = supervisor
        self._stats = stats
        self._summed = summed
        self._records = records
        self._metrics = Metrics(summed, self._collect)
        self.feed = DashboardFeed(summed, stats, lambda: summed.subscriptions)
        stats.workers = self._workers

    def render(self, page: str, known: int) -> bytes:
        """Return the page; the arguments are those of :class:`.AskPage`."""
        if page == STATS:
            return json_bytes(self._stats.document())
        if page == METRICS:
            return self._metrics.text()
        events = self.feed.events()
        history = b"" if events.number == known else events.history()
        return encode_dashboard(DashboardPage(events.number, events.state, events.slot, history))

    def _workers(self) -> dict[str, Any]:
        supervisor, state = self._supervisor, self._supervisor.state
        return {
            "count": len(supervisor.workers),
            "lease": state.lease,
            "restarts": supervisor.restarts,
            "lost_reports": state.lost_reports,
            "left_out": state.left_out,
            "second_level": self._second_level(),
            "processes": [self._process(worker) for worker in supervisor.workers],
        }

    def _second_level(self) -> dict[str, int]:
        """Return the numbers of the second level."""
        cache, numbers = self._supervisor.state.cache, self._records.numbers()
        look_ups = self._summed.counters.shared_look_ups
        return {
            "item_count": numbers.records,
            "bytes": numbers.used_bytes,
            "max_bytes": numbers.capacity,
            "hits": look_ups["hit"],
            "misses": look_ups["miss"],
            "stores": numbers.stores,
            "evictions": numbers.evictions,
            "expirations": numbers.expirations,
            "claims": cache.claimed_keys,
            "waiting": cache.claims.waiting,
        }

    def _collect_second_level(self) -> Iterator[Metric]:
        cache, numbers = self._supervisor.state.cache, self._records.numbers()
        for name, text, number in (
            ("entries", "Responses in the second level of the cache.", numbers.records),
            ("bytes", "Size of the second level of the cache in bytes.", numbers.used_bytes),
            ("bytes_limit", "Maximum size of it in bytes.", numbers.capacity),
            ("claims", "Keys for which one worker asks upstream.", cache.claimed_keys),
            ("waiting", "Look-ups that wait for another worker.", cache.claims.waiting),
        ):
            yield one_gauge(f"second_level_{name}", text, {}, number)
        yield one_counter(
            "second_level_stores",
            "Responses stored in the second level of the cache.",
            numbers.stores,
        )
        yield labelled_counter(
            "second_level_drops",
            "Responses of the second level overwritten for lack of room or expired, by reason.",
            "reason",
            {"room": numbers.evictions, "expired": numbers.expirations},
        )

    def _process(self, worker: WorkerProcess) -> dict[str, Any]:
        return {
            "worker": worker.number,
            "pid": worker.pid,
            "state": worker.state.value,
            "uptime_seconds": int(self._seconds() - worker.started_at),
            "resident_bytes": resident_bytes(worker.pid),
        }

    def _collect(self) -> Iterator[Metric]:
        supervisor, state = self._supervisor, self._supervisor.state
        serving = GaugeMetricFamily(PREFIX + "workers", "Worker processes that serve.")
        serving.add_metric((), len(supervisor.serving()))
        yield serving
        memory = GaugeMetricFamily(
            PREFIX + "worker_resident_memory_bytes",
            "Resident memory of a worker process.",
            labels=("worker",),
        )
        for worker in supervisor.serving():
            memory.add_metric((str(worker.number),), resident_bytes(worker.pid))
        yield memory
        yield from self._collect_second_level()
        for name, text, number in (
            ("worker_restarts", "Worker processes that were replaced.", supervisor.restarts),
            (
                "worker_reports_lost",
                "Ends of worker processes whose numbers of the last second are not counted.",
                state.lost_reports,
            ),
            (
                "worker_reports_late",
                "Reports that did not arrive in time for a page for operators.",
                state.left_out,
            ),
        ):
            family = CounterMetricFamily(PREFIX + name, text)
            family.add_metric((), number)
            yield family
