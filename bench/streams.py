"""Event streams: many at a fixed rate, and some at the maximum rate.

Peers that read an answer completely before they relay it have no figures at a fixed rate.
"""

from __future__ import annotations

import dataclasses

from bench.gauge import gauge
from bench.peers import Peer
from bench.results import Measure, Run
from bench.testbed import Testbed
from bench.workload import StreamingWorkload, with_cpu_usage

RATE = 20
"""Frames per second of each stream."""

RAMP_SECONDS = 2
"""The time in which the streams are opened."""

SATURATED_STREAMS = 100
"""Simultaneous streams at the maximum rate."""


@dataclasses.dataclass
class Paced(StreamingWorkload):
    """Many simultaneous streams, each at :data:`RATE`."""

    name: str = "streams"
    peers: tuple[str, ...] = ("direct", "nginx", "goproxyai")

    @property
    def measures(self) -> tuple[Measure, ...]:
        of = f"{self.scale.streams:,} streams at {RATE}/s"
        return (
            Measure("sustained", f"{of}, received", "frames/s"),
            Measure("lost", f"{of}, lost", "frames"),
            Measure("gap", f"{of}, gap added, p99", "ms"),
            Measure("first", f"{of}, first frame added, p50", "ms", added=True),
        )

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        """Run all streams; gauge fails if a frame is wrong."""
        running = self.running(testbed, peer)
        result, usage = with_cpu_usage(
            running,
            lambda: gauge(
                "streams",
                running.plain_port,
                streams=self.scale.streams,
                rate=RATE,
                seconds=self.scale.stream_seconds,
                ramp=RAMP_SECONDS,
            ),
        )
        values = {
            "sustained": result["frames_per_second"],
            "lost": result["lost"],
            "gap": result["gap_p99_us"] / 1000,
            "first": result["first_frame_p50_us"] / 1000,
        }
        return Run(values, usage.others)


@dataclasses.dataclass
class Saturated(StreamingWorkload):
    """Frames per second if the upstream does not pause between them."""

    name: str = "frames"
    peers: tuple[str, ...] = ("direct", "nginx", "original", "goproxyai")
    measures: tuple[Measure, ...] = (
        Measure("frames", f"{SATURATED_STREAMS} streams, maximum rate", "frames/s"),
    )

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        """Measure from the first request to the end of the last stream."""
        running = self.running(testbed, peer)
        frames = self.scale.frames
        result, usage = with_cpu_usage(
            running,
            lambda: gauge(
                "streams", running.plain_port, streams=SATURATED_STREAMS, rate=0, frames=frames
            ),
        )
        busy = None if peer.command is None else usage.busy
        return Run({"frames": result["frames_per_second"]}, usage.others, busy)
