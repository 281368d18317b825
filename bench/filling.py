"""A full cache: does it take what it says, and does anybody wait while it is emptied?

Filled with small answers and with large ones, up to its bound: what resident memory grew by, over
what ``/stats`` accounts for. Then the small ones are dropped, while somebody asks for ``/health``
again and again: the longest that an answer took is what the dropping held up, and a round trip.
"""

from __future__ import annotations

import dataclasses
import socket
import time

from bench.growth import start, statistics_of, through
from bench.machine import Failed, resident_bytes
from bench.peers import Peer
from bench.results import Measure, Run
from bench.stage import Running, Stage
from bench.workload import Scale
from bench.wrk import CONNECTIONS, LARGE, SMALL, Load, get

MEGABYTES = 100
"""The bound that is filled up to, the daemon's default."""
ENTRIES = {"small": 60_000, "large": 1_500}
"""Answers that come near to the bound, or over it."""
WATCH = 2.0
"""Seconds for which round trips are watched while the cache is emptied."""

_HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_CLEARINGS = {
    "clear": b"DELETE /cache HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "clear_path": b"DELETE /cache?path=/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


@dataclasses.dataclass
class Filling:
    """Memory over accounted bytes, and the longest wait while all is dropped."""

    scale: Scale
    name: str = "filling"
    rounds: int = 1
    peers: tuple[str, ...] = ("goproxyai",)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All that is looked at."""
        return (
            Measure("full_small", "memory / accounted bytes, 1 KB answers", "x"),
            Measure("full_large", "memory / accounted bytes, 64 KB answers", "x"),
            Measure("clear", "longest wait, cache cleared", "ms"),
            Measure("clear_path", "longest wait, a path cleared", "ms"),
        )

    def prepare(self, stage: Stage, peer: Peer) -> None:
        """Each fills a daemon of its own."""

    def run(self, stage: Stage, peer: Peer) -> Run:
        """Fill, look, empty."""
        values = {}
        running = start(stage, peer, MAX_CACHE_SIZE=str(MEGABYTES))
        values["full_small"] = filled(running, SMALL, ENTRIES["small"])
        values["clear"] = longest_wait(running.port, _CLEARINGS["clear"])
        fill(running, SMALL, ENTRIES["small"])
        values["clear_path"] = longest_wait(running.port, _CLEARINGS["clear_path"])
        running = start(stage, peer, MAX_CACHE_SIZE=str(MEGABYTES))
        values["full_large"] = filled(running, LARGE, ENTRIES["large"])
        return Run(values)


def fill(running: Running, load: Load, count: int) -> None:
    """Store so many answers, all different to the cache."""
    load = dataclasses.replace(load, vary="body", variants=count)
    through(running, load, -CONNECTIONS)  # rather twice than not at all


def accounted(running: Running) -> int:
    """Bytes that the cache says it takes."""
    cache = statistics_of(running)["cache"]
    if not isinstance(cache, dict):
        raise Failed(f"statistics without a cache: {cache}")
    return int(cache["bytes"])


def filled(running: Running, load: Load, count: int) -> float:
    """What resident memory grew by, over what is accounted for, once the cache is full."""
    get(running.port, "/v1/models")
    before, said = resident_bytes(running.pid), accounted(running)
    fill(running, load, count)
    said = accounted(running) - said
    if said < 0.5 * MEGABYTES * 2**20:
        raise Failed(f"only {said} bytes were stored")
    return (resident_bytes(running.pid) - before) / said


def longest_wait(port: int, clearing: bytes) -> float:
    """Milliseconds that the slowest answer took while the cache was emptied."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as clears,
        socket.create_connection(("127.0.0.1", port), timeout=10) as asks,
    ):
        longest, ends, cleared = 0.0, time.monotonic() + WATCH, False
        while (now := time.monotonic()) < ends:
            if not cleared and now > ends - WATCH / 2:
                clears.sendall(clearing)
                cleared = True
            asks.sendall(_HEALTH)
            if not asks.recv(4096).startswith(b"HTTP/1.1 200 "):
                raise Failed("not healthy")
            longest = max(longest, time.monotonic() - now)
        if not clears.recv(4096).startswith(b"HTTP/1.1 200 "):
            raise Failed("it was not cleared")
    return longest * 1000
