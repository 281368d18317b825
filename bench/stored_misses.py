"""The CPU time of hits, and of misses whose responses are stored, with two workers.

``python -m bench.stored_misses`` compares one process, two independent processes, one on each core,
and two workers with their parent, the workers also bound to one core each. The independent ones
show what the machine allows: the load, the upstream and the caches of the processor are shared by
all. :mod:`bench.cores` has misses that are not stored. With ``chrt -f 5`` in front, other programs
on the machine disturb little.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.cores import cpu_times
from bench.daemons import Placement, daemon
from bench.machine import (
    BOTH_CORES,
    DAEMON_CORE,
    LOAD_CORE,
    family,
    free_port,
    processor,
    spread,
)
from bench.peers import Role, goproxyai
from bench.testbed import fixed_upstream
from bench.wrk import CONNECTIONS, SMALL, relays, wrk

VARIANTS = 200_000
"""More requests than one run sends."""

CACHE_MEGABYTES = "1000"
"""More than all responses: the shares of the processes differ, and so would what they evict."""


@dataclasses.dataclass(frozen=True)
class Service:
    """A daemon: its port and its process ID."""

    port: int
    pid: int


@dataclasses.dataclass(frozen=True)
class Sample:
    """CPU time in microseconds per request, of the processes that serve and of their parent."""

    serving: float
    parent: float


class Load:
    """Sends requests, half of the connections to each of two services."""

    def __init__(self) -> None:
        self._first = itertools.count(0, VARIANTS)

    def sample(self, services: Sequence[Service], misses: bool, seconds: int) -> Sample:
        families = [family(each.pid) for each in services]
        parents = [processes[0] for processes in families if len(processes) > 1]
        before = cpu_times([pid for processes in families for pid in processes])

        def send(service: Service) -> int:
            load = SMALL
            if misses:
                first = next(self._first)
                load = dataclasses.replace(
                    SMALL, vary="body", variants=first + VARIANTS, first=first
                )
            count = CONNECTIONS // len(services)
            return wrk(service.port, load, seconds, connections=count).requests

        with ThreadPoolExecutor(len(services)) as pool:
            requests = sum(pool.map(send, services))
        after = cpu_times(before)
        used = {pid: (after[pid] - before[pid]) * 1e6 / requests for pid in before}
        parent = sum(used[pid] for pid in parents)
        return Sample(sum(used.values()) - parent, parent)


@contextlib.contextmanager
def kinds() -> Iterator[dict[str, list[Service]]]:
    """Run the services that are compared."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        (root / "upstream").mkdir()
        upstream = Placement(free_port(), 0, root / "upstream")
        stack.enter_context(daemon(fixed_upstream(upstream), LOAD_CORE, upstream, relays))

        def service(name: str, workers: int, cores: str) -> Service:
            own = root / name
            own.mkdir()
            placement = Placement(free_port(), upstream.port, own, workers=workers)
            command = goproxyai(placement, Role.CACHING, "warn", MAX_CACHE_SIZE=CACHE_MEGABYTES)
            pid = stack.enter_context(daemon(command, cores, placement, relays))
            return Service(placement.port, pid)

        one, bound = service("one", 1, DAEMON_CORE), service("bound", 2, BOTH_CORES)
        spread(family(bound.pid)[1:])
        yield {
            "one process": [one],
            "two independent processes": [one, service("other", 1, LOAD_CORE)],
            "two workers": [service("two", 2, BOTH_CORES)],
            "two workers, one on each core": [bound],
        }


def measure(rounds: int, seconds: int) -> None:
    """Print the medians."""
    load = Load()
    with kinds() as services:
        print(processor())
        for name, misses in (("hits", False), ("misses", True)):
            samples: dict[str, list[Sample]] = {kind: [] for kind in services}
            for each in services.values():
                load.sample(each, misses, 1)  # warms up
            for _ in range(rounds):
                for kind, each in services.items():
                    samples[kind].append(load.sample(each, misses, seconds))
            for kind, found in samples.items():
                serving = statistics.median(each.serving for each in found)
                parent = statistics.median(each.parent for each in found)
                print(f"{name:7} {kind:30} {serving:6.1f} us, parent {parent:5.1f} us")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    given = parser.parse_args()
    measure(given.rounds, given.seconds)
