"""What is measured, and how each daemon is started on its core and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from load import HERE, MODELS, Failed, exchange, tool


@dataclasses.dataclass(frozen=True)
class Command:
    """How one daemon is started: its arguments and what it needs in the environment."""

    argv: list[str]
    env: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Place:
    """What a daemon is told: its own port, the upstream's, and a directory of its own."""

    port: int
    upstream: int
    directory: Path


def original(place: Place, cell: str) -> Command:
    """The Go original, with or without its cache."""
    env = {
        "PORT": str(place.port),
        "OPENAI_API_URL": f"http://127.0.0.1:{place.upstream}",
        "GOMAXPROCS": "1",
    }
    binary = HERE / ".build" / "original"
    if not binary.exists():
        raise SystemExit(f"{binary} is missing: run bench/install.sh first, as root")
    return Command([str(binary)], env if cell == "hit" else {**env, "NOCACHE": "1"})


def goproxyai(place: Place, cell: str, level: str) -> Command:
    """This checkout, under the twistd beside the interpreter that runs this script."""
    twistd = Path(sys.executable).with_name("twistd")
    argv = [str(twistd), "--nodaemon", "--pidfile=", f"--logfile={place.directory / 'log'}"]
    env = {
        "LISTEN": f"tcp:{place.port}:interface=127.0.0.1",
        "OPENAI_API_URL": f"http://127.0.0.1:{place.upstream}",
        "RATE_LIMIT": "0",
        "LOG_LEVEL": level,
        "CACHE_TTL": "5m" if cell == "hit" else "0",
    }
    return Command([*argv, "goproxyai"], env)


def nginx(place: Place, cell: str) -> Command:
    """A plain relay for scale: nginx with ``proxy_pass``, with ``proxy_cache`` for hits."""
    values = {
        "PORT": str(place.port),
        "UPSTREAM": str(place.upstream),
        "CACHE": "completions" if cell == "hit" else "off",
    }
    return Command(nginx_argv(HERE / "nginx.conf", values, place.directory), {})


CONTENDERS: dict[str, Callable[[Place, str], Command]] = {
    "original": original,
    "goproxyai": lambda place, cell: goproxyai(place, cell, "warn"),
    "goproxyai-info": lambda place, cell: goproxyai(place, cell, "info"),
    "nginx": nginx,
}


def nginx_argv(template: Path, values: dict[str, str], directory: Path) -> list[str]:
    """Fill in a configuration and say how to start nginx with it, below ``directory``."""
    text = template.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    (directory / "nginx.conf").write_text(text)
    argv = [tool("nginx"), "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]
    # A worker of root's nginx becomes "nobody", who may not enter our private directory.
    return [*argv, "-g", "user root;"] if os.geteuid() == 0 else argv


@contextlib.contextmanager
def daemon(command: Command, core: str, place: Place) -> Iterator[int]:
    """Run a daemon on one core; yields its process id once it answers, and ends it after."""
    output = place.directory / "output"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [tool("taskset"), "-c", core, *command.argv],
            env={"PATH": os.environ.get("PATH", ""), **command.env},
            cwd=HERE.parent,  # where twistd finds the plugin of this checkout
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to pass on, once wrk has ended
        )
    try:
        wait_until_ready(process, place)
        yield process.pid
    finally:
        end(process)


def wait_until_ready(process: subprocess.Popen[bytes], place: Place, seconds: float = 20) -> None:
    """Ask for the models until the answer is right; a daemon that died says why."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, Failed):
            if exchange(place.port, "GET", "/v1/models").endswith(MODELS.encode()):
                return
        time.sleep(0.05)
    logs = [*place.directory.glob("log"), place.directory / "output"]
    said = "".join(log.read_text(errors="replace") for log in logs)[-1500:].strip()
    state = f"exit status {process.returncode}" if process.poll() is not None else "no answer"
    raise Failed(f"did not start ({state}): {said or 'it said nothing'}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the daemon to stop; after five seconds, end the session that was started for it."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its children (nginx's worker) have used so far."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for each in [str(pid), *children]:
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
