"""The daemon's memory: at start, with open connections and streams, and after these have closed.

A MB is 2**20 bytes, a KB 2**10. Idle connections and streams are measured with a daemon each, so
that neither reuses memory which the other has freed.
"""

from __future__ import annotations

import dataclasses
import time

from bench.gauge import held
from bench.machine import resident_bytes
from bench.peers import Peer, Role, Setup
from bench.results import Measure, Run
from bench.testbed import Running, Testbed
from bench.workload import Scale

SETUP = Setup(Role.STREAMING, "gauge")
PLAIN = Setup(Role.STREAMING, "gauge", tls=False)
MB, KB = 2**20, 2**10
BUFFERING = {"original", "stock"}
"""Peers that relay a stream only when it has ended."""


@dataclasses.dataclass
class Memory:
    """Resident memory; each connection has had one request, each stream sends a frame a second."""

    scale: Scale
    name: str = "memory"
    rounds: int = 1
    peers: tuple[str, ...] = ("nginx", "original", "stock", "goproxyai")

    @property
    def measures(self) -> tuple[Measure, ...]:
        idle, streams = f"{self.scale.idle:,}", f"{self.scale.held_streams:,}"
        return (
            Measure("start", "memory at start", "MB"),
            Measure("idle", f"memory per idle connection, of {idle}", "KB"),
            Measure("after_idle", f"memory after {idle} idle connections have closed", "MB"),
            Measure("stream", f"memory per open stream, of {streams}", "KB"),
            Measure("after_streams", f"memory after {streams} streams have closed", "MB"),
            Measure("stream_plain", f"memory per open stream, of {streams}, no TLS", "KB"),
        )

    def prepare(self, testbed: Testbed, peer: Peer) -> None:
        """Do nothing: the daemons must start without any load."""

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        values = {}
        with testbed.fresh(peer, SETUP) as running:
            values["start"] = resident_bytes(running.pid) / MB
            each, after = self._cost(running, idle=self.scale.idle)
            values |= {"idle": each, "after_idle": after}
        if peer.name not in BUFFERING:
            with testbed.fresh(peer, SETUP) as running:
                each, after = self._cost(running, streams=self.scale.held_streams)
                values |= {"stream": each, "after_streams": after}
            with testbed.fresh(peer, PLAIN) as running:
                values["stream_plain"], _ = self._cost(running, streams=self.scale.held_streams)
        return Run(values)

    def _cost(self, running: Running, **what: int) -> tuple[float, float]:
        """KB per connection or stream, and the daemon's memory in MB after they have closed."""
        (count,) = what.values()
        with held(running.port, **dict.fromkeys(what, 1)):
            pass  # the first one allocates what all others share
        before = resident_bytes(running.pid)
        with held(running.port, **what):
            time.sleep(self.scale.settle_seconds)
            during = resident_bytes(running.pid)
        time.sleep(self.scale.settle_seconds)
        return (during - before) / count / KB, resident_bytes(running.pid) / MB
