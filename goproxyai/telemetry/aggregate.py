"""Counts a batch of records.

The batch is transposed into columns, one tuple a field. Most of the work is done by loops in C:
0.6 us a hit and 4 us a miss, a third of what one call a request takes (``python -m bench.inside``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import sub
from typing import NamedTuple

from goproxyai.telemetry.counters import Counters, Durations, FinishedRequests
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
    def failed(self) -> bool:
        return bool(self.code) or self.status >= 500 or self.ending is Ending.CUT


def count_requests(counters: Counters, columns: Columns, slow: float) -> bool:
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
    any_failed = False
    caches = set()
    for fields, count in kinds.items():
        kind = _Kind(*fields)
        _count_kind(finished, kind, count)
        any_failed = any_failed or kind.failed
        caches.add(kind.cache)
    _count_times(counters, columns, caches, slow)
    if any(outcomes.usage_source):
        _count_usage(counters.tokens, outcomes, caches)
    return any_failed


def _count_kind(finished: FinishedRequests, kind: _Kind, count: int) -> None:
    label = kind.bypass_reason or kind.cache.value
    finished.add_outcome(kind.path, kind.method, kind.status, label, count)
    finished.statuses[kind.status // 100] += count
    if kind.code:
        finished.errors[kind.code] += count
    if kind.ending is Ending.CLIENT_GONE:
        finished.client_gone += count
    elif kind.ending is Ending.CUT:
        finished.cut += count


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
