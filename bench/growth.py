"""Growth: does it get slower with many entries in the cache, or with many clients?

Few and many are asked for by the very same load, one of so many bodies or addresses.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time

from bench.daemons import Command, OwnerBucket
from bench.machine import Failed
from bench.peers import Peer, Role, goproxyai
from bench.results import Measure, Run
from bench.stage import Running, Stage
from bench.throughput import rate
from bench.workload import Scale, Use
from bench.wrk import CONNECTIONS, SMALL, Load, exchange, get, wrk

FEW = 100
PATIENCE = 300
"""Seconds that going through all variants may take."""


def powers(count: int) -> str:
    """A count as a reader likes it: 10^6."""
    return f"10^{len(str(count)) - 1}"


def statistics_of(running: Running) -> dict[str, object]:
    """What ``/stats`` says."""
    found: dict[str, object] = json.loads(get(running.port, "/stats"))
    return found


def through(running: Running, load: Load, unanswered: int) -> int:
    """Ask for every variant once, in turn, and tell which one comes next.

    wrk ends by the clock, with a request on its way on each connection. With ``unanswered`` below
    zero so many are asked for again, above zero they are left out.
    """
    seconds, deadline = 1, time.monotonic() + PATIENCE
    while load.first < load.variants:
        if time.monotonic() > deadline:
            raise Failed(f"{load.first} of {load.variants} variants in {PATIENCE} s")
        told = wrk(running.port, load, seconds)
        load = dataclasses.replace(load, first=load.first + told.requests + unanswered)
        left = (load.variants - load.first) * told.seconds / told.requests
        seconds = max(1, math.ceil(left))
    return load.first


def entries(running: Running) -> int:
    """How many answers are stored."""
    cache = statistics_of(running)["cache"]
    if not isinstance(cache, dict):
        raise Failed(f"statistics without a cache: {cache}")
    return int(cache["item_count"])


def start(stage: Stage, peer: Peer, **settings: str) -> Running:
    """A daemon with a cache and settings of its own, which lasts as long as the stage."""

    def command(place: OwnerBucket) -> Command:
        return goproxyai(place, Role.CACHING, **settings)

    return stage.keep(stage.fresh(peer, Role.CACHING, "fixed", command))


class _Growth:
    """A daemon for few and one for many; ``name`` is also the prefix of the measures."""

    name: str
    peers = ("goproxyai",)

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._daemons: dict[int, Running] = {}

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The same rate twice."""
        few, many = powers(FEW), powers(self.scale.many)
        return (
            Measure(f"{self.name}_few", f"hits, {few} {self.name}", "req/s"),
            Measure(f"{self.name}_many", f"hits, {many} {self.name}", "req/s"),
        )

    @property
    def rounds(self) -> int:
        """As many as growth has."""
        return self.scale.growth_rounds

    def run(self, stage: Stage, peer: Peer) -> Run:
        """Few, then many."""
        few, use_few = self._run(FEW)
        many, use_many = self._run(self.scale.many)
        values = {f"{self.name}_few": few, f"{self.name}_many": many}
        busy, others = min(use_few.busy, use_many.busy), max(use_few.others, use_many.others)
        return Run(values, others, busy)

    def _run(self, wanted: int) -> tuple[float, Use]:
        raise NotImplementedError


class Entries(_Growth):
    """Hits, each for an entry at random."""

    name = "entries"

    def _load(self, count: int) -> Load:
        return dataclasses.replace(SMALL, vary="body", variants=count, shuffle=True)

    def prepare(self, stage: Stage, peer: Peer) -> None:
        """Fill both caches."""
        for count in (FEW, self.scale.many):
            running = start(stage, peer, MAX_CACHE_SIZE="4000")
            in_turn = dataclasses.replace(self._load(count), shuffle=False)
            before = entries(running)
            through(running, in_turn, -CONNECTIONS)
            if (stored := entries(running) - before) != count:
                raise Failed(f"{stored} entries were stored of {count}")
            self._daemons[count] = running

    def _run(self, wanted: int) -> tuple[float, Use]:
        return rate(self._daemons[wanted], self._load(wanted), self.scale.seconds, hits=True)


class Clients(_Growth):
    """Hits, each from the next client, so that the limiter looks at a different bucket.

    A bucket that is full again may be dropped, and one that is empty refuses. So each gains a
    little less than the load takes from it: it drains slowly, from full, over many turns. The
    least limit that lets a client come twice is 2 a minute, which fills a bucket in 30 seconds:
    what the load cannot reach in that time is no client that the daemon has to know.
    """

    name = "clients"
    GAIN = 0.7
    """Tokens that a bucket gains until it is asked again for one."""
    TOKENS = 3
    """Tokens that a round takes, at most, from a client among many."""
    TURN = 25.0
    """Seconds in which every client must come by."""

    def __init__(self, scale: Scale) -> None:
        super().__init__(scale)
        self._counts = {FEW: FEW, scale.many: scale.many}
        self._rest: dict[int, float] = {}  # seconds
        self._rested: dict[int, float] = {}  # until when, monotonic

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The rates, and how many clients they were measured with."""
        few, many = super().measures
        many = dataclasses.replace(many, title=f"hits, up to {powers(self.scale.many)} clients")
        return few, many, Measure("clients_known", "clients with a bucket meanwhile", "clients")

    def run(self, stage: Stage, peer: Peer) -> Run:
        """As for any growth; and how many buckets there were."""
        run = super().run(stage, peer)
        known = self._known(self._daemons[self.scale.many])
        return dataclasses.replace(run, values={**run.values, "clients_known": known})

    @staticmethod
    def _load(count: int) -> Load:
        return dataclasses.replace(SMALL, vary="client", variants=count)

    @staticmethod
    def _known(running: Running) -> int:
        known = statistics_of(running)["clients"]
        if not isinstance(known, int):
            raise Failed(f"no number of clients: {known}")
        return known

    def prepare(self, stage: Stage, peer: Peer) -> None:
        """See how fast it goes, and set numbers and limits for that."""
        trial = self._first(start(stage, peer))
        for wanted in self._counts:
            found, _ = rate(trial, self._load(wanted), 1, hits=True)
            count = min(wanted, int(self.TURN * found))
            per_minute = max(2, int(self.GAIN * 60 * found / count))
            self._counts[wanted] = count
            self._daemons[wanted] = self._first(start(stage, peer, RATE_LIMIT=str(per_minute)))
            self._rest[wanted] = min(60.0, self.TOKENS * 60 / per_minute)

    @staticmethod
    def _first(running: Running) -> Running:
        exchange(running.port, dataclasses.replace(SMALL, vary="client").one())
        return running

    def _run(self, wanted: int) -> tuple[float, Use]:
        """Every client once, then measure; between two rounds, buckets get their tokens back."""
        running, count = self._daemons[wanted], self._counts[wanted]
        time.sleep(max(0.0, self._rested.get(wanted, 0.0) - time.monotonic()))
        load = self._load(count)
        load = dataclasses.replace(load, first=through(running, load, CONNECTIONS))
        found, use = rate(running, load, self.scale.seconds, hits=True)
        if (known := self._known(running)) < 0.8 * count:
            raise Failed(f"only {known} of {count} clients have a bucket")
        self._rested[wanted] = time.monotonic() + self._rest[wanted]
        return found, use
