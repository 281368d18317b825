"""The daemon, as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")
"""What the daemon sees of our environment, besides coverage's: a stray setting would spoil it."""

STARTING, STOPPING = 20.0, 10.0
"""Seconds that each may take."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Daemon:
    """``twistd goproxyai`` with *settings* in its environment.

    :ivar root: where it listens.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self._port = port = free_port()
        self.root = f"http://127.0.0.1:{port}"
        self._log = directory / "daemon.log"
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if name in PASSED_ON or name.startswith("COVERAGE")
        }
        self._environment |= {
            "PORT": str(port),
            "LISTEN": f"tcp:{port}:interface=127.0.0.1",
            "PYTHONPATH": str(CHECKOUT),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        beside = Path(sys.executable).parent
        twistd = shutil.which("twistd", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
        assert twistd is not None, "twistd is not installed"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [twistd, "--nodaemon", "--pidfile=", "goproxyai"],
                env=self._environment,
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_listening(self) -> None:
        """Knock until somebody opens."""
        assert self._process is not None
        deadline = time.monotonic() + STARTING
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the daemon ended with status {self._process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"the daemon does not listen after {STARTING:.0f} s")

    def stop(self) -> int:
        """SIGTERM, and the exit status; negative for a signal."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOPPING)

    def kill(self) -> None:
        """Make sure that nothing is left of it."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOPPING)

    def log(self) -> str:
        """Everything that it said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""
