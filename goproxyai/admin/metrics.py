"""What Prometheus is told: the same numbers as ``/stats``, read when somebody asks for them.

Nothing is added up for this while requests are served, but for one table in the batches of the log
(:data:`~goproxyai.telemetry.counters.Counters.outcomes`). Every label has a closed set of values: no address,
key or path of a client's is one, and of models those that upstream has named, the first hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
from goproxyai.errors import OWNER
from goproxyai.limits.connection_slots import ConnectionSlots
from goproxyai.proxy.handler import ProxyHandler
from goproxyai.telemetry.counters import Histogram
from goproxyai.upstream.breaker import State
from goproxyai.usage.totals import KINDS

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode("ascii")
"""Of :meth:`Metrics.text`."""

PREFIX = "goproxyai_"

LIMITED = "RATE_LIMIT_EXCEEDED"
"""The code of the one error that is not in :data:`~goproxyai.errors.STATUS`."""

CACHE = {
    "HIT": "hit",
    "MISS": "miss",
    "COALESCED": "coalesced",
    "STALE": "stale_if_error",
    "BYPASS": "bypass",
}
"""What the log calls an outcome, and what it is called here."""


class Metrics(Collector):
    """Collects them.

    :param slots: the connections.
    """

    def __init__(self, relay: ProxyHandler, slots: ConnectionSlots[object]) -> None:
        self._relay = relay
        self._crowd = slots
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        self._relay.log.flush()  # which counts what has ended
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: the registry would collect all to see the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """As ``prometheus_client`` has it."""
        yield _gauge("build_info", "Always 1.", {"version": __version__}, 1)
        yield from self._requests()
        yield from self._tokens()
        yield from self._cache()
        yield from self._upstreams()
        yield from self._connections()

    def _requests(self) -> Iterator[Metric]:
        counters = self._relay.counters
        outcomes = CounterMetricFamily(
            PREFIX + "requests",
            "Requests that are over, by what they asked for and what became of them.",
            labels=("route", "method", "status", "cache"),
        )
        for (route, method, status, cache), number in counters.outcomes.items():
            outcomes.add_metric((route, method, str(status), cache), number)
        yield outcomes
        errors = CounterMetricFamily(
            PREFIX + "errors",
            "Answers of the proxy's own, or that broke off, by code and by whose failure it is.",
            labels=("code", "owner"),
        )
        for code, number in counters.errors.items():
            errors.add_metric((code, OWNER.get(code, "caller")), number)
        errors.add_metric((LIMITED, "policy"), counters.limited)
        yield errors
        yield _counters(
            "unfinished", "Answers that were not completed, by who ended them.", "by",
            {"client": counters.client_gone, "upstream": counters.cut},
        )  # fmt: skip
        yield _gauge(
            "requests_in_flight", "Requests under way.", {}, counters.requests - counters.finished
        )
        yield _gauge("open_streams", "Streams being sent.", {}, counters.open_streams)
        yield _counter("slow_requests", "Requests slower than LOG_SLOW.", counters.slow)
        yield _counter("limited", "Requests refused by the rate limit.", counters.limited)
        yield _gauge(
            "limiter_clients", "Clients with a bucket.", {}, len(self._relay.admission.buckets)
        )
        yield _counters(
            "body_bytes", "Bytes of bodies, of requests in and of answers out.", "way",
            {"in": counters.bytes_in, "out": counters.bytes_out},
        )  # fmt: skip
        yield from self._times()

    def _times(self) -> Iterator[Metric]:
        counters = self._relay.counters
        spent = HistogramMetricFamily(
            PREFIX + "request_seconds",
            "From a request's head to its answer's end, by what the cache had to do with it.",
            labels=("cache",),
        )
        for cache, histogram in counters.times.items():
            spent.add_metric((CACHE.get(cache, "none"),), *_buckets(histogram))
        yield spent
        for name, text, histogram in (
            ("first_byte_seconds", "From a request's head to its answer's first byte, of forwarded "
             "requests.", counters.first_times),
            ("upstream_seconds", "From sending a request to upstream's head, of forwarded "
             "requests.", counters.upstream_times),
            ("overhead_seconds", "What is not upstream's of the time to the first byte, of "
             "forwarded requests.", counters.overheads),
            ("stream_gap_seconds", "Between two reads of a stream of upstream's.", counters.gaps),
        ):  # fmt: skip
            yield _histogram(name, text, histogram)

    def _tokens(self) -> Iterator[Metric]:
        tokens = self._relay.counters.tokens
        counted = CounterMetricFamily(
            PREFIX + "tokens",
            "Tokens of answers, by where they came from; cached ones are part of the prompt's, "
            "reasoning ones of the completion's.",
            labels=("model", "kind", "source"),
        )
        for model, tally in tokens.models.items():
            for source, numbers in (("upstream", tally.used), ("cache", tally.saved)):
                for kind, number in zip(KINDS, numbers, strict=True):
                    counted.add_metric((model, kind, source), number)
        yield counted
        yield _counters(
            "answers_without_usage",
            "Requests that upstream bills whose tokens are unknown, by why.",
            "why",
            tokens.unknown,
        )
        if tokens.prices:
            yield _counters(
                "cost",
                "Money for the tokens of answers, by PRICES and by where the answers came from.",
                "source",
                {"upstream": tokens.spent, "cache": tokens.spared},
            )

    def _cache(self) -> Iterator[Metric]:
        relay, store = self._relay, self._relay.store
        counters = relay.counters
        yield _counters(
            "cache_requests",
            "Requests, by what the cache had to do with them.",
            "outcome",
            {
                "hit": counters.hits,
                "miss": counters.misses,
                "coalesced": counters.coalesced,
                "stale_if_error": counters.rescues,
                "bypass": counters.bypasses,
            },
        )
        yield _gauge("cache_entries", "Answers stored.", {}, len(store))
        yield _gauge("cache_bytes", "Bytes that the answers stored take.", {}, store.bytes)
        yield _gauge(
            "cache_bytes_limit", "Bytes that the answers stored may take.", {}, store.most_bytes
        )
        yield _gauge(
            "cache_reserved_bytes", "Bytes of answers being collected.", {}, store.reserved
        )
        yield _gauge(
            "cache_flights", "Upstream requests that others may share.", {}, len(relay.flights)
        )
        yield _counter("cache_stores", "Answers put into the cache.", store.stores)
        yield _counters(
            "cache_drops", "Answers dropped, by reason.", "reason",
            {"room": store.evictions, "expired": store.expirations},
        )  # fmt: skip

    def _upstreams(self) -> Iterator[Metric]:
        relay, now = self._relay, self._relay.seconds()
        yield _counter("forwarded", "Requests sent upstream, each time.", relay.counters.forwarded)
        yield _counters(
            "retries", "Requests sent again, by cause.", "cause", relay.counters.retries
        )
        circuits = GaugeMetricFamily(
            PREFIX + "circuit_open", "0 closed, 1 open, 0.5 half-open.", labels=("upstream",)
        )
        opened = CounterMetricFamily(
            PREFIX + "circuit_opened", "How often a circuit opened.", labels=("upstream",)
        )
        shown = {State.CLOSED: 0.0, State.OPEN: 1.0, State.HALF_OPEN: 0.5}
        for upstream in relay.upstreams.each:
            circuits.add_metric((upstream.url,), shown[upstream.breaker.state(now)])
            opened.add_metric((upstream.url,), upstream.breaker.opened)
        yield circuits
        yield opened
        yield _gauge("upstream_connections", "Connections to upstreams.", {}, len(relay.pool))

    def _connections(self) -> Iterator[Metric]:
        counters = self._relay.counters
        yield _gauge(
            "connections",
            "Connections of clients.",
            {},
            counters.connections.opened - counters.connections.closed,
        )
        yield _gauge("connections_limit", "Connections that there may be.", {}, self._crowd.max_connections)
        yield _counter(
            "connections_opened", "Connections that clients made.", counters.connections.opened
        )
        yield _counter(
            "connections_idle_closed",
            "Idle connections that made room.",
            counters.connections.idle_closed,
        )
        yield _counters(
            "connections_refused",
            "Connections refused, by reason.",
            "reason",
            counters.connections.refused,
        )


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """One for each value of *label*."""
    family = CounterMetricFamily(PREFIX + name, text, labels=(label,))
    for said, value in values.items():
        family.add_metric((said,), value)
    return family


def _gauge(name: str, text: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text)
    family.add_metric((), *_buckets(histogram))
    return family


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    buckets = [(repr(bound), float(number)) for bound, number in histogram.cumulative()]
    return [*buckets, ("+Inf", float(histogram.count))], histogram.total
