"""The base of all workloads: their scale, the measured CPU usage, and the order of the runs."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from bench.machine import Failed, cpu_seconds, others_seconds
from bench.peers import Peer, Role, Setup
from bench.results import Measure, Results, Run
from bench.testbed import Running, Testbed

PAUSE_SECONDS = 2.0
"""Before a disturbed run is repeated, so that the other processes may end."""
TICK_ERROR_SECONDS = 0.03
"""The error of CPU times that the kernel counts in ticks, for a few processes."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Scale:
    """The number of rounds, the seconds of a run, and the sizes of the workloads.

    ``attempts`` is the maximum number of attempts at an undisturbed run. ``warm_seconds`` is
    the duration of a load before the measurement, ``settle_seconds`` the wait before memory is
    measured.
    """

    rounds: int
    attempts: int
    seconds: int
    warm_seconds: int
    stream_seconds: int
    streams: int
    frames: int
    idle: int
    held_streams: int
    settle_seconds: float
    many: int
    growth_rounds: int
    megabytes: int
    open_rates: tuple[int, ...]
    open_first_seconds: float
    open_seconds: float

    @property
    def summary(self) -> str:
        """The scale in words."""
        return (
            f"{self.rounds} x {self.seconds} s per cell, {self.streams:,} streams,"
            f" {self.idle:,} idle connections, {self.many:,} entries and clients"
        )


FULL = Scale(
    rounds=3,
    attempts=3,
    seconds=2,
    warm_seconds=1,
    stream_seconds=3,
    streams=1_000,
    frames=200,
    idle=10_000,
    held_streams=2_000,
    settle_seconds=1.0,
    many=1_000_000,
    growth_rounds=2,
    megabytes=128,
    open_rates=(500, 1000, 1500, 2000, 2500, 3000, 4000),
    open_first_seconds=6.0,
    open_seconds=2.5,
)
QUICK = Scale(
    rounds=1,
    attempts=1,
    seconds=1,
    warm_seconds=0,
    stream_seconds=1,
    streams=1_000,
    frames=50,
    idle=1_000,
    held_streams=500,
    settle_seconds=0.3,
    many=50_000,
    growth_rounds=1,
    megabytes=64,
    open_rates=(500, 1500),
    open_first_seconds=2.0,
    open_seconds=1.5,
)


@dataclasses.dataclass
class StreamingWorkload:
    """A workload whose daemons relay data immediately; all such workloads share the daemons."""

    scale: Scale

    @property
    def rounds(self) -> int:
        return self.scale.rounds

    def running(self, testbed: Testbed, peer: Peer) -> Running:
        """The shared daemon of *peer*."""
        return testbed.running(peer, Setup(Role.STREAMING, "gauge"))

    def prepare(self, testbed: Testbed, peer: Peer) -> None:
        self.running(testbed, peer)


@dataclasses.dataclass
class RateWorkload(ABC):
    """A workload that is measured in requests per second."""

    name: str
    title: str
    setup: Setup
    peers: tuple[str, ...]
    scale: Scale

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (Measure(self.name, self.title, "req/s"),)

    @property
    def rounds(self) -> int:
        return self.scale.rounds

    def prepare(self, testbed: Testbed, peer: Peer) -> None:
        """Start the peer, fill its cache, and warm it up."""
        running = testbed.running(peer, self.setup)
        self.fill(testbed, peer, running)
        if self.scale.warm_seconds and not running.warm:
            slow = 3 if peer.optional else 1  # the first answers of a gateway take seconds
            self.rate(testbed, peer, running, slow * self.scale.warm_seconds)
            running.warm = True

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        running = testbed.running(peer, self.setup)
        found, usage = self.rate(testbed, peer, running, self.scale.seconds)
        busy = None if peer.command is None else usage.busy
        return Run({self.name: found}, usage.others, busy)

    @abstractmethod
    def fill(self, testbed: Testbed, peer: Peer, running: Running) -> None:
        """Send what the cache is to contain; without a cache, some requests."""

    @abstractmethod
    def rate(
        self, testbed: Testbed, peer: Peer, running: Running, seconds: int
    ) -> tuple[float, CpuUse]:
        """Requests per second in one load, and the CPU usage; raises if an answer is wrong."""


class Workload(Protocol):
    """One kind of load."""

    @property
    def name(self) -> str:
        """The name on the command line."""

    @property
    def peers(self) -> tuple[str, ...]:
        """The names of the measured peers."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The rows of the table."""

    @property
    def rounds(self) -> int:
        """The number of runs for each peer."""

    def prepare(self, testbed: Testbed, peer: Peer) -> None:
        """Start the daemon and warm it up."""

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        """Measure once; raises :class:`Failed` if an answer is wrong."""


@dataclasses.dataclass(frozen=True)
class CpuUse:
    """The CPU usage during a run, as shares of a core: of the daemon, and of other processes."""

    busy: float
    others: float


def with_cpu_usage(running: Running, work: Callable[[], T], *more: Running) -> tuple[T, CpuUse]:
    """Call *work* and measure the CPU usage meanwhile; *more* are under load as well."""
    pids = list({pid for each in (running, *more) for pid in each.pids})
    start, cpu, others = time.monotonic(), cpu_seconds(running.pid), others_seconds(pids)
    done = work()
    elapsed = time.monotonic() - start
    cpu, others = cpu_seconds(running.pid) - cpu, others_seconds(pids) - others
    return done, CpuUse(cpu / elapsed, max(0.0, others - TICK_ERROR_SECONDS) / elapsed)


def _quiet_run(workload: Workload, testbed: Testbed, peer: Peer, attempts: int) -> Run:
    """An undisturbed run, or the least disturbed of all *attempts*."""
    runs: list[Run] = []
    while len(runs) < attempts and not any(run.quiet for run in runs):
        time.sleep(PAUSE_SECONDS if runs else 0)
        runs.append(workload.run(testbed, peer))
    return min(runs, key=lambda run: run.others)


def measure(
    workloads: Sequence[Workload], peers: dict[str, Peer], testbed: Testbed, attempts: int
) -> Results:
    """Prepare every cell, then run all rounds; a failed cell is skipped from then on.

    An optional peer that does not start is missing; the results have the reason.
    """
    results = Results([(w.name, m) for w in workloads for m in w.measures])
    cells = [(w, peers[name]) for w in workloads for name in w.peers if name in peers]
    for workload, peer in cells:
        _show(f"prepare {workload.name}: {peer.name}")
        _guarded(results, workload, peer, functools.partial(workload.prepare, testbed, peer))
        if peer.optional and (workload.name, peer.name) in results.failures:
            results.absent[peer.name] = results.failures.pop((workload.name, peer.name))
    cells = [(workload, peer) for workload, peer in cells if peer.name not in results.absent]
    results.prepared = time.monotonic()
    for number in range(max(workload.rounds for workload in workloads)):
        for workload, peer in cells:
            if (
                number >= (1 if peer.optional else workload.rounds)
                or (workload.name, peer.name) in results.failures
            ):
                continue
            _show(f"round {number + 1}, {workload.name}: {peer.name}")
            _guarded(
                results,
                workload,
                peer,
                functools.partial(_add_run, results, workload, testbed, peer, attempts),
            )
    _show("")
    return results


def _add_run(
    results: Results, workload: Workload, testbed: Testbed, peer: Peer, attempts: int
) -> None:
    results.add(workload.name, peer.name, _quiet_run(workload, testbed, peer, attempts))


def _guarded(results: Results, workload: Workload, peer: Peer, work: Callable[[], None]) -> None:
    start = time.monotonic()
    try:
        work()
    except (Failed, OSError) as failure:
        results.failures[workload.name, peer.name] = str(failure) or type(failure).__name__
    results.spent[workload.name] += time.monotonic() - start


def _show(text: str) -> None:
    """Replace the progress line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
