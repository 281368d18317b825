"""Histograms of durations."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

BOUNDS_SECONDS: Final = tuple(0.0001 * 2**step for step in range(24))
"""Upper bounds of the buckets: 100 µs to about 14 minutes, each twice the one before."""


class Histogram:
    """Durations in doubling buckets: a percentile is right within a factor of two.

    :ivar count: number of durations.
    :ivar total: their sum in seconds.
    :ivar longest: the longest in seconds.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._buckets = [0] * (len(BOUNDS_SECONDS) + 1)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        self._buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1

    def add_batch(self, durations: list[float]) -> None:
        """Count many durations, in seconds; the list is sorted in place."""
        if not durations:
            return
        durations.sort()
        self.count += len(durations)
        self.total += sum(durations)
        self.longest = max(self.longest, durations[-1])
        buckets, below = self._buckets, 0
        for step, bound in enumerate(BOUNDS_SECONDS):
            above = bisect_right(durations, bound, below)
            buckets[step] += above - below
            below = above
            if below == len(durations):
                return
        buckets[-1] += len(durations) - below

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        """Return the histogram of all their durations."""
        merged = cls()
        for each in histograms:
            merged.count += each.count
            merged.total += each.total
            merged.longest = max(merged.longest, each.longest)
            pairs = zip(merged._buckets, each._buckets, strict=True)
            merged._buckets = [sum(pair) for pair in pairs]
        return merged

    def counts(self) -> tuple[int, ...]:
        """Return the number of durations in each bucket; the last one has no upper bound."""
        return tuple(self._buckets)

    def cumulative(self) -> list[tuple[float, int]]:
        """Return the upper bound and the cumulative count of each bucket except the last."""
        return list(zip(BOUNDS_SECONDS, accumulate(self._buckets), strict=False))

    def percentile(self, share: float) -> float:
        """Return the bound in seconds below which *share* (0 to 1) of the durations are."""
        wanted = share * self.count
        seen = 0
        for bound, number in zip(BOUNDS_SECONDS, self._buckets, strict=False):
            seen += number
            if number and seen >= wanted:
                return float(min(bound, self.longest))
        return self.longest

    def summary(self) -> dict[str, float]:
        """Return the object of ``/stats``, in milliseconds."""
        seconds = {
            "mean_ms": self.total / self.count if self.count else 0.0,
            "p50_ms": self.percentile(0.5),
            "p95_ms": self.percentile(0.95),
            "p99_ms": self.percentile(0.99),
            "max_ms": self.longest,
        }
        return {name: round(value * 1000, 3) for name, value in seconds.items()}


def percentile(counts: Sequence[int], share: float) -> float | None:
    """Return the seconds below which *share* (0 to 1) of the durations are; ``None`` without any.

    The durations of a bucket are taken as evenly spread over it.

    :param counts: of :meth:`Histogram.counts`, or a difference of two.
    """
    wanted = share * sum(counts)
    seen = 0
    for step, number in enumerate(counts):
        if number and seen + number >= wanted:
            upper = BOUNDS_SECONDS[min(step, len(BOUNDS_SECONDS) - 1)]
            lower = BOUNDS_SECONDS[step - 1] if step else 0.0
            return float(lower + (upper - lower) * (wanted - seen) / number)
        seen += number
    return None
