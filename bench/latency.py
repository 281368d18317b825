"""The latency of a miss at a fixed rate.

Requests are sent at fixed times, whether or not earlier ones are answered. The wait for a free
connection is part of the latency.
"""

from __future__ import annotations

import dataclasses

from bench.gauge import gauge
from bench.peers import Peer, Role, Setup
from bench.results import Measure, Run
from bench.testbed import Testbed
from bench.workload import Scale, with_cpu_usage

RATES = {16: 983}
"""Requests per second by concurrency, far from every peer's limit.

The rate is a prime, so that it does not coincide with the ticks in which the kernel counts CPU
time.
"""

POINTS = {"p50": "p50", "p99": "p99", "p999": "p99.9"}
"""The percentiles of gauge, and their names in the table."""


@dataclasses.dataclass
class Latency:
    """The latency of the small completion, on 16 connections."""

    scale: Scale
    name: str = "latency"
    peers: tuple[str, ...] = ("direct", "nginx", "original", "goproxyai")
    measures: tuple[Measure, ...] = tuple(
        Measure(
            f"{point}_{concurrency}",
            f"latency added, {concurrency} at {rate}/s, {title}",
            "µs",
            added=True,
        )
        for concurrency, rate in RATES.items()
        for point, title in POINTS.items()
    )

    @property
    def rounds(self) -> int:
        return self.scale.rounds

    def prepare(self, testbed: Testbed, peer: Peer) -> None:
        """Start the peer; gauge warms it up."""
        testbed.running(peer, Setup(Role.RELAYING))

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        running = testbed.running(peer, Setup(Role.RELAYING))
        values: dict[str, float] = {}
        others = 0.0
        for concurrency, rate in RATES.items():

            def load(concurrency: int = concurrency, rate: int = rate) -> dict[str, float]:
                seconds = 2 * self.scale.seconds  # for the rare slow ones
                return gauge(
                    "latency",
                    running.plain_port,
                    concurrency=concurrency,
                    rate=rate,
                    seconds=seconds,
                    warm=seconds / 5,
                )

            result, usage = with_cpu_usage(running, load)
            running.sent += int(result["count"] + result["warm"])
            others = max(others, usage.others)
            values |= {f"{point}_{concurrency}": result[f"{point}_us"] for point in POINTS}
        return Run(values, others)
