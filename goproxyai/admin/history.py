"""The last hour, for people: what was counted, noted down every ten seconds.

Nothing is added up here while requests are served: a mark is what the counters say, and what
happened between two moments is the difference of two marks. There are at most :data:`SLOTS` and one
of them, of some kilobytes each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from operator import sub
from typing import Any, Final

import attrs

from goproxyai.telemetry.counters import CLIENT_GONE, Counters, percentile
from goproxyai.telemetry.outcome import SAVED_OUTCOMES, CacheOutcome

SLOT_SECONDS: Final = 10
"""Between two marks."""

SLOTS: Final = 360
"""That are remembered: an hour of them."""

MOST_ROUTES: Final = 10
"""Of the busiest, that are told."""

_OWN = frozenset(("/health", "/stats", "/metrics", "/cache", "/dashboard"))
_LOOKED_UP = SAVED_OUTCOMES | {CacheOutcome.MISS}

Row = tuple[int, int, int, int]
"""Requests; those answered without upstream; those that could have been; errors (4xx and 5xx)."""

_NOTHING: Row = (0, 0, 0, 0)


@attrs.frozen
class Mark:
    """What had been counted at a moment.

    :ivar wall: unix seconds.
    :ivar routes: of the API's resources.
    :ivar times: of the durations, how many lie in each bucket.
    """

    wall: float
    routes: dict[str, Row]
    times: tuple[int, ...]

    @classmethod
    def of(cls, counters: Counters, wall: float) -> Mark:
        """What has been counted by now, of requests for the API."""
        routes: dict[str, list[int]] = {}
        for (route, _, status, cache), count in counters.outcomes.items():
            if route in _OWN:
                continue
            row = routes.setdefault(route, [0, 0, 0, 0])
            row[0] += count
            row[1] += count * (cache in SAVED_OUTCOMES)
            row[2] += count * (cache in _LOOKED_UP)
            row[3] += count * (status >= 400 and status != CLIENT_GONE)
        rows: dict[str, Any] = {route: tuple(row) for route, row in routes.items()}
        buckets = [
            each.counts()
            for cache, each in counters.times.items()
            if cache is not CacheOutcome.NONE
        ]
        return cls(wall, rows, _sums(buckets))


def _sums(rows: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))


@attrs.frozen
class Span:
    """What happened between two marks."""

    since: Mark
    until: Mark

    @property
    def routes(self) -> list[tuple[str, Row]]:
        """Of each resource that was asked for, busiest first."""
        rows: list[tuple[str, Any]] = [
            (route, tuple(map(sub, row, self.since.routes.get(route, _NOTHING))))
            for route, row in self.until.routes.items()
        ]
        return sorted([row for row in rows if row[1][0]], key=lambda row: -row[1][0])

    @property
    def all(self) -> Row:
        """Of all of them together."""
        total: Any = _sums([_NOTHING, *[row for _, row in self.routes]])
        return total  # type: ignore[no-any-return]  # of as many as there are in a row

    def percentiles(self) -> list[float | None]:
        """Milliseconds, below which 50, 95 and 99 % of the durations lie."""
        counts = tuple(map(sub, self.until.times, self.since.times))
        found = [percentile(counts, share) for share in (0.5, 0.95, 0.99)]
        return [None if seconds is None else round(seconds * 1000, 3) for seconds in found]

    def slot(self) -> list[float | None]:
        """Start, what was counted, percentiles: a point of the charts."""
        return [self.since.wall, *self.all, *self.percentiles()]


class History:
    """The marks.

    :param wall: unix seconds, now.
    """

    def __init__(self, counters: Counters, wall: float) -> None:
        self._counters = counters
        self._marks: deque[Mark] = deque([Mark.of(counters, wall)], maxlen=SLOTS + 1)

    def mark(self, wall: float) -> None:
        """One slot ends, and the next begins."""
        self._marks.append(Mark.of(self._counters, wall))

    def slots(self) -> list[list[float | None]]:
        """All that have ended, oldest first."""
        return [Span(one, other).slot() for one, other in pairwise(self._marks)]

    def last(self) -> list[list[float | None]]:
        """The one that ended last, if one has."""
        if len(self._marks) < 2:
            return []
        return [Span(self._marks[-2], self._marks[-1]).slot()]

    def now(self, wall: float) -> tuple[Span, Span]:
        """The slot that has not ended, and the hour with it."""
        mark = Mark.of(self._counters, wall)
        return Span(self._marks[-1], mark), Span(self._marks[0], mark)
