"""The counters of the last hour, in slots of ten seconds, for the dashboard.

A slot is the difference of two snapshots of the counters, so nothing is added up while requests are
served. At most :data:`MAX_SLOTS` + 1 snapshots are kept, of a few kilobytes each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from operator import sub
from typing import Final, NamedTuple

import attrs

from goproxyai.telemetry.counters import CLIENT_CLOSED_REQUEST, Counters
from goproxyai.telemetry.histogram import percentile
from goproxyai.telemetry.outcome import SAVED_OUTCOMES, CacheOutcome

SLOT_SECONDS: Final = 10

MAX_SLOTS: Final = 360
"""One hour of slots."""

_ADMIN_ROUTES = frozenset(("/health", "/stats", "/metrics", "/cache", "/dashboard"))
_LOOKED_UP = SAVED_OUTCOMES | {CacheOutcome.MISS}

Slot = list[float | None]
"""A point of the charts: Unix start time, the four route counts, p50, p95 and p99 in ms."""


class RouteCounts(NamedTuple):
    """Finished requests.

    :ivar hits: answered without an upstream request.
    :ivar lookups: looked up in the cache.
    :ivar errors: answered with a status of 400 or above.
    """

    requests: int
    hits: int
    lookups: int
    errors: int


_NO_REQUESTS = RouteCounts(0, 0, 0, 0)


@attrs.frozen
class CounterSnapshot:
    """The counters of relayed requests at one moment.

    :ivar wall: Unix seconds.
    :ivar routes: by API resource.
    :ivar durations: number of requests in each bucket of the duration histogram.
    """

    wall: float
    routes: dict[str, RouteCounts]
    durations: tuple[int, ...]

    @classmethod
    def take(cls, counters: Counters, wall: float) -> CounterSnapshot:
        rows: dict[str, list[int]] = {}
        for (route, _, status, cache), count in counters.finished.outcomes.items():
            if route in _ADMIN_ROUTES:
                continue
            row = rows.setdefault(route, [0, 0, 0, 0])
            row[0] += count
            row[1] += count * (cache in SAVED_OUTCOMES)
            row[2] += count * (cache in _LOOKED_UP)
            row[3] += count * (status >= 400 and status != CLIENT_CLOSED_REQUEST)
        routes = {route: RouteCounts(*row) for route, row in rows.items()}
        buckets = [
            each.counts()
            for cache, each in counters.durations.request.items()
            if cache is not CacheOutcome.NONE
        ]
        return cls(wall, routes, tuple(_column_sums(buckets)))


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
        return RouteCounts(*_column_sums([_NO_REQUESTS, *(counts for _, counts in self.routes())]))

    def percentiles(self) -> list[float | None]:
        """Return p50, p95 and p99 of the durations in milliseconds; ``None`` without requests."""
        durations = tuple(map(sub, self.end.durations, self.start.durations))
        found = [percentile(durations, share) for share in (0.5, 0.95, 0.99)]
        return [None if seconds is None else round(seconds * 1000, 3) for seconds in found]

    def slot(self) -> Slot:
        return [self.start.wall, *self.total(), *self.percentiles()]


class CounterHistory:
    """Snapshots of the counters, oldest first.

    :param wall: the current time in Unix seconds.
    """

    def __init__(self, counters: Counters, wall: float) -> None:
        self._counters = counters
        self._snapshots = deque([CounterSnapshot.take(counters, wall)], maxlen=MAX_SLOTS + 1)

    def close_slot(self, wall: float) -> None:
        """End the open slot and begin another."""
        self._snapshots.append(CounterSnapshot.take(self._counters, wall))

    def slots(self) -> list[Slot]:
        """Return the closed slots, oldest first."""
        return [Interval(start, end).slot() for start, end in pairwise(self._snapshots)]

    def latest_slot(self) -> list[Slot]:
        """Return the slot that closed last, or an empty list."""
        if len(self._snapshots) < 2:
            return []
        return [Interval(self._snapshots[-2], self._snapshots[-1]).slot()]

    def current(self, wall: float) -> tuple[Interval, Interval]:
        """Return the open slot, and the last hour including it."""
        now = CounterSnapshot.take(self._counters, wall)
        return Interval(self._snapshots[-1], now), Interval(self._snapshots[0], now)
