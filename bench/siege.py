"""A siege: a thousand slow clients at the door, and one that wants its answers as ever.

``python -m bench.siege`` (Debian's slowhttptest is needed beside the rest) runs, one after the
other, slow headers, slow bodies and slow readers, and prints for each: the latency of an ordinary
client before and during it, how many of the slow ones were left at its end, and memory.
"""

from __future__ import annotations

import contextlib
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
from bench.wrk import LARGE, SMALL

ATTACKERS = 1_000
RATE = 487
"""Requests a second of the ordinary client, on one connection."""
QUIET = 8.0
"""Seconds for which it is watched without a siege, and during one."""
MARGIN = 4.0
"""Seconds before the end of a siege at which those who are left are counted."""
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
        Siege("slow bodies", ("-B", "-i", "3", "-s", "8192", "-u", f"{url}{SMALL.target}"), 50),
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


def connections(running: Running) -> int:
    """How many are open, our own question's not among them."""
    told = statistics_of(running)["connections"]
    if not isinstance(told, dict):
        raise Failed(f"statistics without connections: {told}")
    return int(told["open"]) - 1


def measured(siege: Siege, running: Running, directory: Path) -> str:
    """One row of the table."""
    before, memory = p99(running.port), resident_bytes(running.pid)
    began = time.monotonic()
    laid = lay(siege, directory)
    time.sleep(siege.settled)
    most = connections(running)
    during, grown = p99(running.port), resident_bytes(running.pid)
    time.sleep(max(0.0, began + siege.seconds - MARGIN - time.monotonic()))
    left = connections(running)
    laid.wait(siege.seconds + 60)
    time.sleep(1.0)
    after = resident_bytes(running.pid)
    return (
        f"| {siege.name} | {most} | {left} | {before:.2f} ms | {during:.2f} ms |"
        f" {during / before:.2f} | {memory / MB:.1f} | {grown / MB:.1f} | {after / MB:.1f} |"
    )


def main() -> int:
    """All of them."""
    print("| siege | at the door | left | p99 quiet | p99 during | ratio | MB | during | after |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = Stage(root, stack).running(PEERS["goproxyai"], Role.CACHING, "fixed")
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
