"""Starts a daemon on its core, and ends it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.certificates import Certificates
from bench.machine import CHECKOUT, Failed, environment, pinned, tool


@dataclasses.dataclass(frozen=True)
class Command:
    """The arguments of a daemon and its environment variables."""

    argv: list[str]
    env: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Placement:
    """The port of a daemon, that of its upstream, and the daemon's own directory.

    ``tls`` is whether the upstream's port has TLS, ``front`` whether the daemon's own must have it.
    Both need ``certificates``. ``egress`` is the port of a CONNECT proxy, 0 without one.
    """

    port: int
    upstream: int
    directory: Path
    certificates: Certificates | None = None
    tls: bool = False
    front: bool = False
    egress: int = 0
    workers: int = 1

    @property
    def openai(self) -> str:
        """The upstream's URL."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.upstream}"

    @property
    def files(self) -> Certificates:
        """The certificates."""
        if self.certificates is None:
            raise ValueError("this placement has no certificates")
        return self.certificates

    @property
    def env(self) -> dict[str, str]:
        """The variables that OpenSSL and Go read, so that the temporary root is trusted."""
        return {"SSL_CERT_FILE": str(self.files.root)} if self.tls else {}


def nginx_command(template: Path, values: dict[str, str], directory: Path) -> Command:
    """Fill in a configuration in *directory*, and return the command that starts nginx with it."""
    text = template.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    (directory / "nginx.conf").write_text(text)
    argv = [tool("nginx"), "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]
    # nginx started by root changes its worker's user, which then cannot enter the directory.
    return Command([*argv, "-g", "user root;"] if os.geteuid() == 0 else argv)


@contextlib.contextmanager
def daemon(
    command: Command,
    core: str,
    placement: Placement,
    ready: Callable[[int], bool],
    seconds: float = 20,
) -> Iterator[int]:
    """Run a daemon on *core*; yields its process ID when it is ready, and ends it afterwards.

    *ready* is called with the port for at most *seconds*; an exception counts as false.
    """
    with (placement.directory / "output").open("wb") as sink:
        process = subprocess.Popen(
            pinned(core, *command.argv),
            env=environment(HOME=str(placement.directory), **command.env),
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C must not end it before the load
        )
    try:
        _wait_until_ready(process, placement, ready, seconds)
        yield process.pid
    finally:
        _end(process)


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    placement: Placement,
    ready: Callable[[int], bool],
    seconds: float,
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, Failed):
            if ready(placement.port):
                return
        time.sleep(0.05)
    logs = [*placement.directory.glob("log"), placement.directory / "output"]
    output = "".join(log.read_text(errors="replace") for log in logs)[-1500:].strip()
    state = f"exit status {process.returncode}" if process.poll() is not None else "no answer"
    raise Failed(f"did not start ({state}): {output or 'no output'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the daemon; after five seconds, kill its session."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
