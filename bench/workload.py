"""What all workloads share: how long they last, what they watch, and in which order they run."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from bench.machine import Failed, cpu_seconds, others_seconds
from bench.peers import Peer, Role
from bench.results import Measure, Results, Run
from bench.stage import Running, Stage

PAUSE = 2.0
"""Seconds for others to end, before a run is repeated."""
ROUNDING = 0.03
"""Seconds of processor time that the kernel's ticks may be off by, over a few processes."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How long and how large: rounds, seconds of a run, and the sizes of what is held or sent.

    ``attempts`` is how often a run is made, at most, until nothing disturbs it.
    """

    rounds: int
    attempts: int
    seconds: int
    stream_seconds: int
    streams: int
    frames: int
    idle: int
    held_streams: int
    many: int
    growth_rounds: int
    megabytes: int

    @property
    def summary(self) -> str:
        """In words."""
        return (
            f"{self.rounds} x {self.seconds} s a cell, {self.streams:,} streams,"
            f" {self.idle:,} idle connections, {self.many:,} entries and clients"
        )


FULL = Scale(
    rounds=3,
    attempts=3,
    seconds=4,
    stream_seconds=5,
    streams=1_000,
    frames=200,
    idle=9_500,  # where 20,000 files may be open, less than 10,000 connections are held
    held_streams=2_000,
    many=1_000_000,
    growth_rounds=3,
    megabytes=256,
)
QUICK = Scale(
    rounds=1,
    attempts=1,
    seconds=1,
    stream_seconds=1,
    streams=1_000,
    frames=50,
    idle=2_000,
    held_streams=500,
    many=100_000,
    growth_rounds=1,
    megabytes=64,
)


@dataclasses.dataclass
class Moving:
    """Workloads whose daemons pass on what comes as it comes, and are shared by all of them."""

    scale: Scale

    @property
    def rounds(self) -> int:
        """As many as there are."""
        return self.scale.rounds

    def running(self, stage: Stage, peer: Peer) -> Running:
        """The daemon, started if it is not running yet."""
        return stage.running(peer, Role.STREAMING, "moving")

    def prepare(self, stage: Stage, peer: Peer) -> None:
        """Start it."""
        self.running(stage, peer)


class Workload(Protocol):
    """One kind of load."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""

    @property
    def peers(self) -> tuple[str, ...]:
        """The names of those that it is for."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What it measures."""

    @property
    def rounds(self) -> int:
        """How often each peer is measured."""

    def prepare(self, stage: Stage, peer: Peer) -> None:
        """Start what is needed and warm it up; nothing of this counts."""

    def run(self, stage: Stage, peer: Peer) -> Run:
        """One run, with everything checked that could make it look better than it was."""


@dataclasses.dataclass(frozen=True)
class Use:
    """Shares of a core in use while something was done: the daemon's, and other processes'."""

    busy: float
    others: float


def watched(running: Running, work: Callable[[], T]) -> tuple[T, Use]:
    """Do some work and see who used the machine meanwhile."""
    start, cpu, others = time.monotonic(), cpu_seconds(running.pid), others_seconds(running.pids)
    done = work()
    elapsed = time.monotonic() - start
    cpu, others = cpu_seconds(running.pid) - cpu, others_seconds(running.pids) - others
    return done, Use(cpu / elapsed, max(0.0, others - ROUNDING) / elapsed)


def _quiet_run(workload: Workload, stage: Stage, peer: Peer, most: int) -> Run:
    """A run that others left alone, or of so many the one that they disturbed least."""
    attempts: list[Run] = []
    while len(attempts) < most and not any(run.quiet for run in attempts):
        time.sleep(PAUSE if attempts else 0)
        attempts.append(workload.run(stage, peer))
    return min(attempts, key=lambda run: run.others)


def measure(
    workloads: Sequence[Workload], peers: dict[str, Peer], stage: Stage, attempts: int
) -> Results:
    """Prepare every cell, then run round after round; a cell that fails is out from then on.

    An optional peer that does not start is absent from the results, which tell its reason.
    """
    results = Results([(w.name, m) for w in workloads for m in w.measures])
    cells = [(w, peers[name]) for w in workloads for name in w.peers if name in peers]
    for workload, peer in cells:
        _say(f"prepare {workload.name}: {peer.name}")
        _guarded(results, workload, peer, functools.partial(workload.prepare, stage, peer))
        if peer.optional and (workload.name, peer.name) in results.failures:
            results.absent[peer.name] = results.failures.pop((workload.name, peer.name))
    cells = [(workload, peer) for workload, peer in cells if peer.name not in results.absent]
    results.prepared = time.monotonic()
    for number in range(max(workload.rounds for workload in workloads)):
        for workload, peer in cells:
            if number >= workload.rounds or (workload.name, peer.name) in results.failures:
                continue
            _say(f"round {number + 1}, {workload.name}: {peer.name}")
            _guarded(
                results,
                workload,
                peer,
                functools.partial(_add_run, results, workload, stage, peer, attempts),
            )
    _say("")
    return results


def _add_run(results: Results, workload: Workload, stage: Stage, peer: Peer, most: int) -> None:
    results.add(workload.name, peer.name, _quiet_run(workload, stage, peer, most))


def _guarded(results: Results, workload: Workload, peer: Peer, work: Callable[[], None]) -> None:
    try:
        work()
    except (Failed, OSError) as failure:
        results.failures[workload.name, peer.name] = str(failure) or type(failure).__name__


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
