"""Hits of many cache entries compared with hits of few, and the memory overhead of an entry.

``python -m bench.entries`` fills the cache of a daemon in memory, without sockets, through misses.
It prints the CPU time of a hit of randomly chosen entries out of 100 and out of all, their ratio,
and the bytes of memory that an entry takes besides its key, header and body. Chunks of both loads
alternate, and each figure is the minimum of many chunks. With ``--tree`` the script measures
another checkout. A hit over a socket takes more time, of which the cache is a smaller part: ``make
bench`` measures that.
"""

from __future__ import annotations

import argparse
import gc
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from resource import getpagesize

from bench.inside import InMemoryDaemon

FEW = 100
CHUNK = 4_096
"""Requests between two readings of the clock."""


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


def fill(inside: InMemoryDaemon, count: int) -> tuple[float, float]:
    """Store *count* entries; the bytes of overhead per entry: of resident memory, and accounted."""
    store = inside.daemon.context.store
    inside.send(0)
    inside.flush_log()
    gc.collect()
    memory, accounted, before = resident(), store.bytes, len(store)
    ticker = inside.daemon.listeners.factory.ticker
    for number in range(1, count + 1):
        inside.send(number)
        if number % 1000 == 0:
            ticker.now = time.monotonic()  # no tick runs, and kept connections have an age
    inside.flush_log()
    gc.collect()
    stored = len(store) - before
    if stored < 0.99 * count:
        raise RuntimeError(f"{stored} entries were stored instead of {count}")
    texts = sum(len(entry.key) + len(entry.head) + len(entry.body) for entry in store) / len(store)
    return (resident() - memory) / stored - texts, (store.bytes - accounted) / stored - texts


def seconds(inside: InMemoryDaemon, numbers: Iterable[int]) -> float:
    """CPU time of one hit for each of *numbers*."""
    inside.daemon.listeners.factory.ticker.now = time.monotonic()
    began = time.process_time()
    for number in numbers:
        inside.send(number)
    return time.process_time() - began


def report(count: int, chunks: int) -> None:
    """Measure, and print the results."""
    inside = InMemoryDaemon(MAX_CACHE_SIZE="8000", CACHE_TTL="24h")
    overhead, accounted = fill(inside, count)
    # The order of the numbers is random, so that equal numbers are far from each other.
    chosen = random.Random(1)
    best = {FEW: float("inf"), count: float("inf")}
    for _ in range(chunks):
        for entries, least in best.items():
            numbers = [chosen.randint(1, entries) for _ in range(CHUNK)]
            best[entries] = min(least, seconds(inside, numbers))
    few, many = (best[entries] / CHUNK * 1e6 for entries in (FEW, count))
    print(f"hit of {FEW:,} entries: {few:.2f} us")
    print(f"hit of {count:,} entries: {many:.2f} us, {few / many:.3f} of the rate")
    print(f"overhead of an entry: {overhead:.0f} bytes resident, {accounted:.0f} bytes accounted")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="entries")
    parser.add_argument("--chunks", type=int, default=40, help=f"of {CHUNK} requests each")
    parser.add_argument("--tree", help="another checkout to measure")
    given = parser.parse_args()
    if given.tree is None:
        gc.disable()  # collections would take place in some chunks only
        report(given.count, given.chunks)
        return
    # The bench of this checkout measures the package of the other one.
    program = (
        "import gc, sys; sys.path.insert(0, sys.argv[1]); from bench import entries; "
        "sys.path.insert(0, sys.argv[2]); gc.disable(); "
        "entries.report(int(sys.argv[3]), int(sys.argv[4]))"
    )
    own = str(Path(__file__).resolve().parents[1])
    arguments = [own, given.tree, str(given.count), str(given.chunks)]
    subprocess.run([sys.executable, "-c", program, *arguments], cwd="/", check=True)


if __name__ == "__main__":
    main()
