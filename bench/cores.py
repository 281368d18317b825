"""Two workers on two cores against one process on one core, for hits and misses.

The load generator and the upstream share one of the two cores. Their time is left out: what is
compared is the CPU time of the measured processes for each request. The worker whose core the load
leaves alone gets more requests than the other, so that its share of requests says nothing about a
machine with a core for each worker. There, the worker with the most connections is the first
without core time:

    speed-up = CPU time of one process / (CPU time of the workers * largest share + parent)

The share is that of connections. The parent counts as if it shared the core of that worker. The Go
original is one process, whose threads are assumed to have equal shares.

The two cores may be slower together than one of them alone, for example if they are hyperthreads of
one. So the same load is also sent to two independent daemons, one on each core: their speed-up is
the most that this machine allows. The workers are bound to one core each, too, as they would stay
where no load shares their cores.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.machine import BOTH_CORES, LOAD_CORE, Failed, family, spread
from bench.peers import Peer, Role, Setup
from bench.results import Measure, Run
from bench.testbed import Running, Testbed
from bench.workload import Scale, with_cpu_usage
from bench.wrk import CONNECTIONS, SMALL, probe, wrk

ONE_PROCESS = {"original"}
"""Peers whose workers are threads."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """The CPU time in microseconds per request, of the processes that serve and of their parents.

    ``share`` is the largest share of the connections of one process.
    """

    serving: float
    parent: float
    share: float

    @property
    def limit(self) -> float:
        """The time per request of the process that is the first without core time."""
        return self.serving * self.share + self.parent


def cpu_times(pids: Iterable[int]) -> dict[int, float]:
    """The CPU time of each process without its children; nothing for one that has ended.

    nginx has a process that ends after a minute.
    """
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def descriptors(pid: int) -> int:
    """The number of open files of a process, connections included."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def load(services: Sequence[Running], seconds: int) -> int:
    """Send one half of the load to the first service and the other to the last; the requests."""
    halves = (services[0], services[-1])
    with concurrent.futures.ThreadPoolExecutor(len(halves)) as threads:
        work = [
            threads.submit(wrk, each.port, SMALL, seconds, connections=CONNECTIONS // 2)
            for each in halves
        ]
        requests = [each.result().requests for each in work]
    for each, count in zip(halves, requests, strict=True):
        each.sent += count
    return sum(requests)


def sample(services: Sequence[Running], seconds: int) -> Sample:
    """Measure the load on one service, or on two at once."""
    families = [family(each.pid) for each in services]
    serving = [pid for processes in families for pid in (processes[1:] or processes)]
    every = [pid for processes in families for pid in processes]
    before = cpu_times(every)
    idle = {pid: descriptors(pid) for pid in serving}
    counted: list[int] = []

    def count_connections() -> None:
        for pid in serving:
            with contextlib.suppress(OSError):
                counted.append(max(0, descriptors(pid) - idle[pid]))

    timer = threading.Timer(seconds / 2, count_connections)
    timer.start()
    requests = load(services, seconds)
    timer.join()
    after = cpu_times(before)
    used = {pid: after[pid] - before[pid] for pid in after}
    total = sum(used.get(pid, 0) for pid in serving)
    if not sum(counted):
        raise Failed("the connections were not counted")
    scale = 1e6 / requests
    share = max(counted) / sum(counted)
    return Sample(total * scale, (sum(used.values()) - total) * scale, share)


@dataclasses.dataclass
class Cores:
    """The speed-up of two workers, and for goproxyai that of two independent daemons."""

    scale: Scale
    name: str = "cores"
    peers: tuple[str, ...] = ("nginx", "original", "goproxyai")
    controlled: str = "goproxyai"
    roles: tuple[tuple[str, Role], ...] = (("hit", Role.CACHING), ("miss", Role.RELAYING))

    @property
    def measures(self) -> tuple[Measure, ...]:
        return tuple(
            measure
            for name, _ in self.roles
            for measure in (
                Measure(f"cores_{name}", f"{name}, two workers on two cores / one", "x"),
                Measure(f"ceiling_{name}", f"{name}, two independent daemons / one", "x"),
                Measure(f"of_ceiling_{name}", f"{name}, two workers / two daemons", "x"),
            )
        )

    @property
    def rounds(self) -> int:
        return self.scale.rounds

    def _services(self, testbed: Testbed, peer: Peer, role: Role) -> dict[str, list[Running]]:
        """The services to compare: one process, two workers, two daemons."""
        one = testbed.running(peer, Setup(role))
        services = {
            "one": [one],
            "two": [testbed.running(peer, Setup(role, workers=2, core=BOTH_CORES))],
        }
        if peer.name == self.controlled:
            services["control"] = [one, testbed.running(peer, Setup(role, core=LOAD_CORE))]
        return services

    def prepare(self, testbed: Testbed, peer: Peer) -> None:
        """Start all services and warm them up."""
        for _, role in self.roles:
            for services in self._services(testbed, peer, role).values():
                for each in services:
                    probe(each.port, SMALL)
                    each.sent += 1
                if peer.name not in ONE_PROCESS:
                    spread(family(services[-1].pid)[1:])
                if self.scale.warm_seconds and not all(each.warm for each in services):
                    load(services, self.scale.warm_seconds)
                for each in services:
                    each.warm = True

    def run(self, testbed: Testbed, peer: Peer) -> Run:
        values, others = {}, 0.0
        for name, role in self.roles:
            found = {}
            for kind, services in self._services(testbed, peer, role).items():
                work = functools.partial(sample, services, self.scale.seconds)
                found[kind], usage = with_cpu_usage(services[0], work, *services[1:])
                others = max(others, usage.others)
            one = found["one"].serving
            two = found["two"]
            if peer.name in ONE_PROCESS:
                two = dataclasses.replace(two, share=0.5)
            values[f"cores_{name}"] = one / two.limit
            values |= {f"{name}_us_one": one, f"{name}_us_two": two.serving}
            values |= {f"{name}_us_parent": two.parent, f"{name}_share": two.share}
            if control := found.get("control"):
                ceiling = 2 * one / control.serving
                values[f"ceiling_{name}"] = ceiling
                values[f"of_ceiling_{name}"] = values[f"cores_{name}"] / ceiling
                values[f"{name}_us_control"] = control.serving
        return Run(values, others)
