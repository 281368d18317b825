"""Counts by name over a recent time, of which only the most frequent names are kept.

The time is covered by two windows, so that a name disappears between one and two window lengths
after its last request. A window holds less than twice :attr:`RecentCounts.max_names` names and one
batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest


class RecentCounts:
    """Counts by name.

    :param window_seconds: length of a window.
    :param max_names: names that are left when a window is pruned to its most frequent names.
    """

    def __init__(self, window_seconds: float, max_names: int) -> None:
        self.window_seconds = window_seconds
        self.max_names = max_names
        self._present: dict[str, int] = {}
        self._previous: dict[str, int] = {}
        self._ends_at = 0.0

    def add(self, counts: Mapping[str, int], now: float, weight: int = 1) -> None:
        """Add *counts*, each *weight* times."""
        if now >= self._ends_at:
            self._rotate(now)
        present = self._present
        for name, count in counts.items():
            present[name] = present.get(name, 0) + weight * count
        if len(present) >= 2 * self.max_names:
            self._present = dict(most(present, self.max_names))

    def _rotate(self, now: float) -> None:
        is_recent = now < self._ends_at + self.window_seconds
        self._previous = self._present if is_recent else {}
        self._present = {}
        self._ends_at = now + self.window_seconds

    def counts(self, now: float) -> dict[str, int]:
        """Return the counts of both windows."""
        if now >= self._ends_at:
            self._rotate(now)
        present, previous = self._present, self._previous
        both = {name: count + previous.get(name, 0) for name, count in present.items()}
        return previous | both


def most(counts: Mapping[str, int], rows: int) -> list[tuple[str, int]]:
    """Return the most frequent names with their counts."""
    return nlargest(rows, counts.items(), key=lambda row: row[1])
