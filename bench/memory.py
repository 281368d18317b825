"""Memory of the daemon: at start, with connections and streams open, and after they have gone.

A MB is 2**20 bytes, a KB 2**10. Idle connections and streams have a daemon of their own each, so
that neither finds memory that the other has left.
"""

from __future__ import annotations

import dataclasses
import time

from bench.gauge import held
from bench.machine import resident_bytes
from bench.peers import Peer, Role
from bench.results import Measure, Run
from bench.stage import Running, Stage
from bench.workload import Scale

SETTLE = 1.0
"""Seconds until what was opened or closed has come to rest."""

MB, KB = 2**20, 2**10
BUFFERING = {"original", "stock"}
"""Peers that pass on nothing of a stream that does not end."""


@dataclasses.dataclass
class Memory:
    """Resident memory; connections have carried one request each, streams a frame a second."""

    scale: Scale
    name: str = "memory"
    rounds: int = 1
    peers: tuple[str, ...] = ("nginx", "original", "stock", "goproxyai")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All that is looked at."""
        idle, streams = f"{self.scale.idle:,}", f"{self.scale.held_streams:,}"
        return (
            Measure("start", "memory at start", "MB"),
            Measure("idle", f"memory per idle connection, of {idle}", "KB"),
            Measure("after_idle", f"memory after {idle} idle connections have gone", "MB"),
            Measure("stream", f"memory per open stream, of {streams}", "KB"),
            Measure("after_streams", f"memory after {streams} streams have gone", "MB"),
        )

    def prepare(self, stage: Stage, peer: Peer) -> None:
        """Nothing: what is measured must not have seen a load."""

    def run(self, stage: Stage, peer: Peer) -> Run:
        """A look at each of them."""
        values = {}
        with stage.fresh(peer, Role.STREAMING, "moving") as running:
            values["start"] = resident_bytes(running.pid) / MB
            each, after = self._cost(running, idle=self.scale.idle)
            values |= {"idle": each, "after_idle": after}
        if peer.name not in BUFFERING:
            with stage.fresh(peer, Role.STREAMING, "moving") as running:
                each, after = self._cost(running, streams=self.scale.held_streams)
                values |= {"stream": each, "after_streams": after}
        return Run(values)

    def _cost(self, running: Running, **what: int) -> tuple[float, float]:
        """What each of so many costs in KB, and the daemon's memory in MB after they have gone."""
        (count,) = what.values()
        with held(running.port, **dict.fromkeys(what, 1)):
            pass  # the first of its kind brings in what all others share
        before = resident_bytes(running.pid)
        with held(running.port, **what):
            time.sleep(SETTLE)
            during = resident_bytes(running.pid)
        time.sleep(SETTLE)
        return (during - before) / count / KB, resident_bytes(running.pid) / MB
