"""Requests a second on one core: goproxyai, the Go original and nginx, for hits and misses.

    sudo bench/install.sh
    python bench/quick.py [--seconds 4] [--rounds 3] [--only original,nginx]

1. The measured daemon runs on core 0; the load (wrk) and the upstream (nginx) share core 1.
2. Everything is on loopback, and one daemon at a time is under load. Rounds are interleaved, so
   that a slow minute of the machine hits all of them; the median of the rounds is printed.
3. Errors are never speed. A run counts only if wrk saw no error and no status over 399, if the
   bytes per request match a whole response that was read and compared before and after, and if
   the upstream's own counter says that every miss reached it and that no hit did.
4. A run that other processes disturbed, taking over a tenth of a core, is repeated, twice at
   most, and left out where its cell has a quiet one; a cell without is marked with ``!``.
5. ``cpu`` is how busy the daemon kept core 0. Far below 100 %, the load generator or another
   process was the limit, and the figure says "at least".
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from daemons import CONTENDERS, Command, Place, cpu_seconds, daemon, free_port, nginx_argv
from load import (
    COMPLETION,
    CONNECTIONS,
    DAEMON_CORE,
    HERE,
    LOAD_CORE,
    MODELS,
    Failed,
    probe,
    requests_seen,
    wrk,
)

CELLS = ("hit", "miss")
QUIET = 0.1  # how much of a core other processes may take during a run
ATTEMPTS, PAUSE = 3, 2.0  # pause: seconds for others to end, before a run is repeated


@dataclasses.dataclass(frozen=True)
class Run:
    """One verified run of wrk: requests, those of a second, and shares of a core in use."""

    count: int
    rate: float
    cpu: float  # by the measured daemon
    others: float  # on both cores, by processes that are no part of the bench

    @property
    def quiet(self) -> bool:
        """Whether other processes left the machine to this run."""
        return self.others <= QUIET


def others_seconds(pids: list[int]) -> float:
    """Processor time on both cores that went to neither these processes, wrk, nor us."""
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in (f"cpu{DAEMON_CORE}", f"cpu{LOAD_CORE}"):
            # user, nice, system; not idle and iowait; irq, softirq, steal.
            busy += sum(map(int, ticks[:3] + ticks[5:8]))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = ended.ru_utime + ended.ru_stime + time.process_time() + sum(map(cpu_seconds, pids))
    return busy / os.sysconf("SC_CLK_TCK") - ours


def measure(place: Place, pids: list[int], cell: str, seconds: int) -> Run:
    """One run of wrk with everything checked that could make it look faster than it was.

    ``pids`` are the measured daemon's and the upstream's.
    """
    size = probe(place.port)
    seen, cpu, others = requests_seen(place.upstream), cpu_seconds(pids[0]), others_seconds(pids)
    told = wrk(place.port, seconds)
    cpu, others = cpu_seconds(pids[0]) - cpu, max(0.0, others_seconds(pids) - others)
    forwarded = requests_seen(place.upstream) - seen - 1
    probe(place.port)

    count, elapsed = told["requests"], told["duration"] / 1e6
    errors = {k: told[k] for k in ("connect", "read", "write", "status", "timeout") if told[k]}
    if errors or not count:
        raise Failed(f"{count} requests, with errors: {errors}")
    # Headers such as Age vary by a byte or two; the last response of a connection may be cut.
    if abs(told["bytes"] - count * size) > 0.02 * count * size + CONNECTIONS * size:
        raise Failed(f"{told['bytes'] / count:.0f} bytes a response where {size} were expected")
    if cell == "hit" and forwarded > CONNECTIONS:
        raise Failed(f"{forwarded} of {count} hits were forwarded")
    if cell == "miss" and forwarded < count:
        raise Failed(f"only {forwarded} of {count} misses were forwarded")
    return Run(count, count / elapsed, cpu / elapsed, others / elapsed)


class Bench:
    """All daemons, idle until it is their turn, and what their runs gave."""

    def __init__(self, names: list[str], root: Path, stack: contextlib.ExitStack) -> None:
        """Start the upstream; it and whatever starts later ends with ``stack``."""
        self.names = names
        self.runs: dict[tuple[str, str], list[Run]] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self._sent: dict[tuple[str, str], int] = {}
        self._started: dict[tuple[str, str], tuple[Place, list[int]]] = {}
        self._root, self._stack = root, stack
        self._upstream, self._upstream_pid = self._start_upstream()

    def _place(self, name: str, upstream: int) -> Place:
        directory = self._root / name
        directory.mkdir()
        return Place(free_port(), upstream, directory)

    def _start_upstream(self) -> tuple[int, int]:
        place = self._place("upstream", 0)
        values = {"PORT": str(place.port), "COMPLETION": COMPLETION, "MODELS": MODELS}
        argv = nginx_argv(HERE / "upstream.conf", values, place.directory)
        pid = self._stack.enter_context(daemon(Command(argv, {}), LOAD_CORE, place))
        return place.port, pid

    def start(self) -> None:
        """Start every daemon and warm it up; the warm-up is checked, and not counted."""
        for name in self.names:
            for cell in CELLS:
                try:
                    self._start(name, cell)
                except (Failed, OSError) as failure:
                    self.failures[name, cell] = str(failure)

    def _start(self, name: str, cell: str) -> None:
        place = self._place(f"{name}-{cell}", self._upstream)
        running = daemon(CONTENDERS[name](place, cell), DAEMON_CORE, place)
        pids = [self._stack.enter_context(running), self._upstream_pid]
        probe(place.port)  # where there is a cache, the answers from here on are hits
        self._sent[name, cell] = measure(place, pids, cell, seconds=1).count
        self._started[name, cell] = place, pids
        self.runs[name, cell] = []

    def round(self, seconds: int) -> None:
        """Every daemon once, one after the other; one that fails is out from then on."""
        for key in self._started:
            if key in self.failures:
                continue
            try:
                self.runs[key].append(self._quiet_run(key, seconds))
            except (Failed, OSError) as failure:
                self.failures[key] = str(failure)

    def _quiet_run(self, key: tuple[str, str], seconds: int) -> Run:
        place, pids = self._started[key]
        attempts: list[Run] = []
        while len(attempts) < ATTEMPTS and not any(run.quiet for run in attempts):
            time.sleep(PAUSE if attempts else 0)
            attempts.append(measure(place, pids, key[1], seconds))
            self._sent[key] += attempts[-1].count
        return min(attempts, key=lambda run: run.others)

    def counted(self, name: str, cell: str) -> list[Run]:
        """The runs of one cell, the quiet ones if there are any; none if one of them failed."""
        key = name, cell
        runs = [] if key in self.failures else self.runs.get(key, [])
        return [run for run in runs if run.quiet] or runs

    def lines_logged(self, name: str, cell: str) -> float | None:
        """Lines a request in a daemon's log, where its runs count."""
        if not self.counted(name, cell):
            return None
        logs = (self._root / f"{name}-{cell}").glob("log*")
        return sum(map(count_lines, logs)) / self._sent[name, cell]


def disturbance(bench: Bench) -> str:
    """A line on the runs that other processes disturbed at each attempt, or nothing."""
    runs = [run for cell in bench.runs.values() for run in cell]
    disturbed = [run.others for run in runs if not run.quiet]
    if not disturbed:
        return ""
    return (
        f"{len(disturbed)} of {len(runs)} runs were disturbed: other processes took up to"
        f" {max(disturbed):.0%} of a core. Where there is a !, measure again.\n"
    )


def count_lines(path: Path) -> int:
    """Lines in a file that may be large."""
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def cell_text(runs: list[Run], base: list[Run]) -> str:
    """One cell of the table: median, half the spread, cpu, ratio to the original."""
    if not runs:
        return f"{'failed':>10}{'':21}"
    mark = " " if all(run.quiet for run in runs) else "!"
    rates = [run.rate for run in runs]
    median = statistics.median(rates)
    spread = (max(rates) - min(rates)) / 2 / median
    cpu = statistics.median(run.cpu for run in runs)
    ratio = f"{median / statistics.median(run.rate for run in base):6.2f}x" if base else ""
    return f"{median:10,.0f}{mark} ±{spread:4.0%} {cpu:5.0%} {ratio:>7}"


def table(bench: Bench) -> str:
    """The results, a row for each contender."""
    head = f"{'req/s':>10}  {'':5} {'cpu':>5} {'ratio':>7}"
    lines = [f"{'':16}{'hit':>10}{'':21}  {'miss':>10}", f"{'':16}{head}  {head}"]
    for name in bench.names:
        cells = [
            cell_text(bench.counted(name, cell), bench.counted("original", cell)) for cell in CELLS
        ]
        lines.append(f"{name:16}{cells[0]}  {cells[1]}".rstrip())
    return "\n".join(lines)


def stop(_signum: int, _frame: FrameType | None) -> None:
    """Ctrl-C and SIGTERM leave by the same way, once, so that nothing stays behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Requests a second on one core.")
    parser.add_argument("--seconds", type=int, default=4, help="length of one run (4)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each cell (3)")
    parser.add_argument(
        "--only", default=",".join(CONTENDERS), help="which of " + ", ".join(CONTENDERS)
    )
    given = parser.parse_args()
    given.only = [name for name in given.only.split(",") if name]
    if not given.only:
        parser.error("--only: nothing to measure")
    if unknown := set(given.only) - set(CONTENDERS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: not of {', '.join(CONTENDERS)}")
    if not (1 <= given.seconds <= 60 and 1 <= given.rounds <= 20):
        parser.error("--seconds is 1 to 60, --rounds is 1 to 20")
    if not {int(DAEMON_CORE), int(LOAD_CORE)} <= os.sched_getaffinity(0):
        parser.error("needs cores 0 and 1")
    return given


def main() -> int:
    """Run the bench; the exit status is 1 where a cell failed."""
    given = options()
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    estimate = len(given.only) * len(CELLS) * (given.rounds * given.seconds + 2)
    print(f"{given.rounds} rounds of {given.seconds} s, {CONNECTIONS} connections, one core each;")
    print(f"about {estimate} s on a quiet machine, over three times that on a busy one", flush=True)
    with tempfile.TemporaryDirectory(prefix="goproxyai-bench-") as root:
        with contextlib.ExitStack() as stack:
            bench = Bench(given.only, Path(root), stack)
            bench.start()
            for _ in range(given.rounds):
                bench.round(given.seconds)
        print(table(bench))
        print(disturbance(bench), end="")
        for cell in CELLS:
            if (lines := bench.lines_logged("goproxyai-info", cell)) is not None:
                print(f"goproxyai-info logged {lines:.2f} lines a request, {cell}")
    for (name, cell), reason in bench.failures.items():
        print(f"\n{name}, {cell}: {reason}", file=sys.stderr)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Failed as failure:
        sys.exit(f"the upstream {failure}")
