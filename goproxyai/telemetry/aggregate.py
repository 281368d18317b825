"""Beside step two: a batch of events becomes numbers.

An event is counted once, a column of the batch at a time: nearly all of it is done by loops of C.
Before, its bill may be the body of an answer; behind, it is what that says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import sub
from typing import Any

from goproxyai.cache.entry import Entry
from goproxyai.telemetry.counters import SPARED, Counters
from goproxyai.usage.totals import UsageTotals
from goproxyai.usage.usage import UNKNOWN, read_all

_CACHE, _BILL = 4, 15  # of the parts of an event
_OURS = "-"  # what never came near the cache: our own pages, and what is refused


def counted(counters: Counters, events: list[list[Any]], slow: float) -> bool:
    """Count the parts of *events*; says whether any of them may have failed.

    :param slow: seconds, as of :class:`~.access_log.AccessLog`.
    """
    counters.finished += len(events)
    (
        _, methods, targets, statuses, caches, _, came, went, spent, upstream, codes, _, ends,
        _, first, bills, _, _,
    ) = zip(*events, strict=True)  # fmt: skip
    alike = Counter(zip(targets, methods, statuses, caches, strict=True))
    for outcome, count in alike.items():
        counters.note(*outcome, count)
    counters.bytes_in += sum(came)
    counters.bytes_out += sum(went)
    waited: Sequence[float] = spent
    if max(first) >= 0:
        waited = [end if some < 0 else some for some, end in zip(first, spent, strict=True)]
    if max(waited) >= slow:
        counters.slow += sum(seconds >= slow for seconds in waited)
    kinds = set(caches)
    for cache in kinds:
        # Our own pages are timed until they begin: somebody may look at one for hours.
        times = counters.times.get(cache) or counters.times["BYPASS"]
        times.add(_of(cache, caches, waited if cache == _OURS else spent))
    _time_forwarded(counters, waited, upstream)
    if any(bills):
        _settle(counters.tokens, events, kinds, bills)
    for status, count in Counter(statuses).items():
        counters.statuses[status // 100] += count
    for code, count in Counter(filter(None, codes)).items():
        counters.errors[code] += count
    for ended, count in Counter(ends).items():
        if ended == "client_gone":
            counters.client_gone += count
        elif ended == "cut":
            counters.cut += count
    return any(codes) or max(statuses) >= 500 or "cut" in ends


def _of(cache: str, caches: tuple[str, ...], times: Sequence[float]) -> list[float]:
    """Those of *times* that are of requests with that outcome."""
    if caches.count(cache) == len(caches):
        return list(times)
    return [seconds for seconds, each in zip(times, caches, strict=True) if each == cache]


def _time_forwarded(counters: Counters, waited: Sequence[float], upstream: Sequence[float]) -> None:
    """The times of requests that upstream answered: the others have a negative one."""
    if max(upstream) < 0:
        return
    if min(upstream) < 0:
        waited = [ours for ours, some in zip(waited, upstream, strict=True) if some >= 0]
        upstream = [some for some in upstream if some >= 0]
    counters.overheads.add(list(map(sub, waited, upstream)))
    counters.upstream_times.add(list(upstream))
    counters.first_times.add(list(waited))


def _settle(
    tokens: UsageTotals, events: list[list[Any]], kinds: set[str], bills: tuple[Any, ...]
) -> None:
    """Count what was spent and not counted yet, and what was spared.

    What was spent stands in the bodies of answers, which are let go here; what was spared, in an
    entry of the cache, or in the bill of one who shared an answer, which was counted when it came.

    :param kinds: what the cache had to do with any of them. :param bills: of each.
    """
    if not kinds <= SPARED:
        unread = [event for event in events if type(event[_BILL]) is bytes]
        found = read_all([event[_BILL] for event in unread])
        for event, usage in zip(unread, found, strict=True):
            event[_BILL] = None if usage is UNKNOWN else usage
        tokens.use(found)
        if kinds.isdisjoint(SPARED):
            return
        bills = tuple([event[_BILL] for event in events if event[_CACHE] in SPARED])
    spared = Counter(bills)
    for bill, count in spared.items():
        told = bill.token_usage() if type(bill) is Entry else bill
        if told is not None:
            tokens.save(told, count)
