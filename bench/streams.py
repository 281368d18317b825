"""Event streams: many at a pace, and as many frames as go through.

Peers that read an answer whole before they pass it on have no figures at a pace.
"""

from __future__ import annotations

import dataclasses

from bench.gauge import gauge
from bench.peers import Peer
from bench.results import Measure, Run
from bench.stage import Stage
from bench.workload import Moving, watched

RATE = 20
"""Frames a second of each stream."""

RAMP = 1
"""Seconds in which they are opened."""

CROWD = 100
"""Streams that run together where frames go as fast as they can."""


@dataclasses.dataclass
class Paced(Moving):
    """Many streams that are open at once, each at :data:`RATE`."""

    name: str = "streams"
    peers: tuple[str, ...] = ("direct", "nginx", "goproxyai")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What a reader of a stream notices."""
        of = f"{self.scale.streams:,} streams at {RATE}/s"
        return (
            Measure("sustained", f"{of}, received", "frames/s"),
            Measure("lost", f"{of}, lost", "frames"),
            Measure("gap", f"{of}, gap added, p99", "ms"),
            Measure("first", f"{of}, first frame added, p50", "ms", added=True),
        )

    def run(self, stage: Stage, peer: Peer) -> Run:
        """One crowd of streams; gauge fails it where a frame is lost or differs."""
        running = self.running(stage, peer)
        told, use = watched(
            running,
            lambda: gauge(
                "streams",
                running.port,
                streams=self.scale.streams,
                rate=RATE,
                seconds=self.scale.stream_seconds,
                ramp=RAMP,
            ),
        )
        values = {
            "sustained": told["frames_per_second"],
            "lost": told["lost"],
            "gap": told["gap_p99_us"] / 1000,
            "first": told["first_frame_p50_us"] / 1000,
        }
        return Run(values, use.others)


@dataclasses.dataclass
class Saturated(Moving):
    """Frames a second where upstream does not pause between them."""

    name: str = "frames"
    peers: tuple[str, ...] = ("direct", "nginx", "original", "stock", "goproxyai")
    measures: tuple[Measure, ...] = (
        Measure("frames", f"{CROWD} streams, as fast as they go", "frames/s"),
    )

    def run(self, stage: Stage, peer: Peer) -> Run:
        """From the first request to the last stream's end."""
        running = self.running(stage, peer)
        frames = self.scale.frames
        told, use = watched(
            running,
            lambda: gauge("streams", running.port, streams=CROWD, rate=0, frames=frames),
        )
        return Run({"frames": told["frames_per_second"]}, use.others)
