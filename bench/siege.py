"""A siege: a thousand slow clients at the door, and one that wants its answers as ever.

``python -m bench.siege`` (Debian's slowhttptest is needed beside the rest) runs, one after the
other, slow headers, slow bodies and slow readers, and prints for each: the latency of an ordinary
client before and during it, how many of the slow ones were dropped, and memory.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.gauge import gauge
from bench.growth import statistics_of
from bench.machine import LOAD_CORE, Failed, pinned, resident_bytes, tool
from bench.peers import PEERS, Role
from bench.stage import Running, Stage
from bench.wrk import LARGE

ATTACKERS = 1_000
RATE = 487
"""Requests a second of the ordinary client, on one connection."""
QUIET = 8.0
"""Seconds for which it is watched without a siege, and during one."""
MB = 2**20


@dataclasses.dataclass(frozen=True)
class Siege:
    """One kind of slowness; ``seconds`` reach past its deadline, ``settled`` is when all are in."""

    name: str
    arguments: tuple[str, ...]
    seconds: int
    settled: float = 8.0


def sieges(port: int) -> list[Siege]:
    """Headers have 20 s, bodies 500 B/s after 30 s, readers take something within 60 s."""
    url = f"http://127.0.0.1:{port}"
    large = f"{url}{LARGE.target}"
    return [
        Siege("slow headers", ("-H", "-i", "3", "-u", f"{url}/v1/models"), 35),
        Siege("slow bodies", ("-B", "-i", "3", "-s", "8192", "-u", f"{url}/v1/files"), 50),
        Siege(
            "slow readers",
            ("-X", "-t", "POST", "-w", "16", "-y", "32", "-z", "1", "-n", "5", "-u", large),
            80,
        ),
    ]


def p99(port: int) -> float:
    """Milliseconds that the slowest of a hundred answers takes."""
    told = gauge("latency", port, concurrency=1, rate=RATE, seconds=QUIET, warm=1)
    return told["p99_us"] / 1000


def lay(siege: Siege, directory: Path) -> subprocess.Popen[bytes]:
    """Let the slow ones come."""
    argv = [tool("slowhttptest"), "-c", str(ATTACKERS), "-r", "300", "-p", "60", "-g"]
    argv += ["-o", str(directory / "siege"), "-l", str(siege.seconds), *siege.arguments]
    with (directory / "output").open("wb") as sink:
        return subprocess.Popen(pinned(LOAD_CORE, *argv), stdout=sink, stderr=sink)


def dropped(directory: Path) -> tuple[int, int]:
    """How many were connected at most, and how many were closed by the end."""
    with (directory / "siege.csv").open() as stream:
        rows = [[int(cell) for cell in row[:4]] for row in list(csv.reader(stream))[1:] if row]
    return max(row[3] for row in rows), max(row[1] for row in rows)


def measured(siege: Siege, running: Running, directory: Path) -> str:
    """One row of the table."""
    before, memory = p99(running.port), resident_bytes(running.pid)
    laid = lay(siege, directory)
    time.sleep(siege.settled)
    during, grown = p99(running.port), resident_bytes(running.pid)
    laid.wait(siege.seconds + 60)
    connected, closed = dropped(directory)
    time.sleep(1.0)
    after = resident_bytes(running.pid)
    connections = statistics_of(running).get("connections")
    return (
        f"| {siege.name} | {connected} | {closed} | {before:.2f} ms | {during:.2f} ms |"
        f" {during / before:.2f} | {memory / MB:.1f} | {grown / MB:.1f} | {after / MB:.1f} |"
        f" <!-- {connections} -->"
    )


def main() -> int:
    """All of them."""
    print("| siege | connected | dropped | p99 quiet | p99 during | ratio | MB | during | after |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = Stage(root, stack).running(PEERS["goproxyai"], Role.RELAYING, "fixed")
        for number, siege in enumerate(sieges(running.port)):
            directory = root / f"siege-{number}"
            directory.mkdir()
            try:
                print(measured(siege, running, directory), flush=True)
            except Failed as failure:
                print(f"| {siege.name} | failed: {failure} |")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
