"""The metrics of ``GET /metrics``, in Prometheus' text format.

They are read from the counters at each scrape. The only table that is kept for them while requests
are served is :attr:`.FinishedRequests.outcomes`, which the access log updates
in batches.

Every label has a bounded set of values. No label value is taken from a request: no address, key or
path. Model names are taken from the upstream's responses; the first hundred get series of their
own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from goproxyai import __version__
from goproxyai.admin.metric_families import (
    CIRCUIT_VALUES,
    PREFIX,
    bucket_counts,
    labelled_counter,
    one_counter,
    one_gauge,
    one_histogram,
)
from goproxyai.admin.sources import PageSources
from goproxyai.admin.state_metrics import state_metrics
from goproxyai.errors import OWNER
from goproxyai.usage.totals import ALWAYS_SHOWN, KINDS

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode("ascii")

RATE_LIMIT_CODE = "RATE_LIMIT_EXCEEDED"
"""The only error code that is not in :data:`~goproxyai.errors.STATUS`."""

CACHE_LABELS = {
    "HIT": "hit",
    "MISS": "miss",
    "COALESCED": "coalesced",
    "STALE": "stale_if_error",
    "BYPASS": "bypass",
}
"""Label values by the access log's cache outcomes; others are ``none``."""


class Metrics(Collector):
    """Collects the metrics in a registry of its own.

    :param more: returns further metrics.
    """

    def __init__(self, sources: PageSources, more: Callable[[], Iterable[Metric]] = tuple) -> None:
        self._sources = sources
        self._more = more
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        self._sources.refresh()
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Return nothing, so that registering does not call :meth:`collect` for the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield one_gauge("build_info", "Always 1.", {"version": __version__}, 1)
        yield from self._requests()
        yield from self._durations()
        yield from self._tokens()
        yield from self._cache()
        yield from self._upstreams()
        yield from self._connections()
        yield from self._memory()
        yield from state_metrics(self._sources)
        yield one_counter(
            "log_lines_dropped",
            "Log lines dropped because the log's reader or disk did not accept them.",
            self._sources.dropped_log_lines(),
        )
        yield from self._more()

    def _requests(self) -> Iterator[Metric]:
        counters = self._sources.counters
        outcomes = CounterMetricFamily(
            PREFIX + "requests",
            "Finished requests, by API resource, method, status and cache outcome.",
            labels=("route", "method", "status", "cache"),
        )
        for (route, method, status, cache), number in counters.finished.outcomes.items():
            outcomes.add_metric((route, method, str(status), cache), number)
        yield outcomes
        errors = CounterMetricFamily(
            PREFIX + "errors",
            "Errors of the proxy's own and aborted responses, by error code and responsible party.",
            labels=("code", "owner"),
        )
        for code, number in counters.finished.errors.items():
            errors.add_metric((code, OWNER.get(code, "caller")), number)
        errors.add_metric((RATE_LIMIT_CODE, "policy"), counters.limited)
        yield errors
        yield labelled_counter(
            "unfinished", "Incomplete responses, by the side that ended them.", "by",
            {"client": counters.finished.client_gone, "upstream": counters.finished.cut},
        )  # fmt: skip
        in_flight = counters.in_flight
        yield one_gauge("requests_in_flight", "Requests in progress.", {}, in_flight)
        yield one_gauge("open_streams", "Event streams in progress.", {}, counters.open_streams)
        yield one_gauge("tunnels_open", "WebSockets in progress.", {}, counters.open_tunnels)
        yield labelled_counter(
            "tunnel_bytes", "Bytes relayed in WebSockets, from (in) and to (out) clients.",
            "direction", counters.tunnel_bytes,
        )  # fmt: skip
        yield one_counter(
            "slow_requests",
            "Requests whose first byte took longer than LOG_SLOW.",
            counters.finished.slow,
        )
        yield one_counter("limited", "Requests refused by the rate limit.", counters.limited)
        buckets = len(self._sources.admission.buckets)
        yield one_gauge("limiter_clients", "Clients that have a token bucket.", {}, buckets)
        yield labelled_counter(
            "body_bytes", "Bytes of request bodies (in) and response bodies (out).", "way",
            {"in": counters.finished.bytes_in, "out": counters.finished.bytes_out},
        )  # fmt: skip

    def _durations(self) -> Iterator[Metric]:
        counters = self._sources.counters
        requests = HistogramMetricFamily(
            PREFIX + "request_seconds",
            "Time from the request head to the end of the response, by cache outcome.",
            labels=("cache",),
        )
        for cache, histogram in counters.durations.request.items():
            requests.add_metric((CACHE_LABELS.get(cache, "none"),), *bucket_counts(histogram))
        yield requests
        for name, text, histogram in (
            ("first_byte_seconds", "Time from the request head to the first byte of the response, "
             "of forwarded requests.", counters.durations.first_byte),
            ("upstream_seconds", "Time from sending the request to the upstream's response head, "
             "of forwarded requests.", counters.durations.upstream),
            ("overhead_seconds", "Time to the first byte without the upstream's part, of forwarded "
             "requests.", counters.durations.overhead),
            ("stream_gap_seconds", "Time between two reads of an event stream from the upstream.",
             counters.durations.stream_gap),
        ):  # fmt: skip
            yield one_histogram(name, text, histogram)

    def _tokens(self) -> Iterator[Metric]:
        tokens = self._sources.counters.tokens
        counted = CounterMetricFamily(
            PREFIX + "tokens",
            "Tokens of responses, by source. All kinds but prompt and completion are parts of "
            "these two.",
            labels=("model", "kind", "source"),
        )
        for model, tally in tokens.models.items():
            for source, numbers in (("upstream", tally.used), ("cache", tally.saved)):
                for kind, number in zip(KINDS, numbers, strict=True):
                    if number or kind in ALWAYS_SHOWN:
                        counted.add_metric((model, kind, source), number)
        yield counted
        yield labelled_counter(
            "answers_without_usage",
            "Billed requests whose token usage is unknown, by reason.",
            "why",
            tokens.unknown,
        )
        if tokens.prices:
            yield labelled_counter(
                "cost",
                "Cost of the tokens according to PRICES, by source.",
                "source",
                {"upstream": tokens.used_cost, "cache": tokens.saved_cost},
            )

    def _cache(self) -> Iterator[Metric]:
        counters, store = self._sources.counters, self._sources.store
        yield labelled_counter(
            "cache_requests",
            "Relayed requests, by cache outcome.",
            "outcome",
            {
                "hit": counters.hits,
                "miss": counters.misses,
                "coalesced": counters.coalesced,
                "stale_if_error": counters.stale_served,
                "bypass": counters.bypasses,
            },
        )
        yield labelled_counter(
            "second_level_look_ups",
            "Look-ups in the second level of the cache, by result.",
            "result",
            counters.shared_look_ups,
        )
        yield labelled_counter(
            "cache_bypasses",
            "Requests that bypassed the cache, by reason.",
            "reason",
            counters.bypass_reasons,
        )
        yield one_gauge("cache_entries", "Cache entries.", {}, len(store))
        yield one_gauge("cache_bytes", "Size of the cache in bytes.", {}, store.bytes)
        yield one_gauge(
            "cache_bytes_limit", "Maximum size of the cache in bytes.", {}, store.max_bytes
        )
        yield one_gauge(
            "cache_reserved_bytes", "Bytes of responses being recorded.", {}, store.reserved
        )
        yield one_gauge(
            "cache_flights",
            "Upstream requests in progress that several clients may share.",
            {},
            len(self._sources.flights),
        )
        yield one_counter("cache_stores", "Responses stored in the cache.", store.stores)
        yield labelled_counter(
            "cache_drops", "Entries evicted for lack of room or expired, by reason.", "reason",
            {"room": store.evictions, "expired": store.expirations},
        )  # fmt: skip

    def _upstreams(self) -> Iterator[Metric]:
        counters, now = self._sources.counters, self._sources.clock.seconds()
        yield one_counter(
            "forwarded", "Requests sent upstream, retries included.", counters.forwarded
        )
        yield labelled_counter(
            "retries", "Retries of upstream requests, by cause.", "cause", counters.retries
        )
        circuits = GaugeMetricFamily(
            PREFIX + "circuit_open",
            "State of the circuit: 0 closed, 1 open, 0.5 half-open.",
            labels=("upstream",),
        )
        opened = CounterMetricFamily(
            PREFIX + "circuit_opened", "Times that the circuit opened.", labels=("upstream",)
        )
        for upstream in self._sources.upstreams.all:
            circuits.add_metric((upstream.url,), CIRCUIT_VALUES[upstream.breaker.state(now)])
            opened.add_metric((upstream.url,), upstream.breaker.times_opened)
        yield circuits
        yield opened
        yield one_gauge(
            "upstream_connections", "Open connections to upstreams.", {}, len(self._sources.pool)
        )

    def _connections(self) -> Iterator[Metric]:
        counts = self._sources.counters.connections
        yield one_gauge(
            "connections", "Open client connections.", {}, counts.opened - counts.closed
        )
        limit = self._sources.slots.max_connections
        yield one_gauge("connections_limit", "Maximum number of client connections.", {}, limit)
        yield one_counter("connections_opened", "Client connections accepted.", counts.opened)
        yield one_counter(
            "connections_idle_closed",
            "Idle client connections closed to make room.",
            counts.idle_closed,
        )
        yield labelled_counter(
            "connections_refused", "Client connections refused, by reason.", "reason",
            counts.refused,
        )  # fmt: skip

    def _memory(self) -> Iterator[Metric]:
        memory = self._sources.memory
        yield one_gauge(
            "request_memory_bytes",
            "Memory that requests and responses in progress hold.",
            {},
            memory.used,
        )
        yield one_gauge(
            "request_memory_bytes_limit",
            "Maximum memory of requests and responses in progress.",
            {},
            memory.limit,
        )
        yield one_counter(
            "slow_readers_broken_off",
            "Connections reset because their client read slowly while memory was short.",
            memory.broken_off,
        )
