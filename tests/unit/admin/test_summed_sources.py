"""Sums of the reports of workers."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.task import Clock

from goproxyai.admin.metrics import Metrics
from goproxyai.admin.stats import Stats
from goproxyai.admin.summed_sources import ReportDocument, SummedSources, report_document
from goproxyai.config.settings import Settings
from goproxyai.telemetry.counter_sum import dumped
from goproxyai.telemetry.counters import Counters
from goproxyai.upstream.breaker import CircuitState
from goproxyai.usage.prices import Prices

URL = "https://api.openai.com"


@attrs.define
class Limiter:
    buckets: list[str] = attrs.field(factory=lambda: ["a", "b"])


def report(
    hits: int = 0, state: str = "closed", errors: tuple[str, ...] = (), **numbers: int
) -> ReportDocument:
    counters = Counters()
    counters.hits = hits
    counters.requests = hits + 1
    counters.finished.count = hits
    names = (
        "entries", "bytes", "max_bytes", "reserved", "stores", "evictions", "expirations",
        "flights", "pool", "max_connections", "memory", "memory_limit", "broken_off", "log_lines",
    )  # fmt: skip
    return {
        "counters": dumped(counters),
        "numbers": dict.fromkeys(names, 1) | numbers,
        "upstreams": [(URL, state, 1)],
        "tables": {
            "errors": [{"time": time} for time in errors],
            "failures": [
                {
                    "cause": "upstream_429",
                    "first_seen": float(time),
                    "last_seen": float(time),
                    "upstream_request_id": "",
                }
                for time in errors
            ],
            "clients": [["192.0.2.1", hits, 1, 2]],
            "paths": [["/v1/models", hits]],
            "live": [[hits, "GET", "/v1/models", "192.0.2.1", "", "waiting", -1.0]],
        },
        "process": {
            "resident_bytes": 5,
            "descriptors": 4,
            "max_descriptors": 3,
            "cpu_ms": 2,
            "processes": 1,
        },
        "subscriptions": 1,
    }


def summed(*reports: ReportDocument) -> SummedSources:
    return SummedSources(Clock(), Limiter(), lambda: 5, Prices, lambda: reports)


def test_numbers_of_all_reports_are_added() -> None:
    sources = summed(report(3, entries=2), report(4, entries=5))
    sources.refresh()
    assert sources.counters.hits == 7
    assert len(sources.store) == 7
    assert (sources.store.bytes, sources.memory.used, sources.slots.max_connections) == (2, 2, 2)
    assert (len(sources.flights), len(sources.pool), sources.subscriptions) == (2, 2, 2)
    assert sources.dropped_log_lines() == 7
    sources.refresh()
    assert sources.counters.hits == 7


def test_counters_of_ended_workers_stay_and_their_gauges_do_not() -> None:
    sources = summed(report(4))
    sources.retire(report(3, entries=50, stores=9))
    sources.retire(None)
    sources.refresh()
    assert (sources.counters.hits, sources.counters.in_flight) == (7, 1)
    assert (len(sources.store), sources.store.stores) == (1, 10)
    assert sources.upstreams.all[0].times_opened == 2


def test_best_circuit_of_all_workers_is_shown() -> None:
    def state(*states: str) -> CircuitState:
        sources = summed(*[report(state=each) for each in states])
        sources.refresh()
        (upstream,) = sources.upstreams.all
        return upstream.breaker.state(0.0)

    assert state("open", "closed", "open") is CircuitState.CLOSED
    assert state("open", "half-open") is CircuitState.HALF_OPEN
    assert state("open", "open") is CircuitState.OPEN


def test_most_recent_errors_of_all_workers_are_shown() -> None:
    sources = summed(report(errors=("1", "3")), report(errors=("2",)))
    sources.refresh()
    assert [error["time"] for error in sources.recent_errors()] == ["3", "2", "1"]


def test_tables_of_all_workers_are_added() -> None:
    sources = summed(report(3, errors=("10", "30")), report(4, errors=("20",)))
    sources.refresh()
    assert sources.clients() == [("192.0.2.1", 7, 2, 4)]
    assert sources.cached_paths() == [("/v1/models", 7)]
    assert [age for age, *_ in sources.live()] == [4, 3]
    assert sources.failure_groups() == [
        {
            "cause": "upstream_429",
            "first_seen": 10.0,
            "last_seen": 30.0,
            "upstream_request_id": "",
        }
    ]
    process = sources.process()
    assert (process.processes, process.resident_bytes > 10) == (3, True)


def test_failures_of_ended_workers_stay() -> None:
    sources = summed()
    sources.retire(report(errors=("10",)))
    sources.retire(report(errors=("40",)))
    sources.refresh()
    (group,) = sources.failure_groups()
    assert (group["first_seen"], group["last_seen"]) == (10.0, 40.0)


def test_pages_are_rendered_from_a_sum() -> None:
    sources = summed(report(3), report(4))
    stats = Stats(Settings.from_texts({}), sources, workers=lambda: {"count": 2})
    document: dict[str, Any] = stats.document()
    assert document["cache"]["hits"] == 7
    assert document["clients"] == 2
    assert document["workers"] == {"count": 2}
    assert b'goproxyai_cache_requests_total{outcome="hit"} 7.0' in Metrics(sources).text()


def test_report_of_a_sum_has_the_same_numbers() -> None:
    document = report_document(summed(report(3, entries=2)), 1)
    assert document["numbers"]["entries"] == 2
    assert document["upstreams"] == [(URL, "closed", 1)]
    assert document["subscriptions"] == 1
