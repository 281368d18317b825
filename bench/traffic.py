"""Requests per second on fresh connections, and of mixed traffic, by gauge.

A fresh connection has one request. The client does not announce that, and closes the connection as
soon as the answer is complete. Mixed traffic has questions and answers of the sizes in
:mod:`bench.sizes` in random order, with the headers of the SDKs for Python and Node, of curl and of
a browser. Each request has a trace ID and an ``X-Request-Id`` of its own.
"""

from __future__ import annotations

import dataclasses
import json

from bench.gauge import gauge
from bench.machine import Failed
from bench.peers import Peer, Role, Setup
from bench.testbed import Running, Testbed
from bench.throughput import requests_seen
from bench.workload import CpuUse, RateWorkload, Scale, with_cpu_usage
from bench.wrk import CONNECTIONS, get

UNIQUE = 0.5
"""The share of mixed requests that no cache can answer."""
FRESH = 0.25
"""The share of mixed requests with a connection of their own."""
LOAD_TIMEOUT = 120.0
"""Seconds after which gauge is ended."""
REPEATED = 0.01
"""The share of hits that may be forwarded, because an entry was evicted or was not stored yet."""


def gauge_requests(upstream: int) -> int:
    """The number of requests that gauge's upstream has received."""
    return int(json.loads(get(upstream, "/status"))["requests"])


@dataclasses.dataclass
class Traffic(RateWorkload):
    """Requests of gauge on ``CONNECTIONS`` simultaneous connections.

    ``fresh`` is the share of requests with a connection of their own. If ``mixed``, the requests
    differ; otherwise they repeat the small one.
    """

    fresh: float = 1.0
    mixed: bool = False

    def fill(self, testbed: Testbed, peer: Peer, running: Running) -> None:
        if self.mixed:
            filled = gauge("load", running.plain_port, sizes=str(testbed.sizes), fill="true")
        else:
            filled = gauge("load", running.plain_port, seconds=0.1, connections=1)
        running.sent += int(filled["requests"])

    def rate(
        self, testbed: Testbed, peer: Peer, running: Running, seconds: int
    ) -> tuple[float, CpuUse]:
        """Requests per second, and the CPU usage; raises if too many or too few were forwarded."""
        flags: dict[str, float | str] = {
            "connections": CONNECTIONS,
            "fresh": self.fresh,
            "seconds": seconds,
        }
        if self.mixed:
            flags |= {"sizes": str(testbed.sizes), "unique": UNIQUE}
        seen = self._seen(running)
        result, usage = with_cpu_usage(
            running, lambda: gauge("load", running.plain_port, LOAD_TIMEOUT, **flags)
        )
        forwarded, sent = self._seen(running) - seen, int(result["requests"])
        running.sent += sent
        misses = sent
        if peer.command is not None and self.setup.role is Role.CACHING:
            misses = int(result["unique"])
        if forwarded < misses:
            raise Failed(f"only {forwarded} of {misses} misses were forwarded")
        if forwarded - misses > REPEATED * sent + CONNECTIONS:
            raise Failed(f"{forwarded - misses} of {sent - misses} hits were forwarded")
        return result["rate"], usage

    def _seen(self, running: Running) -> int:
        count = requests_seen if self.setup.upstream == "fixed" else gauge_requests
        return count(running.upstream)


def traffics(scale: Scale) -> list[Traffic]:
    """Hits and misses on fresh connections, and mixed traffic."""
    peers = ("nginx", "original", "goproxyai")
    caching, relaying = Setup(Role.CACHING), Setup(Role.RELAYING)
    mixed = Setup(Role.CACHING, "gauge")
    return [
        Traffic("hit_fresh", "hit, fresh connections", caching, peers, scale),
        Traffic("miss_fresh", "miss, fresh connections", relaying, ("direct", *peers), scale),
        Traffic(
            "mixed",
            "mixed traffic, half of it hits",
            mixed,
            ("direct", "original", "goproxyai"),
            scale,
            FRESH,
            True,
        ),
    ]
