"""The measured values of all runs, and their medians, differences and ratios."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Sequence

QUIET = 0.1
"""The share of a core that other processes may use during an undisturbed run."""

SATURATED = 0.9
"""The share of its core that a daemon uses if its own speed limits the rate, not the load's."""


BARE = "direct"
"""The peer without a proxy."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One row of the table; ``added`` subtracts the figure without a proxy."""

    key: str
    title: str
    unit: str
    added: bool = False

    @property
    def is_rate(self) -> bool:
        """Whether the load may limit the figure."""
        return self.unit.endswith("/s")


@dataclasses.dataclass(frozen=True)
class Run:
    """The values of one verified run by measure, and the CPU usage as shares of a core.

    ``busy`` is that of the measured daemon, if the run measures its rate; ``others`` is that of
    processes outside the benchmark. ``bounds`` are the measures whose values are lower bounds.
    """

    values: dict[str, float]
    others: float = 0.0
    busy: float | None = None
    bounds: tuple[str, ...] = ()

    @property
    def quiet(self) -> bool:
        """Whether no other process disturbed the run."""
        return self.others <= QUIET

    def bounded(self, key: str) -> bool:
        """Whether the value is a lower bound, because the load was the limit."""
        return key in self.bounds or (self.busy is not None and self.busy < SATURATED)


@dataclasses.dataclass(frozen=True)
class Cell:
    """The median of the counted runs, half their spread as a share, and their reliability."""

    value: float
    spread: float
    quiet: bool
    saturated: bool


class Results:
    """All runs and failed cells by workload and peer, and the missing peers.

    ``prepared`` is the monotonic time at which the measurement began. ``spent`` has the seconds of
    each workload.
    """

    def __init__(self, measures: Sequence[tuple[str, Measure]]) -> None:
        self.measures = {measure.key: measure for _, measure in measures}
        self._workloads = {measure.key: workload for workload, measure in measures}
        self.runs: dict[tuple[str, str], list[Run]] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self.absent: dict[str, str] = {}
        self.prepared = 0.0
        self.spent: dict[str, float] = collections.defaultdict(float)

    def add(self, workload: str, peer: str, run: Run) -> None:
        self.runs.setdefault((workload, peer), []).append(run)

    def failed(self, key: str, peer: str) -> bool:
        """Whether a run of this cell failed; then none of its runs counts."""
        return (self._workloads.get(key, ""), peer) in self.failures

    def _counted(self, key: str, peer: str) -> list[Run]:
        if self.failed(key, peer) or key not in self._workloads:
            return []
        runs = [r for r in self.runs.get((self._workloads[key], peer), []) if key in r.values]
        return [run for run in runs if run.quiet] or runs

    def cell(self, key: str, peer: str) -> Cell | None:
        """One cell; ``None`` without a counted run."""
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
            not (self.measures[key].is_rate and any(run.bounded(key) for run in runs)),
        )

    def _base(self, key: str) -> float | None:
        runs = self._counted(key, BARE)
        return statistics.median(run.values[key] for run in runs) if runs else None

    def value(self, key: str, peer: str) -> float | None:
        """The median of a cell; ``None`` without a counted run."""
        return None if (cell := self.cell(key, peer)) is None else cell.value

    def ratio(self, key: str, peer: str, other: str) -> float | None:
        """The ratio of two peers' medians; ``None`` if one is missing."""
        one, two = self.value(key, peer), self.value(key, other)
        return one / two if one is not None and two else None

    def raw(self) -> dict[str, object]:
        """Everything that was measured, for JSON; ``counted`` is false for an excluded run."""
        return {
            "measures": {key: dataclasses.asdict(each) for key, each in self.measures.items()},
            "runs": [
                {
                    "workload": workload,
                    "peer": peer,
                    "counted": (workload, peer) not in self.failures
                    and (run.quiet or not any(each.quiet for each in runs)),
                    **dataclasses.asdict(run),
                }
                for (workload, peer), runs in self.runs.items()
                for run in runs
            ],
            "failures": [[*cell, reason] for cell, reason in self.failures.items()],
            "absent": self.absent,
            "seconds": {workload: round(spent, 1) for workload, spent in self.spent.items()},
        }

    def disturbed(self) -> tuple[int, int, float]:
        """The number of disturbed runs, of all runs, and the largest usage by other processes."""
        runs = [run for cell in self.runs.values() for run in cell]
        shares = [run.others for run in runs if not run.quiet]
        return len(shares), len(runs), max(shares, default=0.0)
