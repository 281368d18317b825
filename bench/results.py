"""What was measured: runs, medians, differences and ratios. Nothing here measures."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

QUIET = 0.1
"""How much of a core other processes may take during a run."""

SATURATED = 0.9
"""How busy a daemon must be for its rate to be its own limit, and not the load's."""


BARE = "direct"
"""The peer that is no proxy."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One row of the table. ``added`` is what comes on top of the figure without a proxy."""

    key: str
    title: str
    unit: str
    added: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
    """What one verified run gave, by measure; and the shares of a core that were in use.

    ``busy`` is the measured daemon's, where its rate was asked for; ``others`` is what processes
    took that are no part of the bench.
    """

    values: dict[str, float]
    others: float = 0.0
    busy: float | None = None

    @property
    def quiet(self) -> bool:
        """Whether other processes left the machine to this run."""
        return self.others <= QUIET


@dataclasses.dataclass(frozen=True)
class Cell:
    """A figure: the median of what counted, half its spread as a share, and how sure it is."""

    value: float
    spread: float
    quiet: bool
    saturated: bool


class Results:
    """All runs and the cells that failed, by workload and peer; and the peers that are absent.

    ``prepared`` is the monotonic time at which measuring began.
    """

    def __init__(self, measures: Sequence[tuple[str, Measure]]) -> None:
        self.measures = {measure.key: measure for _, measure in measures}
        self._workloads = {measure.key: workload for workload, measure in measures}
        self.runs: dict[tuple[str, str], list[Run]] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self.absent: dict[str, str] = {}
        self.prepared = 0.0

    def add(self, workload: str, peer: str, run: Run) -> None:
        """Keep one run."""
        self.runs.setdefault((workload, peer), []).append(run)

    def failed(self, key: str, peer: str) -> bool:
        """Whether a run of this cell failed, so that none of them counts."""
        return (self._workloads.get(key, ""), peer) in self.failures

    def _counted(self, key: str, peer: str) -> list[Run]:
        if self.failed(key, peer) or key not in self._workloads:
            return []
        runs = [r for r in self.runs.get((self._workloads[key], peer), []) if key in r.values]
        return [run for run in runs if run.quiet] or runs

    def cell(self, key: str, peer: str) -> Cell | None:
        """The figure of one cell, or none."""
        if not (runs := self._counted(key, peer)):
            return None
        values = [run.values[key] for run in runs]
        median = statistics.median(values)
        value = median
        if self.measures[key].added and peer != BARE:
            if (base := self._base(key)) is None:
                return None
            value -= base
        return Cell(
            value,
            (max(values) - min(values)) / 2 / abs(value) if value else 0.0,
            all(run.quiet for run in runs),
            all(run.busy is None or run.busy >= SATURATED for run in runs),
        )

    def _base(self, key: str) -> float | None:
        runs = self._counted(key, BARE)
        return statistics.median(run.values[key] for run in runs) if runs else None

    def value(self, key: str, peer: str) -> float | None:
        """The median of a cell, or none."""
        return None if (cell := self.cell(key, peer)) is None else cell.value

    def ratio(self, key: str, peer: str, other: str) -> float | None:
        """One peer's figure over another's; none where one is missing."""
        one, two = self.value(key, peer), self.value(key, other)
        return one / two if one is not None and two else None

    def disturbed(self) -> tuple[int, int, float]:
        """Runs that other processes disturbed, of how many, and the most that they took."""
        runs = [run for cell in self.runs.values() for run in cell]
        shares = [run.others for run in runs if not run.quiet]
        return len(shares), len(runs), max(shares, default=0.0)
