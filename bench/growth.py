"""Growth: the rate of hits with few and with many cache entries, and with few and many clients.

The load is the same; only the number of different bodies or client addresses varies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time

from bench.daemons import Command, Placement
from bench.machine import Failed
from bench.peers import Peer, Role, Setup, goproxyai
from bench.results import Measure, Run
from bench.testbed import Running, Testbed
from bench.throughput import rate
from bench.workload import CpuUse, Scale
from bench.wrk import CONNECTIONS, SMALL, Load, exchange, get, wrk

FEW = 100
MAX_SECONDS = 300
"""The time in which all variants must be sent."""


def powers(count: int) -> str:
    """A power of ten as text: 10^6."""
    return f"10^{len(str(count)) - 1}"


def statistics_of(running: Running) -> dict[str, object]:
    """The document of ``/stats``."""
    found: dict[str, object] = json.loads(get(running.port, "/stats"))
    return found


def send_all(running: Running, load: Load, unanswered: int) -> int:
    """Send every variant once, in order, and return the number of the next one.

    wrk ends after a time, when each connection has an unanswered request. A negative *unanswered*
    repeats that number of requests, a positive one skips them.
    """
    seconds, deadline = 1, time.monotonic() + MAX_SECONDS
    while load.first < load.variants:
        if time.monotonic() > deadline:
            raise Failed(f"only {load.first} of {load.variants} variants in {MAX_SECONDS} s")
        result = wrk(running.port, load, seconds)
        load = dataclasses.replace(load, first=load.first + result.requests + unanswered)
        left = (load.variants - load.first) * result.seconds / result.requests
        seconds = max(1, math.ceil(left))
    return load.first


def entries(running: Running) -> int:
    """The number of cached answers."""
    cache = statistics_of(running)["cache"]
    if not isinstance(cache, dict):
        raise Failed(f"/stats has no cache: {cache}")
    return int(cache["item_count"])


def caching(
    testbed: Testbed, peer: Peer, **settings: str
) -> contextlib.AbstractContextManager[Running]:
    """A new daemon with a cache and *settings*.

    The connections to upstream have no TLS: they only fill the cache.
    """

    def command(placement: Placement) -> Command:
        return goproxyai(placement, Role.CACHING, **settings)

    return testbed.fresh(peer, Setup(Role.CACHING, tls=False), command)


class _Growth:
    """One daemon for few and one for many; ``name`` is also the prefix of the measures."""

    name: str
    peers = ("goproxyai",)

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._daemons: dict[int, Running] = {}

    @property
    def measures(self) -> tuple[Measure, ...]:
        few, many = powers(FEW), powers(self.scale.many)
        return (
            Measure(f"{self.name}_few", f"hits, {few} {self.name}", "req/s"),
            Measure(f"{self.name}_many", f"hits, {many} {self.name}", "req/s"),
        )

    @property
    def rounds(self) -> int:
        return self.scale.growth_rounds

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        few, use_few = self._run(FEW)
        many, use_many = self._run(self.scale.many)
        values = {f"{self.name}_few": few, f"{self.name}_many": many}
        busy, others = min(use_few.busy, use_many.busy), max(use_few.others, use_many.others)
        return Run(values, others, busy)

    def _run(self, wanted: int) -> tuple[float, CpuUse]:
        raise NotImplementedError


class Entries(_Growth):
    """Hits of random entries."""

    name = "entries"

    def _load(self, count: int) -> Load:
        return dataclasses.replace(SMALL, vary="body", variants=count, shuffle=True)

    def prepare(self, testbed: Testbed, peer: Peer) -> None:
        """Fill both caches."""
        for count in (FEW, self.scale.many):
            running = testbed.keep(caching(testbed, peer, MAX_CACHE_SIZE="4000"))
            in_turn = dataclasses.replace(self._load(count), shuffle=False)
            before = entries(running)
            send_all(running, in_turn, -CONNECTIONS)
            if (stored := entries(running) - before) != count:
                raise Failed(f"{stored} entries were stored instead of {count}")
            self._daemons[count] = running

    def _run(self, wanted: int) -> tuple[float, CpuUse]:
        return rate(self._daemons[wanted], self._load(wanted), self.scale.seconds, hits=True)


class Clients(_Growth):
    """Hits, each from the next client address, so that the rate limit uses another bucket.

    A full bucket may be dropped, and an empty bucket refuses the request. So a bucket gains fewer
    tokens than the load takes: it drains slowly over many turns. The smallest limit that allows a
    second request is 2 per minute, which fills a bucket in 30 seconds. So the number of clients is
    limited to those that the load reaches in that time.
    """

    name = "clients"
    GAIN_TOKENS = 0.7
    """Tokens that a bucket gains between two requests."""
    ROUND_TOKENS = 3
    """The maximum number of tokens that a round takes from one of many clients."""
    TURN_SECONDS = 25.0
    """The time in which every client must send a request."""

    def __init__(self, scale: Scale) -> None:
        super().__init__(scale)
        self._counts = {FEW: FEW, scale.many: scale.many}
        self._refill_seconds: dict[int, float] = {}
        self._refilled_at: dict[int, float] = {}  # monotonic

    @property
    def rounds(self) -> int:
        """One: all clients send a request before the measurement, which takes long."""
        return 1

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The rates, and the number of clients."""
        few, many = super().measures
        many = dataclasses.replace(many, title=f"hits, up to {powers(self.scale.many)} clients")
        return few, many, Measure("clients_known", "clients with a bucket", "clients")

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        """Measure both rates, and count the buckets."""
        run = super().run(testbed, peer)
        known = self._known(self._daemons[self.scale.many])
        return dataclasses.replace(run, values={**run.values, "clients_known": known})

    @staticmethod
    def _load(count: int) -> Load:
        return dataclasses.replace(SMALL, vary="client", variants=count)

    @staticmethod
    def _known(running: Running) -> int:
        known = statistics_of(running)["clients"]
        if not isinstance(known, int):
            raise Failed(f"/stats has no number of clients: {known}")
        return known

    def prepare(self, testbed: Testbed, peer: Peer) -> None:
        """Measure the rate, and choose the number of clients and the limits for it."""
        with caching(testbed, peer) as trial:
            self._first(trial)
            rates = {each: rate(trial, self._load(each), 1, hits=True)[0] for each in self._counts}
        for wanted, found in rates.items():
            count = min(wanted, int(self.TURN_SECONDS * found))
            per_minute = max(2, int(self.GAIN_TOKENS * 60 * found / count))
            self._counts[wanted] = count
            limited = caching(testbed, peer, RATE_LIMIT=str(per_minute))
            self._daemons[wanted] = self._first(testbed.keep(limited))
            self._refill_seconds[wanted] = min(60.0, self.ROUND_TOKENS * 60 / per_minute)

    @staticmethod
    def _first(running: Running) -> Running:
        exchange(running.port, dataclasses.replace(SMALL, vary="client").one())
        return running

    def _run(self, wanted: int) -> tuple[float, CpuUse]:
        """Send one request of each client, then measure; the buckets refill between two rounds."""
        running, count = self._daemons[wanted], self._counts[wanted]
        time.sleep(max(0.0, self._refilled_at.get(wanted, 0.0) - time.monotonic()))
        load = self._load(count)
        load = dataclasses.replace(load, first=send_all(running, load, CONNECTIONS))
        found, usage = rate(running, load, self.scale.seconds, hits=True)
        if (known := self._known(running)) < 0.8 * count:
            raise Failed(f"only {known} of {count} clients have a bucket")
        self._refilled_at[wanted] = time.monotonic() + self._refill_seconds[wanted]
        return found, usage
