"""Requests per second: hits, misses, and misses with large bodies."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from bench.gateways import GATEWAYS, completes
from bench.machine import Failed
from bench.peers import Peer, Role
from bench.results import Measure, Run
from bench.testbed import Running, Testbed
from bench.workload import CpuUse, Scale, with_cpu_usage
from bench.wrk import CONNECTIONS, LARGE, SMALL, Load, exchange, get, probe, wrk

WARM_UP_SECONDS = 1
"""Load before the measurement, checked but not counted."""


def requests_seen(upstream: int) -> int:
    """The number of requests that the fixed upstream has answered, by its own count."""
    # stub_status has a line of three totals: accepted, handled, requests.
    numbers = re.search(rb"\n (\d+) (\d+) (\d+) \n", get(upstream, "/status"))
    if numbers is None:
        raise Failed("the upstream's status page has no line of totals")
    return int(numbers[3]) - 1


def completion_size(port: int, load: Load) -> int:
    """As :func:`probe`, for a peer that rewrites the JSON of the answer."""
    response = exchange(port, load.one())
    if not completes(response):
        raise Failed(f"no completion was received: {response[-700:]!r}")
    return len(response)


def rate(
    running: Running,
    load: Load,
    seconds: int,
    hits: bool,
    size_of: Callable[[int, Load], int] = probe,
) -> tuple[float, CpuUse]:
    """Requests per second in one run of wrk, and the CPU usage; raises if an answer is wrong."""
    size = size_of(running.port, load)
    seen = requests_seen(running.upstream)
    result, usage = with_cpu_usage(running, lambda: wrk(running.port, load, seconds))
    forwarded = requests_seen(running.upstream) - seen - 1
    size = max(size, size_of(running.port, load))
    running.sent += result.requests + 2
    # Headers such as Age vary by a byte or two, those of gateways by more. The last response on a
    # connection may be incomplete.
    tolerance = 0.02 if size_of is probe else 0.1
    expected = result.requests * size
    if abs(result.bytes - expected) > tolerance * expected + CONNECTIONS * size:
        received = result.bytes / result.requests
        raise Failed(f"{received:.0f} bytes per response instead of {size}")
    if hits and forwarded > CONNECTIONS:
        raise Failed(f"{forwarded} of {result.requests} hits were forwarded")
    if not hits and forwarded < result.requests:
        raise Failed(f"only {forwarded} of {result.requests} misses were forwarded")
    return result.requests / result.seconds, usage


@dataclasses.dataclass
class Throughput:
    """One request, repeated on ``CONNECTIONS`` connections."""

    name: str
    title: str
    load: Load
    role: Role
    peers: tuple[str, ...]
    scale: Scale

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (Measure(self.name, self.title, "req/s"),)

    @property
    def rounds(self) -> int:
        return self.scale.rounds

    def prepare(self, testbed: Testbed, peer: Peer) -> None:
        """Start the peer and warm it up; with a cache, the later answers are hits."""
        running = testbed.running(peer, self.role, "fixed")
        exchange(running.port, self._load(peer, running).one())
        self._rate(running, peer, WARM_UP_SECONDS)

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        running = testbed.running(peer, self.role, "fixed")
        found, usage = self._rate(running, peer, self.scale.seconds)
        busy = None if peer.command is None else usage.busy
        return Run({self.name: found}, usage.others, busy)

    def _load(self, peer: Peer, running: Running) -> Load:
        return dataclasses.replace(self.load, headers=peer.headers(running.upstream))

    def _rate(self, running: Running, peer: Peer, seconds: int) -> tuple[float, CpuUse]:
        size_of = completion_size if peer.optional else probe
        hits = self.role is Role.CACHING
        return rate(running, self._load(peer, running), seconds, hits, size_of)


def throughputs(scale: Scale) -> list[Throughput]:
    own = ("nginx", "original", "stock", "goproxyai")
    return [
        Throughput("hit", "hit", SMALL, Role.CACHING, (*own, "info"), scale),
        Throughput(
            "miss", "miss", SMALL, Role.RELAYING, ("direct", *own, "info", *GATEWAYS), scale
        ),
        Throughput(
            "large",
            "miss, 32 KB in and 64 KB out",
            LARGE,
            Role.RELAYING,
            ("direct", *own),
            scale,
        ),
    ]
