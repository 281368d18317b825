"""Counts a batch of records.

The batch is transposed into columns, one tuple a field. Most of the work is done by loops in C:
0.6 us a hit and 4 us a miss, a third of what one call a request takes (``python -m bench.inside``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import sub
from typing import NamedTuple

from goproxyai.telemetry.busiest import Busiest
from goproxyai.telemetry.counters import (
    OWN_ROUTES,
    Counters,
    Durations,
    FinishedRequests,
    is_own_page,
)
from goproxyai.telemetry.failure_cause import FailureCause, cause_of
from goproxyai.telemetry.outcome import SAVED_OUTCOMES, CacheOutcome, Ending
from goproxyai.telemetry.records import Columns, OutcomeColumns
from goproxyai.usage.totals import UsageTotals
from goproxyai.usage.usage import UnreadResponse

SWITCHED = 101
"""The status of a request that became a tunnel."""


class _Kind(NamedTuple):
    """Requests that are counted alike."""

    path: str
    method: bytes
    status: int
    cache: CacheOutcome
    bypass_reason: str
    code: str
    ending: Ending

    @property
    def cause(self) -> FailureCause | None:
        """Why the requests failed."""
        if self.status < 400 and not self.code and self.ending is not Ending.CUT:
            return None
        return cause_of(self.status, self.code, self.cache, self.ending)


def count_requests(counters: Counters, columns: Columns, slow: float, busiest: Busiest) -> bool:
    """Add a batch of requests to *counters*.

    :param slow: seconds to the first byte from which a request is slow.
    :returns: whether any of the requests failed.
    """
    requests, outcomes = columns
    finished = counters.finished
    finished.count += len(requests.began)
    finished.bytes_in += sum(requests.bytes_in)
    finished.bytes_out += sum(requests.bytes_out)
    kinds = Counter(
        zip(
            requests.path, requests.method, requests.status, outcomes.cache,
            outcomes.bypass_reason, outcomes.code, outcomes.ending, strict=True,
        )
    )  # fmt: skip
    causes: set[FailureCause] = set()
    caches = set()
    hits: dict[str, int] = {}
    own_pages = finished.own_pages
    for fields, count in kinds.items():
        kind = _Kind(*fields)
        cause = _count_kind(finished, kind, count)
        if cause is not None:
            causes.add(cause)
        caches.add(kind.cache)
        if kind.cache in SAVED_OUTCOMES:
            path = kind.path.partition("?")[0]
            hits[path] = hits.get(path, 0) + count
    now = requests.began[-1] + requests.seconds[-1]
    if hits:
        busiest.hits.add(hits, now)
    _count_clients(busiest, columns, finished.own_pages > own_pages, causes, now)
    _count_times(counters, columns, caches, slow)
    if any(outcomes.usage_source):
        _count_usage(counters.tokens, outcomes, caches)
    return bool(causes)


def _count_kind(finished: FinishedRequests, kind: _Kind, count: int) -> FailureCause | None:
    """Count requests; return why they failed, if they did and are no requests for own pages."""
    label = kind.bypass_reason or kind.cache.value
    route = finished.add_outcome(kind.path, kind.method, kind.status, label, count)
    finished.statuses[kind.status // 100] += count
    if kind.code:
        finished.errors[kind.code] += count
    if kind.ending is Ending.CLIENT_GONE:
        finished.client_gone += count
    elif kind.ending is Ending.CUT:
        finished.cut += count
    if route in OWN_ROUTES or kind.path == "/":
        finished.own_pages += count
        return None
    cause = kind.cause
    if cause is not None:
        finished.causes[cause] += count
    return cause


def _count_clients(
    busiest: Busiest, columns: Columns, has_own: bool, causes: set[FailureCause], now: float
) -> None:
    """Count the requests of each client.

    :param has_own: whether requests for own pages, which are not counted, are in the batch.
    :param causes: why requests of the batch failed.
    """
    requests, outcomes = columns
    if not (has_own or causes):
        busiest.add_clients(requests.client, now)
        return
    rows = zip(
        requests.client, requests.path, requests.status, outcomes.code, outcomes.cache,
        outcomes.ending, strict=True,
    )  # fmt: skip
    of_api = [
        (client, cause_of(*outcome)) for client, path, *outcome in rows if not is_own_page(path)
    ]
    busiest.add_clients([client for client, _ in of_api], now)
    limited = FailureCause.RATE_LIMITED
    if limited in causes:
        refused = Counter([client for client, cause in of_api if cause is limited])
        busiest.limited.add(refused, now)
    if causes - {limited}:
        failed = Counter([client for client, cause in of_api if cause not in (None, limited)])
        busiest.failed.add(failed, now)


def _count_times(
    counters: Counters, columns: Columns, caches: set[CacheOutcome], slow: float
) -> None:
    total, first_byte = columns.request.seconds, columns.outcome.first_byte_seconds
    waited: Sequence[float] = total
    if max(first_byte) >= 0:
        waited = [end if first < 0 else first for first, end in zip(first_byte, total, strict=True)]
    if max(waited) >= slow:
        counters.finished.slow += sum(seconds >= slow for seconds in waited)
    statuses = columns.request.status
    if SWITCHED in statuses:  # a tunnel counts until its first byte: it may last hours
        rows = zip(waited, total, statuses, strict=True)
        total = tuple([wait if status == SWITCHED else end for wait, end, status in rows])
    for cache in caches:
        # The proxy's own pages count until the first byte: the dashboard's stream may last hours.
        times = waited if cache is CacheOutcome.NONE else total
        if len(caches) > 1:
            each = zip(times, columns.outcome.cache, strict=True)
            times = [seconds for seconds, outcome in each if outcome is cache]
        counters.durations.request[cache].add_batch(list(times))
    _count_forwarded_times(counters.durations, waited, columns.outcome.upstream_seconds)


def _count_forwarded_times(
    durations: Durations, waited: Sequence[float], upstream: Sequence[float]
) -> None:
    """Count the times of the requests that upstream answered, which are not negative."""
    if max(upstream) < 0:
        return
    if min(upstream) < 0:
        pairs = zip(waited, upstream, strict=True)
        waited, upstream = zip(*[pair for pair in pairs if pair[1] >= 0], strict=True)
    durations.overhead.add_batch(list(map(sub, waited, upstream)))
    durations.upstream.add_batch(list(upstream))
    durations.first_byte.add_batch(list(waited))


def _count_usage(totals: UsageTotals, outcomes: OutcomeColumns, caches: set[CacheOutcome]) -> None:
    """Read and count the unread responses of upstream, and count what the cache saved.

    Other usage of forwarded requests was counted when their responses ended
    (:mod:`goproxyai.proxy.usage_meter`).
    """
    saved = outcomes.usage_source
    if not caches <= SAVED_OUTCOMES:
        unread = [source for source in outcomes.usage_source if type(source) is UnreadResponse]
        totals.add_used([source.usage() for source in unread])
        each = zip(outcomes.usage_source, outcomes.cache, strict=True)
        saved = tuple([source for source, cache in each if cache in SAVED_OUTCOMES])
    counted = [
        (usage, count)
        for source, count in Counter(saved).items()
        if source is not None and (usage := source.usage()) is not None
    ]
    totals.add_saved(counted)
