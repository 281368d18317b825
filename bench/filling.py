"""A full cache: its memory compared with its accounting, and the pause when it is cleared.

The cache is filled to its limit with small and with large answers. The growth of the resident
memory is divided by the bytes that ``/stats`` accounts for. Then the small answers are deleted
while another connection requests ``/health`` repeatedly: the longest wait for an answer is the
pause, plus one round trip.
"""

from __future__ import annotations

import dataclasses
import socket
import time

from bench.growth import caching, send_all, statistics_of
from bench.machine import Failed, resident_bytes
from bench.peers import Peer
from bench.results import Measure, Run
from bench.testbed import Running, Testbed
from bench.workload import Scale
from bench.wrk import CONNECTIONS, LARGE, SMALL, Load, get

MEGABYTES = 100
"""The cache's limit, which is the daemon's default."""
ENTRIES = {"small": 60_000, "large": 1_500}
"""The number of answers that fill the cache."""
WATCH_SECONDS = 2.0
"""The time of round trips, in the middle of which the cache is cleared."""

_HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_CLEARINGS = {
    "clear": b"DELETE /cache HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "clear_path": b"DELETE /cache?path=/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


@dataclasses.dataclass
class Filling:
    """The memory per accounted byte, and the longest wait while the cache is cleared."""

    scale: Scale
    name: str = "filling"
    rounds: int = 1
    peers: tuple[str, ...] = ("goproxyai",)

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (
            Measure("full_small", "memory / accounted bytes, 1 KB answers", "x"),
            Measure("full_large", "memory / accounted bytes, 64 KB answers", "x"),
            Measure("clear", "longest wait, cache cleared", "ms"),
            Measure("clear_path", "longest wait, a path cleared", "ms"),
        )

    def prepare(self, testbed: Testbed, peer: Peer) -> None:
        """Do nothing: each measurement starts its own daemon."""

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        values = {}
        with caching(testbed, peer, MAX_CACHE_SIZE=str(MEGABYTES)) as running:
            values["full_small"] = fill_ratio(running, SMALL, ENTRIES["small"])
            values["clear"] = longest_wait(running.port, _CLEARINGS["clear"])
            fill(running, SMALL, ENTRIES["small"])
            values["clear_path"] = longest_wait(running.port, _CLEARINGS["clear_path"])
        with caching(testbed, peer, MAX_CACHE_SIZE=str(MEGABYTES)) as running:
            values["full_large"] = fill_ratio(running, LARGE, ENTRIES["large"])
        return Run(values)


def fill(running: Running, load: Load, count: int) -> None:
    """Store *count* different answers."""
    load = dataclasses.replace(load, vary="body", variants=count)
    send_all(running, load, -CONNECTIONS)  # repeats some requests rather than omit any


def accounted(running: Running) -> int:
    """The bytes of the cache by its own accounting."""
    cache = statistics_of(running)["cache"]
    if not isinstance(cache, dict):
        raise Failed(f"/stats has no cache: {cache}")
    return int(cache["bytes"])


def fill_ratio(running: Running, load: Load, count: int) -> float:
    """Fill the cache; the growth of the resident memory per accounted byte."""
    get(running.port, "/v1/models")
    before, accounted_before = resident_bytes(running.pid), accounted(running)
    fill(running, load, count)
    stored = accounted(running) - accounted_before
    if stored < 0.5 * MEGABYTES * 2**20:
        raise Failed(f"only {stored} bytes were stored")
    return (resident_bytes(running.pid) - before) / stored


def longest_wait(port: int, clearing: bytes) -> float:
    """The longest wait for an answer, in milliseconds, while the cache is cleared."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as admin,
        socket.create_connection(("127.0.0.1", port), timeout=10) as probe,
    ):
        longest, ends, cleared = 0.0, time.monotonic() + WATCH_SECONDS, False
        while (now := time.monotonic()) < ends:
            if not cleared and now > ends - WATCH_SECONDS / 2:
                admin.sendall(clearing)
                cleared = True
            probe.sendall(_HEALTH)
            if not probe.recv(4096).startswith(b"HTTP/1.1 200 "):
                raise Failed("/health did not answer with 200")
            longest = max(longest, time.monotonic() - now)
        if not admin.recv(4096).startswith(b"HTTP/1.1 200 "):
            raise Failed("DELETE /cache did not answer with 200")
    return longest * 1000
