"""How a daemon is started on its core, and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.machine import CHECKOUT, Failed, environment, pinned, tool


@dataclasses.dataclass(frozen=True)
class Command:
    """How one daemon is started: its arguments and what it needs in the environment."""

    argv: list[str]
    env: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class OwnerBucket:
    """What a daemon is told: its own port, the upstream's, and a directory of its own."""

    port: int
    upstream: int
    directory: Path

    @property
    def openai(self) -> str:
        """The upstream's address."""
        return f"http://127.0.0.1:{self.upstream}"


def nginx_command(template: Path, values: dict[str, str], directory: Path) -> Command:
    """Fill in a configuration and say how to start nginx with it, below ``directory``."""
    text = template.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    (directory / "nginx.conf").write_text(text)
    argv = [tool("nginx"), "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]
    # A worker of root's nginx becomes "nobody", who may not enter our private directory.
    return Command([*argv, "-g", "user root;"] if os.geteuid() == 0 else argv)


@contextlib.contextmanager
def daemon(
    command: Command,
    core: str,
    place: OwnerBucket,
    ready: Callable[[int], bool],
    seconds: float = 20,
) -> Iterator[int]:
    """Run a daemon on one core; yields its process id once it answers, and ends it after.

    ``ready`` is asked with the port, for so many seconds; what it raises counts as no.
    """
    with (place.directory / "output").open("wb") as sink:
        process = subprocess.Popen(
            pinned(core, *command.argv),
            env=environment(HOME=str(place.directory), **command.env),
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to pass on, once the load has ended
        )
    try:
        _wait_until_ready(process, place, ready, seconds)
        yield process.pid
    finally:
        _end(process)


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    place: OwnerBucket,
    ready: Callable[[int], bool],
    seconds: float,
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, Failed):
            if ready(place.port):
                return
        time.sleep(0.05)
    logs = [*place.directory.glob("log"), place.directory / "output"]
    said = "".join(log.read_text(errors="replace") for log in logs)[-1500:].strip()
    state = f"exit status {process.returncode}" if process.poll() is not None else "no answer"
    raise Failed(f"did not start ({state}): {said or 'it said nothing'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the daemon to stop; after five seconds, end the session that was started for it."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
