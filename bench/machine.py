"""The machine: its cores and programs, and the CPU time and memory of processes."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
BUILD = HERE / ".build"
DAEMON_CORE, LOAD_CORE = "0", "1"
BOTH_CORES = f"{DAEMON_CORE},{LOAD_CORE}"


class Failed(Exception):
    """A run that must not count; the text says why."""


def tool(name: str) -> str:
    """The path of a program in ``PATH`` or in Debian's directories for administrators."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise SystemExit(f"{name} is missing: run bench/install.sh first, as root")
    return found


def source_sum(name: str) -> str:
    """The SHA-256 of a Go program's files, one after the other, as install.sh records it."""
    files = sorted((HERE / name).glob("*.go")) or [HERE / f"{name}.go"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def built(name: str) -> str:
    """The path of a program that install.sh has built."""
    binary = BUILD / name
    if not binary.exists():
        raise SystemExit(f"{binary} is missing: run bench/install.sh first, as root")
    recorded = BUILD / f"{name}.sum"
    if not recorded.exists() or recorded.read_text().split()[0] != source_sum(name):
        raise SystemExit(f"{binary} is not of this source: run bench/install.sh --build-only")
    return str(binary)


def pinned(core: str, *argv: str) -> list[str]:
    """The arguments that run *argv* on one core."""
    return [tool("taskset"), "-c", core, *argv]


def environment(**more: str) -> dict[str, str]:
    """The environment of a child process: ``PATH`` and *more* only."""
    return {"PATH": os.environ.get("PATH", ""), **more}


def free_port() -> int:
    """An unused loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def allow_connections() -> int:
    """Raise the limit of open files to the hard limit, and return it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def family(pid: int) -> list[int]:
    """The IDs of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def spread(pids: Sequence[int]) -> None:
    """Bind each process, with its threads, to one of the cores in turn.

    The load leaves no core alone, so that the kernel would move the processes to and fro.
    """
    for pid, core in zip(pids, itertools.cycle((DAEMON_CORE, LOAD_CORE)), strict=False):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {int(core)})


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process and its children, such as nginx's worker."""
    ticks = 0
    for each in family(pid):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def others_seconds(pids: list[int]) -> float:
    """The CPU time of both cores used by other processes than *pids*, ended children and this one.

    The kernel counts a core's time in ticks, so the value is too low if the load often sleeps.
    """
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in (f"cpu{DAEMON_CORE}", f"cpu{LOAD_CORE}"):
            # user, nice, system; not idle and iowait; irq, softirq, steal.
            busy += sum(map(int, ticks[:3] + ticks[5:8]))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = ended.ru_utime + ended.ru_stime + time.process_time() + sum(map(cpu_seconds, pids))
    return busy / os.sysconf("SC_CLK_TCK") - ours


def resident_bytes(pid: int) -> int:
    """The memory of a daemon: its resident set, or with children the sum of proportional sets."""
    if len(processes := family(pid)) == 1:
        return _kibibytes(Path(f"/proc/{pid}/status"), "VmRSS:") * 1024
    return sum(_kibibytes(Path(f"/proc/{each}/smaps_rollup"), "Pss:") for each in processes) * 1024


def _kibibytes(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise Failed(f"{path} has no line {name}")


def first_line(*argv: str) -> str:
    """The first line of a program's output; empty if the program is missing."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=30, check=False, cwd=CHECKOUT
        )
    except OSError:
        return ""
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def processor() -> str:
    """The processor's model, the number of cores and the memory."""
    text = Path("/proc/cpuinfo").read_text()
    model = text.partition("model name")[2].partition(":")[2].partition("\n")[0].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model or 'unknown processor'}, {os.cpu_count()} cores, {memory:.0f} GB"
