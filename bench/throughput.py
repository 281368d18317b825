"""Requests a second: hits, misses, and misses with large bodies."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from bench.gateways import GATEWAYS, completes
from bench.machine import Failed
from bench.peers import Peer, Role
from bench.results import Measure, Run
from bench.stage import Running, Stage
from bench.workload import Scale, Use, watched
from bench.wrk import CONNECTIONS, LARGE, SMALL, Load, exchange, get, probe, wrk

WARM_UP = 1
"""Seconds, checked and not counted."""


def requests_seen(upstream: int) -> int:
    """How many requests the fixed upstream has answered before this one, by its own count."""
    # stub_status: three totals in a line: accepted, handled, requests.
    numbers = re.search(rb"\n (\d+) (\d+) (\d+) \n", get(upstream, "/status"))
    if numbers is None:
        raise Failed("the upstream's status page is not understood")
    return int(numbers[3]) - 1


def completion_size(port: int, load: Load) -> int:
    """As :func:`probe`, for a peer that writes the answer's JSON anew."""
    response = exchange(port, load.one())
    if not completes(response):
        raise Failed(f"no completion came back: {response[-700:]!r}")
    return len(response)


def rate(
    running: Running,
    load: Load,
    seconds: int,
    hits: bool,
    size_of: Callable[[int, Load], int] = probe,
) -> tuple[float, Use]:
    """Requests a second in one run of wrk, and who used the machine; raises if any was wrong."""
    size = size_of(running.port, load)
    seen = requests_seen(running.upstream)
    told, use = watched(running, lambda: wrk(running.port, load, seconds))
    forwarded = requests_seen(running.upstream) - seen - 1
    size = max(size, size_of(running.port, load))
    running.sent += told.requests + 2
    # Headers such as Age vary by a byte or two, those of gateways by more; the last response of
    # a connection may be cut.
    tolerance = 0.02 if size_of is probe else 0.1
    expected = told.requests * size
    if abs(told.bytes - expected) > tolerance * expected + CONNECTIONS * size:
        got = told.bytes / told.requests
        raise Failed(f"{got:.0f} bytes a response where {size} were expected")
    if hits and forwarded > CONNECTIONS:
        raise Failed(f"{forwarded} of {told.requests} hits were forwarded")
    if not hits and forwarded < told.requests:
        raise Failed(f"only {forwarded} of {told.requests} misses were forwarded")
    return told.requests / told.seconds, use


@dataclasses.dataclass
class Throughput:
    """One request over and over, from ``CONNECTIONS`` connections."""

    name: str
    title: str
    load: Load
    role: Role
    peers: tuple[str, ...]
    scale: Scale

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Its rate."""
        return (Measure(self.name, self.title, "req/s"),)

    @property
    def rounds(self) -> int:
        """As many as there are."""
        return self.scale.rounds

    def prepare(self, stage: Stage, peer: Peer) -> None:
        """Start it and warm it up; where there is a cache, the answers from here on are hits."""
        running = stage.running(peer, self.role, "fixed")
        exchange(running.port, self._load(peer, running).one())
        self._rate(running, peer, WARM_UP)

    def run(self, stage: Stage, peer: Peer) -> Run:
        """Requests a second."""
        running = stage.running(peer, self.role, "fixed")
        found, use = self._rate(running, peer, self.scale.seconds)
        busy = None if peer.command is None else use.busy
        return Run({self.name: found}, use.others, busy)

    def _load(self, peer: Peer, running: Running) -> Load:
        return dataclasses.replace(self.load, headers=peer.headers(running.upstream))

    def _rate(self, running: Running, peer: Peer, seconds: int) -> tuple[float, Use]:
        size_of = completion_size if peer.optional else probe
        hits = self.role is Role.CACHING
        return rate(running, self._load(peer, running), seconds, hits, size_of)


def throughputs(scale: Scale) -> list[Throughput]:
    """The three of them."""
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
