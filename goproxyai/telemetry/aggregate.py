"""Counts a batch of records.

The batch is transposed into columns, one tuple a field, so that most of the work is done by loops
in C: about 1 us a request instead of 4 (``python -m bench.inside``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import sub

from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.events import OutcomeColumns, Record, RecordColumns
from goproxyai.telemetry.outcome import SAVED_OUTCOMES, CacheOutcome, Ending
from goproxyai.usage.totals import UsageTotals
from goproxyai.usage.usage import UnreadAnswer


def count_records(counters: Counters, records: list[Record], slow: float) -> bool:
    """Add *records*, at least one, to *counters*.

    :param slow: seconds to the first byte from which a request is slow.
    :returns: whether any of the requests may have failed.
    """
    requests = RecordColumns._make(zip(*records, strict=True))
    outcomes = OutcomeColumns._make(zip(*requests.outcome, strict=True))
    counters.finished += len(records)
    counters.bytes_in += sum(requests.bytes_in)
    counters.bytes_out += sum(requests.bytes_out)
    _count_outcomes(counters, requests, outcomes)
    _count_times(counters, requests, outcomes, slow)
    if any(outcomes.usage_source):
        _count_usage(counters.tokens, outcomes)
    for status, count in Counter(requests.status).items():
        counters.statuses[status // 100] += count
    for code, count in Counter(filter(None, outcomes.code)).items():
        counters.errors[code] += count
    endings = Counter(outcomes.ending)
    counters.client_gone += endings[Ending.CLIENT_GONE]
    counters.cut += endings[Ending.CUT]
    return any(outcomes.code) or max(requests.status) >= 500 or Ending.CUT in endings


def _count_outcomes(counters: Counters, requests: RecordColumns, outcomes: OutcomeColumns) -> None:
    labels = [
        reason or cache
        for reason, cache in zip(outcomes.bypass_reason, outcomes.cache, strict=True)
    ]
    alike = Counter(zip(requests.path, requests.method, requests.status, labels, strict=True))
    for outcome, count in alike.items():
        counters.note(*outcome, count)


def _count_times(
    counters: Counters, requests: RecordColumns, outcomes: OutcomeColumns, slow: float
) -> None:
    total, first_byte = requests.seconds, outcomes.first_byte_seconds
    waited: Sequence[float] = total
    if max(first_byte) >= 0:
        waited = [end if first < 0 else first for first, end in zip(first_byte, total, strict=True)]
    if max(waited) >= slow:
        counters.slow += sum(seconds >= slow for seconds in waited)
    for cache in set(outcomes.cache):
        # The proxy's own pages count until the first byte: the dashboard's stream may last hours.
        times = waited if cache is CacheOutcome.NONE else total
        counters.times[cache].add(_where(outcomes.cache, cache, times))
    _count_forwarded_times(counters, waited, outcomes.upstream_seconds)


def _where(
    caches: tuple[CacheOutcome, ...], wanted: CacheOutcome, times: Sequence[float]
) -> list[float]:
    """Return those of *times* whose request has the outcome *wanted*."""
    if caches.count(wanted) == len(caches):
        return list(times)
    return [seconds for seconds, cache in zip(times, caches, strict=True) if cache is wanted]


def _count_forwarded_times(
    counters: Counters, waited: Sequence[float], upstream: Sequence[float]
) -> None:
    """Count the times of the requests that upstream answered, which are not negative."""
    if max(upstream) < 0:
        return
    if min(upstream) < 0:
        pairs = zip(waited, upstream, strict=True)
        waited, upstream = zip(*[pair for pair in pairs if pair[1] >= 0], strict=True)
    counters.overheads.add(list(map(sub, waited, upstream)))
    counters.upstream_times.add(list(upstream))
    counters.first_times.add(list(waited))


def _count_usage(totals: UsageTotals, outcomes: OutcomeColumns) -> None:
    """Read and count the unread answers of upstream, and count what the cache saved.

    Other usage of forwarded requests was counted when their answers ended
    (:mod:`goproxyai.proxy.usage_meter`).
    """
    caches = set(outcomes.cache)
    if not caches <= SAVED_OUTCOMES:
        unread = [source for source in outcomes.usage_source if type(source) is UnreadAnswer]
        totals.add_used([answer.usage() for answer in unread])
    if caches.isdisjoint(SAVED_OUTCOMES):
        return
    saved = Counter(
        source
        for source, cache in zip(outcomes.usage_source, outcomes.cache, strict=True)
        if source is not None and cache in SAVED_OUTCOMES
    )
    for source, count in saved.items():
        usage = source.usage()
        if usage is not None:
            totals.add_saved(usage, count)
