"""A daemon that is forked from the template (:mod:`.template`), with the methods of a ``Popen``."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import BinaryIO

CHECKOUT = Path(__file__).resolve().parents[2]


@cache
def template() -> socket.socket:
    """Start the template, which ends with this process; return the socket for its requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        descriptor = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.template", str(descriptor)],
            cwd=CHECKOUT,
            pass_fds=(descriptor,),
        )
    atexit.register(process.wait)
    atexit.register(ours.close)  # before the wait: the last is called first
    return ours


class ForkedProcess:
    """A running ``twistd`` or ``goproxyai``.

    :param arguments: the command line, which begins with the path of ``twistd`` or with
        ``python -m goproxyai``.
    :param listening: the descriptor of a socket that is passed as systemd does.
    """

    def __init__(
        self,
        arguments: list[str],
        environment: dict[str, str],
        directory: Path,
        out: BinaryIO,
        err: BinaryIO,
        listening: int | None = None,
    ) -> None:
        self._reports, reports = os.pipe()
        request = json.dumps([arguments, environment, str(directory)]).encode()
        descriptors = [reports, out.fileno(), err.fileno()]
        if listening is not None:
            descriptors.append(listening)
        socket.send_fds(template(), [request], descriptors)
        os.close(reports)
        self._returncode: int | None = None
        self._reported = b""
        while b"\n" not in self._reported:
            self._read()
        self.pid = int(self._reported.split()[0])

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or nothing while the process runs."""
        while self._returncode is None and select.select([self._reports], [], [], 0)[0]:
            self._read()
            if self._reported.count(b"\n") == 2:
                self._returncode = int(self._reported.split()[1])
                os.close(self._reports)
        return self._returncode

    def wait(self, seconds: float) -> int:
        """Wait for the end; return the exit status.

        :raises subprocess.TimeoutExpired: if the process runs after *seconds*.
        """
        if self._returncode is None:
            select.select([self._reports], [], [], seconds)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("the forked process", seconds)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self) -> None:
        data = os.read(self._reports, 100)
        if not data:
            raise EOFError("the template has ended")
        self._reported += data
