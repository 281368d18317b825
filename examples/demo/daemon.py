"""The daemon as a process."""

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

from tests.support.ports import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
PASSED_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR")
"""Environment variables that the daemon inherits, in addition to those of coverage."""

MAX_START_SECONDS, MAX_STOP_SECONDS = 20.0, 10.0


class Daemon:
    """``twistd goproxyai`` with *settings* in its environment.

    :ivar root: its URL.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self._port = port = free_port()
        self.root = f"http://127.0.0.1:{port}"
        self._log = directory / "daemon.log"
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if name in PASSED_VARIABLES or name.startswith("COVERAGE")
        }
        self._environment |= {
            "PORT": str(port),
            "LISTEN": f"tcp:{port}:interface=127.0.0.1",
            "PYTHONPATH": str(CHECKOUT),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        scripts = Path(sys.executable).parent
        twistd = shutil.which("twistd", path=f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}")
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
        assert self._process is not None
        deadline = time.monotonic() + MAX_START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the daemon ended with status {self._process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"the daemon does not listen after {MAX_START_SECONDS:.0f} s")

    def stop(self) -> int:
        """Send SIGTERM and return the exit status, negative for a signal."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(MAX_STOP_SECONDS)

    def kill(self) -> None:
        """Kill the process if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(MAX_STOP_SECONDS)

    def log(self) -> str:
        """The whole output."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""
