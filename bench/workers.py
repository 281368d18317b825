"""Two workers on two cores against one process on one core, for hits and misses.

``python -m bench.workers`` starts both on a machine with two cores, which the load generator and
the upstream share. Their time is left out. The worker whose core they leave alone gets more
requests than the other, so that its share of requests says nothing about a machine with a core for
each worker. There, the worker with the most connections is the first without core time:

    speed-up = CPU time of one process / (CPU time of the workers * largest share + parent)

All CPU times are for each request of the service. The share is that of connections. The parent
counts as if it shared the core of that worker.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.daemons import Placement, daemon
from bench.machine import DAEMON_CORE, LOAD_CORE, family, free_port, processor
from bench.peers import Role, goproxyai
from bench.testbed import fixed_upstream
from bench.wrk import SMALL, relays, wrk

BOTH_CORES = f"{DAEMON_CORE},{LOAD_CORE}"


@dataclasses.dataclass(frozen=True)
class Sample:
    """One run of the load; CPU times in microseconds per request.

    ``workers`` is the CPU time of the processes that serve, ``parent`` that of the parent, and
    ``share`` the largest share of the connections of one process.
    """

    rate: float
    workers: float
    parent: float
    share: float


def own_cpu_seconds(pid: int) -> float:
    """The CPU time of one process without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    """The number of open files of a process, connections included."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def sample(port: int, pid: int, seconds: int) -> Sample:
    processes = family(pid)
    serving = processes[1:] or processes
    before = {each: own_cpu_seconds(each) for each in processes}
    idle = {each: descriptors(each) for each in serving}
    connections: list[int] = []

    def count_connections() -> None:
        connections.extend([max(0, descriptors(each) - idle[each]) for each in serving])

    timer = threading.Timer(seconds / 2, count_connections)
    timer.start()
    started = time.monotonic()
    result = wrk(port, SMALL, seconds)
    elapsed = time.monotonic() - started
    timer.join()
    used = {each: own_cpu_seconds(each) - before[each] for each in processes}
    total = sum([used[each] for each in serving])
    scale = 1e6 / result.requests
    return Sample(
        result.requests / elapsed,
        total * scale,
        (sum(used.values()) - total) * scale,
        max(connections) / (sum(connections) or 1),
    )


@contextlib.contextmanager
def service(
    root: Path, upstream: int, role: Role, workers: int, cores: str = ""
) -> Iterator[tuple[int, int]]:
    """Run a service; yields its port and its process ID.

    :param cores: on which it runs; by default one process runs on one core.
    """
    placement = Placement(free_port(), upstream, root / f"{role.value}-{workers}")
    placement.directory.mkdir()
    command = goproxyai(placement, role, WORKERS=str(workers))
    core = cores or (BOTH_CORES if workers > 1 else DAEMON_CORE)
    with daemon(command, core, placement, relays) as pid:
        yield placement.port, pid


def measure(rounds: int, seconds: int) -> None:
    """Print a row for each round, and the median of the speed-ups."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        (root / "upstream").mkdir()
        upstream = Placement(free_port(), 0, root / "upstream")
        stack.enter_context(daemon(fixed_upstream(upstream), LOAD_CORE, upstream, relays))
        print(processor())
        for role in (Role.CACHING, Role.RELAYING):
            services = [
                stack.enter_context(service(root, upstream.port, role, workers))
                for workers in (1, 2)
            ]
            for each in services:
                sample(*each, 1)  # warms up
            ratios = []
            for _ in range(rounds):
                one, two = [sample(*each, seconds) for each in services]
                ratios.append(one.workers / (two.workers * two.share + two.parent))
                print(
                    f"{role.value:8} one: {one.rate:7.0f}/s {one.workers:6.1f} us   "
                    f"two: {two.rate:7.0f}/s {two.workers:6.1f} us, parent {two.parent:4.2f} us, "
                    f"largest share {two.share:.0%}   speed-up {ratios[-1]:.2f}"
                )
            print(f"{role.value:8} median speed-up {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    given = parser.parse_args()
    measure(given.rounds, given.seconds)
