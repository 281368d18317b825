"""Requests per second on kept connections, by wrk: hits and misses, with and without TLS."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable

from bench.gateways import GATEWAYS, completes
from bench.machine import Failed
from bench.peers import Peer, Role, Setup
from bench.results import Run
from bench.testbed import Running, Testbed
from bench.workload import CpuUse, RateWorkload, Scale, with_cpu_usage
from bench.wrk import CONNECTIONS, SMALL, Load, exchange, get, probe, wrk


def requests_seen(upstream: int) -> int:
    """The number of requests that the fixed upstream has answered, by its own count."""
    # stub_status has a line of three totals: accepted, handled, requests.
    numbers = re.search(rb"\n (\d+) (\d+) (\d+) \n", get(upstream, "/status"))
    if numbers is None:
        raise Failed("the upstream's status page has no line of totals")
    return int(numbers[3]) - 1


def completion_size(port: int, load: Load, secure: bool) -> int:
    """As :func:`probe`, for a peer that rewrites the JSON of the answer."""
    response = exchange(port, load.one(), secure)
    if not completes(response):
        raise Failed(f"no completion was received: {response[-700:]!r}")
    return len(response)


def rate(
    running: Running,
    load: Load,
    seconds: int,
    hits: bool,
    size_of: Callable[[int, Load, bool], int] = probe,
) -> tuple[float, CpuUse]:
    """Requests per second in one run of wrk, and the CPU usage; raises if an answer is wrong."""
    size = size_of(running.port, load, running.front)
    seen = requests_seen(running.upstream)
    result, usage = with_cpu_usage(running, lambda: wrk(running.port, load, seconds, running.front))
    forwarded = requests_seen(running.upstream) - seen - 1
    size = max(size, size_of(running.port, load, running.front))
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
class Throughput(RateWorkload):
    """One request, repeated on ``CONNECTIONS`` connections. With a cache, repetitions are hits."""

    def fill(self, testbed: Testbed, peer: Peer, running: Running) -> None:
        exchange(running.port, self._load(peer, running).one(), running.front)
        running.sent += 1

    def rate(
        self, testbed: Testbed, peer: Peer, running: Running, seconds: int
    ) -> tuple[float, CpuUse]:
        size_of = completion_size if peer.optional else probe
        hits = self.setup.role is Role.CACHING
        return rate(running, self._load(peer, running), seconds, hits, size_of)

    def _load(self, peer: Peer, running: Running) -> Load:
        return dataclasses.replace(SMALL, headers=peer.headers(running.url))


class Egress(Throughput):
    """Misses through a CONNECT proxy."""

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        """Raise if the connections to the upstream bypass the proxy."""
        before = self._tunnels(testbed)
        run = super().run(testbed, peer)
        if not (before or self._tunnels(testbed)):
            raise Failed("the CONNECT proxy has no tunnel")
        return run

    @staticmethod
    def _tunnels(testbed: Testbed) -> int:
        port, _ = testbed.egress()
        return int(json.loads(get(port, "/status"))["tunnels"])


def throughputs(scale: Scale) -> list[Throughput]:
    """All workloads of this module."""
    own = ("nginx", "original", "stock", "goproxyai", "quiet")
    few = ("nginx", "original", "goproxyai")
    caching, relaying = Setup(Role.CACHING), Setup(Role.RELAYING)
    front, plain = Setup(Role.CACHING, front=True), Setup(Role.RELAYING, tls=False)
    egress = Setup(Role.RELAYING, egress=True)
    return [
        Throughput("hit", "hit", caching, own, scale),
        Throughput("hit_tls", "hit, TLS in front", front, few, scale),
        Throughput("miss", "miss", relaying, ("direct", *own, *GATEWAYS), scale),
        Throughput("miss_plain", "miss, no TLS", plain, ("direct", *few), scale),
        Egress("connect", "miss, through CONNECT", egress, ("original", "goproxyai"), scale),
    ]
