"""Latency of a miss at a fixed rate, and what each peer adds to it.

Requests go by the clock, whether or not earlier ones were answered; waiting for a connection is
part of a request's latency.
"""

from __future__ import annotations

import dataclasses

from bench.gauge import gauge
from bench.peers import Peer, Role
from bench.results import Measure, Run
from bench.stage import Stage
from bench.workload import Scale, watched

RATES = {1: 487, 16: 983}
"""Requests a second by concurrency; every peer, the stock one too, is far from its limit.

Primes, out of step with the ticks by which the kernel counts who used a core.
"""


@dataclasses.dataclass
class Latency:
    """The small completion, on 1 and on 16 connections."""

    scale: Scale
    name: str = "latency"
    peers: tuple[str, ...] = ("direct", "nginx", "original", "stock", "goproxyai")
    measures: tuple[Measure, ...] = tuple(
        Measure(
            f"{point}_{concurrency}",
            f"latency added, {concurrency} at {rate}/s, {point}",
            "µs",
            added=True,
        )
        for concurrency, rate in RATES.items()
        for point in ("p50", "p99")
    )

    @property
    def rounds(self) -> int:
        """As many as there are."""
        return self.scale.rounds

    def prepare(self, stage: Stage, peer: Peer) -> None:
        """Start it; gauge itself warms up."""
        stage.running(peer, Role.RELAYING, "fixed")

    def run(self, stage: Stage, peer: Peer) -> Run:
        """Both percentiles at both concurrencies."""
        running = stage.running(peer, Role.RELAYING, "fixed")
        values: dict[str, float] = {}
        others = 0.0
        for concurrency, rate in RATES.items():

            def load(concurrency: int = concurrency, rate: int = rate) -> dict[str, float]:
                seconds = self.scale.seconds
                return gauge(
                    "latency",
                    running.port,
                    concurrency=concurrency,
                    rate=rate,
                    seconds=seconds,
                    warm=seconds / 5,
                )

            told, use = watched(running, load)
            running.sent += int(told["count"])
            others = max(others, use.others)
            values |= {f"{point}_{concurrency}": told[f"{point}_us"] for point in ("p50", "p99")}
        return Run(values, others)
