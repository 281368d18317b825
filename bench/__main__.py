"""Run the benchmark: ``python -m bench``, or ``make bench``.

sudo bench/install.sh [--gateways]
python -m bench [--quick] [--only original,goproxyai] [--workloads hit,miss]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from bench import report
from bench.cores import Cores
from bench.filling import Filling
from bench.gateways import GATEWAYS
from bench.growth import Clients, Entries
from bench.latency import Latency
from bench.machine import DAEMON_CORE, LOAD_CORE, allow_connections
from bench.memory import Memory
from bench.open_loop import OpenLoop
from bench.peers import PEERS, Role
from bench.streams import Paced, Saturated
from bench.targets import OURS
from bench.testbed import Testbed
from bench.throughput import Throughput, throughputs
from bench.traffic import Traffic, traffics
from bench.transfer import Transfer
from bench.workload import FULL, QUICK, Scale, Workload, measure

ALL = {**PEERS, **GATEWAYS}
QUICK_PEERS = ("direct", "nginx", "original", "goproxyai")
NOT_QUICK = ("cores", "filling", "clients")
"""Workloads that a quick run leaves out, unless they are given by name."""


def workloads(scale: Scale) -> list[Workload]:
    """Every workload, in the order of the table: hits, misses, mixed traffic, all others."""
    rates: list[Throughput | Traffic] = [*throughputs(scale), *traffics(scale)]
    rates.sort(key=lambda rate: (rate.name == "mixed", rate.setup.role is not Role.CACHING))
    return [
        *rates,
        Cores(scale),
        Latency(scale),
        OpenLoop(scale),
        Paced(scale),
        Saturated(scale),
        Memory(scale),
        Filling(scale),
        Entries(scale),
        Clients(scale),
        Transfer(scale),
    ]


def chosen(parser: argparse.ArgumentParser, given: str, known: Sequence[str]) -> list[str]:
    """The names in the comma-separated list *given*, in the order of *known*."""
    names = given.split(",")
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return [name for name in known if name in names]


def options() -> argparse.Namespace:
    names = [workload.name for workload in workloads(QUICK)]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="short runs, within two minutes")
    peers = f"peers: {', '.join(ALL)}; by default all, in a quick run {', '.join(QUICK_PEERS)}"
    parser.add_argument("--only", help=peers)
    parser.add_argument(
        "--workloads",
        help=f"{', '.join(names)}; by default all, in a quick run without {', '.join(NOT_QUICK)}",
    )
    parser.add_argument("--rounds", type=int, help="measurements of each cell")
    parser.add_argument("--seconds", type=int, help="length of a run")
    given = parser.parse_args()
    given.partial = len(sys.argv) > 1 and sys.argv[1:] != ["--quick"]
    usual = ",".join(QUICK_PEERS if given.quick else ALL)
    given.only = chosen(parser, given.only or usual, list(ALL))
    usual = ",".join(name for name in names if not (given.quick and name in NOT_QUICK))
    given.workloads = chosen(parser, given.workloads or usual, names)
    if not (1 <= (given.seconds or 1) <= 60 and 1 <= (given.rounds or 1) <= 20):
        parser.error("--seconds must be 1 to 60, --rounds 1 to 20")
    if not {int(DAEMON_CORE), int(LOAD_CORE)} <= os.sched_getaffinity(0):
        parser.error("the benchmark needs CPU cores 0 and 1")
    return given


def stop(_signum: int, _frame: FrameType | None) -> None:
    """End the benchmark once on Ctrl-C or SIGTERM, so that all daemons are stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def notes(testbed: Testbed) -> list[str]:
    """The log lines per request of the daemons that log."""
    lines = []
    for role in (Role.CACHING, Role.RELAYING):
        logged = sent = 0
        for name, setup, running in testbed.started():
            if name == OURS and setup.role is role:
                sent += running.sent
                logged += sum(map(lines_in, running.directory.glob("log*")))
        if sent:
            lines.append(f"{ALL[OURS].title}, {role.value}: {logged / sent:.2f} lines per request.")
    return lines


def lines_in(path: Path) -> int:
    """The number of lines in a file of any size."""
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def command(given: argparse.Namespace) -> str:
    """The command that repeats this run."""
    if given.partial:
        return shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    return "make bench QUICK=1" if given.quick else "make bench"


def main() -> int:
    """Run the benchmark; the exit status is 1 if a cell failed."""
    given = options()
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    scale = QUICK if given.quick else FULL
    scale = dataclasses.replace(
        scale,
        rounds=given.rounds or scale.rounds,
        growth_rounds=given.rounds or scale.growth_rounds,
        seconds=given.seconds or scale.seconds,
    )
    allow_connections()
    selected = [workload for workload in workloads(scale) if workload.name in given.workloads]
    peers = {name: ALL[name] for name in given.only}
    began, start = datetime.datetime.now(datetime.UTC), time.monotonic()
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="goproxyai-bench-"))
        testbed = Testbed(Path(root), stack)
        results = measure(selected, peers, testbed, scale.attempts)
        set_up, measured = results.prepared - start, time.monotonic() - results.prepared
        lines = notes(testbed)
    info = report.RunInfo(command(given), began, set_up, measured, scale.summary, lines)
    part = report.page_part(results, peers, info)
    print(part)
    print(f"every run is in {report.write_raw(results, info)}")
    if not given.partial:
        report.write(part, report.groups(results, peers))
        if not given.quick:
            report.write_readme(results)
        print(f"written to {report.PAGE}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
