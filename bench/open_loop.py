"""The time that a proxy adds in front of an upstream that takes its time, at rising rates.

The upstream answers after 20 ms to 2 s. A third of the answers are streams of 30 to 100 frames a
second. gauge sends each request at its scheduled time, on as many connections as that needs, and
measures from the scheduled time; the time for which the upstream has held the request is left out.
"""

from __future__ import annotations

import dataclasses

from bench.gauge import gauge
from bench.peers import Peer
from bench.results import BARE, Measure, Run
from bench.testbed import Testbed
from bench.workload import StreamingWorkload, with_cpu_usage


@dataclasses.dataclass
class OpenLoop(StreamingWorkload):
    """Percentiles at the first rate, and the highest rate before the 99th doubles."""

    name: str = "open"
    peers: tuple[str, ...] = ("direct", "nginx", "goproxyai")

    @property
    def rounds(self) -> int:
        """One: each run has many steps."""
        return 1

    @property
    def measures(self) -> tuple[Measure, ...]:
        first = f"slow upstream, {self.scale.open_rates[0]:,}/s"
        return (
            *(
                Measure(f"open_{key}", f"{first}, {text} added, {point}", "ms", added=True)
                for key, text, point in (
                    ("p50", "latency", "p50"),
                    ("p99", "latency", "p99"),
                    ("p999", "latency", "p99.9"),
                    ("first_frame_p50", "first frame", "p50"),
                    ("first_frame_p99", "first frame", "p99"),
                    ("gap_p99", "gap", "p99"),
                )
            ),
            Measure("open_rate", "slow upstream, highest rate before p99 doubles", "req/s"),
        )

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        """Raise the rate up to the last one; gauge fails if a frame is lost or wrong."""
        running = self.running(testbed, peer)
        rates = self.scale.open_rates
        result, usage = with_cpu_usage(
            running,
            lambda: gauge(
                "open",
                running.plain_port,
                rates=",".join(map(str, rates)),
                first=self.scale.open_first_seconds,
                seconds=self.scale.open_seconds,
                settle=self.scale.open_seconds / 3,
            ),
        )
        running.sent += int(result["requests"])
        values = {
            f"open_{name.removesuffix('_us')}": figure / 1000
            for name, figure in result.items()
            if name.endswith("_us") or "_us_at_" in name
        }
        values["open_rate"] = result["sustained_rate"]
        bounds = () if result["doubled"] and peer.name != BARE else ("open_rate",)
        return Run(values, usage.others, bounds=bounds)
