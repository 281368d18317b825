"""Processor instructions of a request in the project's own code, counted by Valgrind.

``python -m bench.instructions`` prints how many instructions the daemon in memory
(:mod:`bench.inside`) executes for a cache hit, for a miss, and for a miss over TLS, which includes
the TLS of the upstream; for a hit of a client with TLS, which includes the encryption of the
request; for a frame of an event stream, with and without the recording for the cache, for a read
of 25 frames, and for the opening of one (:mod:`bench.inside_streams`); for a hit whose head differs
from those before it; for a hit and a miss with the lines of the access log; for a hit and a miss of
one of two workers (:mod:`bench.inside_worker`), the miss also with an exclusive claim; and for hits
and misses on fresh connections, which include the calls of the client (:mod:`bench.loopback`).
Without the lines, the access log only counts the requests. The count hardly differs from one run to
the next, whatever else the machine does: changes of 0.1 % are visible, where CPU times vary by
several percent. The count tells neither how long the processor waits for memory nor what happens in
the kernel.

Two processes send different numbers of requests under Valgrind, with the same hash seed. The
difference of their instructions is that of the additional requests, without the start. With
``--tree`` the script measures another checkout.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.inside import BATCH, InMemoryDaemon, MeasuredDaemon
from bench.inside_log import LoggedDaemon
from bench.inside_streams import BurstDaemon, FrameDaemon, OpeningDaemon
from bench.inside_tls import TLSFrontDaemon
from bench.inside_worker import WorkerDaemon
from bench.loopback import LoopbackDaemon
from bench.machine import CHECKOUT, environment, tool

WARM_UP = 300
"""Requests that both processes send first."""

REQUESTS = 5 * BATCH
"""Further requests, a multiple of what the access log writes together."""

_INSTRUCTIONS = re.compile(r"I +refs: +([0-9,]+)")
_WORKLOADS: dict[str, tuple[Callable[[], MeasuredDaemon], int]] = {
    "hit": (InMemoryDaemon, 0),
    "miss": (InMemoryDaemon, 1),
    "tls": (lambda: InMemoryDaemon(tls=True), 1),
    "tls-front": (TLSFrontDaemon, 0),
    "frame": (lambda: FrameDaemon(stores=False), 1),
    "stored-frame": (lambda: FrameDaemon(stores=True), 1),
    "burst": (lambda: BurstDaemon(stores=False), 1),
    "opening": (OpeningDaemon, 1),
    "varied-hit": (lambda: InMemoryDaemon(varied=True), 0),
    "logged-hit": (LoggedDaemon, 0),
    "logged-miss": (LoggedDaemon, 1),
    "worker-hit": (WorkerDaemon, 0),
    "worker-miss": (WorkerDaemon, 1),
    "claimed-miss": (lambda: WorkerDaemon(COALESCE="all"), 1),
    "fresh-hit": (LoopbackDaemon, 0),
    "fresh-miss": (LoopbackDaemon, 1),
}
"""The daemon, and the step from the number of a request to the next: 0 for cache hits."""

_CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); from bench import instructions; "
    "sys.path.insert(0, sys.argv[2]); instructions.send(sys.argv[3], int(sys.argv[4]))"
)
"""The bench of this checkout measures the package of another one."""


def send(kind: str, count: int) -> None:
    """Send *count* requests to a daemon."""
    gc.disable()  # collections would take place in some processes only
    make, step = _WORKLOADS[kind]
    daemon = make()
    daemon.set_time()
    daemon.send_all([1 + index * step for index in range(count)])
    daemon.flush_log()


def _run(tree: Path, kind: str, count: int, *prefix: str) -> str:
    """Send *count* requests to the daemon of *tree* in a process; return its error output."""
    child = [sys.executable, "-c", _CHILD, str(CHECKOUT), str(tree), kind, str(count)]
    done = subprocess.run(
        [*prefix, *child],
        check=False,
        cwd="/",
        env=environment(PYTHONHASHSEED="0"),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stderr


def instructions(tree: Path, kind: str, count: int) -> int:
    """Instructions of a process that sends *count* requests to the daemon of *tree*."""
    options = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    output = _run(tree, kind, count, tool("valgrind"), *options)
    found = _INSTRUCTIONS.search(output)
    if found is None:
        raise SystemExit(output)
    return int(found[1].replace(",", ""))


def report(tree: Path, kinds: list[str]) -> None:
    """Count the instructions of requests, and print one line for each kind."""
    _run(tree, "miss", WARM_UP)  # compiles the modules
    runs = [(kind, count) for kind in kinds for count in (WARM_UP, WARM_UP + REQUESTS)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        totals = pool.map(lambda run: instructions(tree, *run), runs)
        for kind in kinds:
            few, many = next(totals), next(totals)
            print(f"{kind:11}{(many - few) / REQUESTS:9,.0f} instructions per request", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tree", type=Path, default=CHECKOUT, help="another checkout to measure")
    parser.add_argument(
        "kinds", nargs="*", metavar="kind", help=f"of {', '.join(_WORKLOADS)}; all by default"
    )
    given = parser.parse_args()
    report(given.tree.resolve(), given.kinds or list(_WORKLOADS))


if __name__ == "__main__":
    main()
