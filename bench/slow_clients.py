"""Latency for an ordinary client while a thousand slow clients are connected.

``python -m bench.slow_clients`` needs Debian's slowhttptest in addition to bench/install.sh. It
runs attacks with slow headers, slow bodies and slow readers, one after the other. For each it
prints the latency of the ordinary client before and during the attack, the number of slow clients
that are still connected near its end, and the memory.
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
from bench.peers import PEERS, Role, Setup
from bench.testbed import Running, Testbed
from bench.wrk import LARGE, SMALL

ATTACKERS = 1_000
RATE = 487
"""Requests per second of the ordinary client, on one connection."""
MEASURE_SECONDS = 8.0
"""The duration of one latency measurement."""
MARGIN_SECONDS = 4.0
"""Before the end of an attack, when the remaining slow clients are counted."""
MB = 2**20


@dataclasses.dataclass(frozen=True)
class Attack:
    """One kind of slow clients.

    ``seconds``, its duration, exceeds the daemon's deadline. All clients are connected after
    ``connect_seconds``.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: int
    connect_seconds: float = 8.0


def attacks(port: int) -> list[Attack]:
    """The attacks on *port*.

    The daemon's deadlines: a header within 20 s, a body at 500 B/s after 30 s, a read within 60 s.
    """
    url = f"http://127.0.0.1:{port}"
    large = f"{url}{LARGE.target}"
    return [
        Attack("slow headers", ("-H", "-i", "3", "-u", f"{url}/v1/models"), 35),
        Attack("slow bodies", ("-B", "-i", "3", "-s", "8192", "-u", f"{url}{SMALL.target}"), 50),
        Attack(
            "slow readers",
            ("-X", "-t", "POST", "-w", "16", "-y", "32", "-z", "1", "-n", "5", "-u", large),
            80,
        ),
    ]


def p99(port: int) -> float:
    """The 99th percentile of the ordinary client's latency, in milliseconds."""
    figures = gauge("latency", port, concurrency=1, rate=RATE, seconds=MEASURE_SECONDS, warm=1)
    return figures["p99_us"] / 1000


def start(attack: Attack, directory: Path) -> subprocess.Popen[bytes]:
    argv = [tool("slowhttptest"), "-c", str(ATTACKERS), "-r", "300", "-p", "60", "-g"]
    argv += ["-o", str(directory / "report"), "-l", str(attack.seconds), *attack.arguments]
    with (directory / "output").open("wb") as sink:
        return subprocess.Popen(pinned(LOAD_CORE, *argv), stdout=sink, stderr=sink)


def connections(running: Running) -> int:
    """The number of open connections, without the one for ``/stats``."""
    counts = statistics_of(running)["connections"]
    if not isinstance(counts, dict):
        raise Failed(f"/stats has no connections: {counts}")
    return int(counts["open"]) - 1


def measure(attack: Attack, running: Running, directory: Path) -> str:
    """Run *attack*; one row of the table."""
    p99_before, memory_before = p99(running.port), resident_bytes(running.pid)
    began = time.monotonic()
    process = start(attack, directory)
    time.sleep(attack.connect_seconds)
    connected = connections(running)
    p99_during, memory_during = p99(running.port), resident_bytes(running.pid)
    time.sleep(max(0.0, began + attack.seconds - MARGIN_SECONDS - time.monotonic()))
    remaining = connections(running)
    process.wait(attack.seconds + 60)
    time.sleep(1.0)
    memory_after = resident_bytes(running.pid)
    return (
        f"| {attack.name} | {connected} | {remaining} | {p99_before:.2f} ms |"
        f" {p99_during:.2f} ms | {p99_during / p99_before:.2f} | {memory_before / MB:.1f} |"
        f" {memory_during / MB:.1f} | {memory_after / MB:.1f} |"
    )


def main() -> int:
    """Run all attacks; the exit status is 1 if one failed."""
    print(
        "| attack | connected | remaining | p99 before | p99 during | ratio"
        " | MB before | MB during | MB after |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = Testbed(root, stack).running(PEERS["goproxyai"], Setup(Role.CACHING))
        for number, attack in enumerate(attacks(running.port)):
            directory = root / f"attack-{number}"
            directory.mkdir()
            try:
                print(measure(attack, running, directory), flush=True)
            except Failed as failure:
                print(f"| {attack.name} | failed: {failure} |")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
