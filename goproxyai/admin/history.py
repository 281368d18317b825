"""The counters of the last hour, in slots of ten seconds, for the dashboard and the verdict.

A slot is the difference of two snapshots of the counters, so nothing is added up while requests are
served. At most :data:`MAX_SLOTS` + 1 snapshots are kept, of a few kilobytes each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from operator import sub
from typing import Final, NamedTuple, TypeVar

import attrs

from goproxyai.admin.situation import Traffic
from goproxyai.telemetry.counters import BYPASS_REASONS, OWN_ROUTES, Counters
from goproxyai.telemetry.failure_cause import FailureCause
from goproxyai.telemetry.histogram import percentile
from goproxyai.telemetry.outcome import CLIENT_CLOSED_REQUEST, SAVED_OUTCOMES, CacheOutcome

SLOT_SECONDS: Final = 10

MAX_SLOTS: Final = 360
"""One hour of slots."""

RANGES: Final = {"5 min": 30, "15 min": 90, "1 h": MAX_SLOTS}
"""The times that the dashboard can show, in slots."""

_LOOKED_UP = SAVED_OUTCOMES | {CacheOutcome.MISS}
_CAUSES = tuple(FailureCause)
_Key = TypeVar("_Key", bound=str)

Slot = list[float | None]
"""A point of the charts: Unix start time, the five totals, p50, p95 and p99 in ms."""

Percentiles = list[float | None]
"""p50, p95 and p99 in milliseconds; ``None`` without requests."""


class RouteCounts(NamedTuple):
    """Finished requests.

    :ivar hits: answered without an upstream request.
    :ivar lookups: looked up in the cache.
    :ivar errors: answered with a status of 400 or above, except those of ``limited``.
    :ivar limited: refused by the rate limit.
    """

    requests: int
    hits: int
    lookups: int
    errors: int
    limited: int


_NO_REQUESTS = RouteCounts(0, 0, 0, 0, 0)


class Durations(NamedTuple):
    """The number of requests in each bucket of some histograms of durations.

    :ivar total: of all requests of the API, from the head of the request to the response's end.
    :ivar hits: of those answered from the cache.
    :ivar upstream: of forwarded requests, until the head of upstream's response.
    :ivar overhead: of forwarded requests, the rest of the time to the first byte.
    """

    total: tuple[int, ...]
    hits: tuple[int, ...]
    upstream: tuple[int, ...]
    overhead: tuple[int, ...]

    @classmethod
    def of(cls, counters: Counters) -> Durations:
        durations = counters.durations
        buckets = [
            each.counts()
            for cache, each in durations.request.items()
            if cache is not CacheOutcome.NONE
        ]
        return cls(
            tuple(_column_sums(buckets)),
            durations.request[CacheOutcome.HIT].counts(),
            durations.upstream.counts(),
            durations.overhead.counts(),
        )


@attrs.frozen
class CounterSnapshot:
    """The counters of the API's requests at one moment.

    :ivar wall: Unix seconds.
    :ivar routes: by API resource.
    :ivar causes: failed requests, in the order of :class:`.FailureCause`.
    :ivar bypasses: in the order of :data:`.BYPASS_REASONS`.
    :ivar stale: answered with expired entries.
    """

    wall: float
    routes: dict[str, RouteCounts]
    durations: Durations
    causes: tuple[int, ...]
    bypasses: tuple[int, ...]
    stale: int

    @classmethod
    def take(cls, counters: Counters, wall: float) -> CounterSnapshot:
        rows: dict[str, list[int]] = {}
        for (route, _, status, cache), count in counters.finished.outcomes.items():
            is_index = route == "other" and cache == CacheOutcome.NONE and status < 400
            if route in OWN_ROUTES or is_index:
                continue
            is_limited = status == 429 and cache == CacheOutcome.NONE
            row = rows.setdefault(route, [0, 0, 0, 0, 0])
            row[0] += count
            row[1] += count * (cache in SAVED_OUTCOMES)
            row[2] += count * (cache in _LOOKED_UP)
            is_error = status >= 400 and status != CLIENT_CLOSED_REQUEST and not is_limited
            row[3] += count * is_error
            row[4] += count * is_limited
        return cls(
            wall,
            {route: RouteCounts(*row) for route, row in rows.items()},
            Durations.of(counters),
            tuple([counters.finished.causes[cause] for cause in _CAUSES]),
            tuple([counters.bypass_reasons[reason] for reason in BYPASS_REASONS]),
            counters.stale_served,
        )


def _column_sums(rows: Iterable[tuple[int, ...]]) -> Iterable[int]:
    return map(sum, zip(*rows, strict=True))


@attrs.frozen
class Interval:
    """The requests that finished between two snapshots."""

    start: CounterSnapshot
    end: CounterSnapshot

    def routes(self) -> list[tuple[str, RouteCounts]]:
        """Return the counts of each requested API resource, busiest first."""
        before = self.start.routes
        rows = [
            (route, RouteCounts(*map(sub, counts, before.get(route, _NO_REQUESTS))))
            for route, counts in self.end.routes.items()
        ]
        return sorted([row for row in rows if row[1].requests], key=lambda row: -row[1].requests)

    def total(self) -> RouteCounts:
        """Return the sums of all routes; ``errors`` has responses that were cut off, too."""
        counts = [_NO_REQUESTS, *(counts for _, counts in self.routes())]
        causes = self.causes()
        limited = causes.pop(FailureCause.RATE_LIMITED, 0)
        sums = RouteCounts(*_column_sums(counts))
        return sums._replace(errors=sum(causes.values()), limited=limited)

    def causes(self) -> dict[FailureCause, int]:
        """Return the number of failed requests of each cause that occurred."""
        return _changes(_CAUSES, self.end.causes, self.start.causes)

    def bypasses(self) -> dict[str, int]:
        """Return the number of requests that bypassed the cache, by reason."""
        return _changes(BYPASS_REASONS, self.end.bypasses, self.start.bypasses)

    def traffic(self) -> Traffic:
        """Return what the verdict depends on."""
        return Traffic(self.total().requests, self.causes(), self.end.stale - self.start.stale)

    def percentiles(self, name: str = "total") -> Percentiles:
        """Return percentiles of durations.

        :param name: a field of :class:`Durations`.
        """
        ends = getattr(self.end.durations, name), getattr(self.start.durations, name)
        durations = tuple(map(sub, *ends))
        found = [percentile(durations, share) for share in (0.5, 0.95, 0.99)]
        return [None if seconds is None else round(seconds * 1000, 3) for seconds in found]

    def slot(self) -> Slot:
        return [self.start.wall, *self.total(), *self.percentiles()]


def _changes(keys: Sequence[_Key], after: Sequence[int], before: Sequence[int]) -> dict[_Key, int]:
    changes = zip(keys, map(sub, after, before), strict=True)
    return {key: change for key, change in changes if change}


class CounterHistory:
    """Snapshots of the counters, oldest first.

    :param wall: the current time in Unix seconds.
    """

    def __init__(self, counters: Counters, wall: float) -> None:
        self._counters = counters
        self._snapshots = deque([CounterSnapshot.take(counters, wall)], maxlen=MAX_SLOTS + 1)
        # Of the closed slots: computing all of them takes 40 ms.
        self._slots: deque[Slot] = deque(maxlen=MAX_SLOTS)
        self._traffic: deque[Traffic] = deque(maxlen=MAX_SLOTS)

    def close_slot(self, wall: float) -> None:
        """End the open slot and begin another."""
        self._snapshots.append(CounterSnapshot.take(self._counters, wall))
        closed = Interval(self._snapshots[-2], self._snapshots[-1])
        self._slots.append(closed.slot())
        self._traffic.append(closed.traffic())

    def slots(self) -> list[Slot]:
        """Return the closed slots, oldest first."""
        return list(self._slots)

    def latest_slot(self) -> list[Slot]:
        """Return the slot that closed last, or an empty list."""
        return [self._slots[-1]] if self._slots else []

    def current(self, wall: float) -> CurrentIntervals:
        """Return the intervals that end now."""
        now = CounterSnapshot.take(self._counters, wall)
        snapshots = self._snapshots
        ranges = {
            name: Interval(snapshots[-min(slots + 1, len(snapshots))], now)
            for name, slots in RANGES.items()
        }
        slot = Interval(snapshots[-1], now)
        return CurrentIntervals(slot, ranges, [*self._traffic, slot.traffic()])


@attrs.frozen
class CurrentIntervals:
    """Intervals that end now.

    :ivar slot: the open slot.
    :ivar ranges: by the names of :data:`RANGES`, the open slot included.
    :ivar traffic: of all slots, oldest first.
    """

    slot: Interval
    ranges: dict[str, Interval]
    traffic: list[Traffic]
