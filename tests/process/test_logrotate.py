"""The log file under the real logrotate, with the configuration of ``deploy/``."""

from __future__ import annotations

import getpass
import grp
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.daemon_process import (
    TIMEOUT_SECONDS,
    DaemonProcess,
    Start,
    eventually,
    start,
)
from tests.process.programs import DEPLOY, find, needs

__all__ = ["start"]  # the fixture

LOGROTATE = find("logrotate")

pytestmark = [
    pytest.mark.process,
    needs("logrotate"),
    needs("pkill"),
]

CONFIGURATION = (DEPLOY / "goproxyai.logrotate").read_text()

MORE = 500
"""Requests between two rotations."""


class Load:
    """Requests for ``/health?<number>``, one after the other on a connection.

    :ivar answered: the number of requests so far.
    """

    def __init__(self, port: int) -> None:
        self._client = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self._thread.start()

    def _run(self) -> None:
        with self._client as client:
            while not self._stop.is_set():
                target = f"/health?{self.answered}"
                client.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                received = b""
                while b'"timestamp"' not in received:
                    received += client.recv(4096)
                self.answered += 1

    def more(self) -> None:
        """Wait until further requests have been answered."""
        before = self.answered
        eventually(lambda: self.answered >= before + MORE or not self._thread.is_alive())

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_SECONDS)


@contextmanager
def load(port: int) -> Iterator[Load]:
    one = Load(port)
    try:
        yield one
    finally:
        one.stop()


class RotatedDaemon:
    """A daemon with a log file and a file of its process ID."""

    def __init__(self, start: Start, directory: Path) -> None:
        self._directory = directory
        self._logs = directory / "logs"
        self._logs.mkdir(mode=0o700)
        self.log = self._logs / "own.log"
        options = ("--pidfile=own.pid", f"--logfile={self.log}")
        self.process: DaemonProcess = start(twistd=options, is_forked=False)
        (self.port,) = self.process.listening(text=self._text)

    def _text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def rotate(self, configuration: str, *options: str) -> str:
        """Rotate with *configuration*, in which the paths and the user are replaced."""
        user, group = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
        text = configuration.replace("/var/log/goproxyai/", f"{self._logs}/")
        text = text.replace("/run/goproxyai.pid", str(self._directory / "own.pid"))
        text = text.replace("goproxyai goproxyai", f"{user} {group}")
        file = self._directory / "logrotate.conf"
        file.write_text(text)
        file.chmod(0o600)
        assert LOGROTATE is not None
        done = subprocess.run(
            [LOGROTATE, *options, "--state", str(self._directory / "state"), str(file)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def stop(self) -> None:
        self.process.send(signal.SIGTERM)
        assert self.process.ended() in (0, -signal.SIGTERM)
        assert self.process.err == ""

    def contents(self) -> list[bytes]:
        """The contents of the log files, the oldest first; they are uncompressed."""
        paths = sorted(
            self._logs.iterdir(),
            key=lambda path: int((re.findall(r"\.(\d+)", path.name) or [0])[0]),
            reverse=True,
        )
        return [
            gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            for path in paths
        ]


def test_rotation_with_create_loses_no_line(start: Start, tmp_path: Path) -> None:
    daemon = RotatedDaemon(start, tmp_path)
    with load(daemon.port) as clients:
        for name in ("USR1", "HUP", "USR1"):
            clients.more()
            daemon.rotate(CONFIGURATION.replace("-USR1", f"-{name}"), "--force")
            assert daemon.log.stat().st_mode & 0o777 == 0o640
            eventually(lambda: daemon.log.stat().st_size)
        clients.more()
    daemon.stop()
    contents = daemon.contents()
    assert len(contents) == 4
    lines = [json.loads(line) for content in contents for line in content.splitlines()]
    numbers = [int(line["path"].split("?")[1]) for line in lines if line["event"] == "request"]
    assert numbers == list(range(clients.answered))


def test_rotation_with_copytruncate_leaves_no_nul(start: Start, tmp_path: Path) -> None:
    daemon = RotatedDaemon(start, tmp_path)
    configuration = re.sub(r"(?s)    create .*?\n|    postrotate.*endscript\n", "", CONFIGURATION)
    with load(daemon.port) as clients:
        for _ in range(2):
            clients.more()
            daemon.rotate(configuration.replace("sharedscripts", "copytruncate"), "--force")
        clients.more()
    daemon.stop()
    contents = daemon.contents()
    assert len(contents) == 3
    for content in contents:
        assert content != b""
        assert b"\0" not in content
    assert json.loads(contents[-1].splitlines()[-1])["message"] == "Server Shut Down."


def test_process_that_has_got_the_id_of_a_stopped_daemon_gets_no_signal(
    start: Start, tmp_path: Path
) -> None:
    daemon = RotatedDaemon(start, tmp_path)
    daemon.stop()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        (tmp_path / "own.pid").write_text(str(other.pid))
        daemon.rotate(CONFIGURATION, "--force")
        assert other.poll() is None
        other.communicate(timeout=TIMEOUT_SECONDS)
    assert other.returncode == 0
    assert len(daemon.contents()) == 2


def test_deployed_configuration_is_valid_and_rotates_only_when_due(
    start: Start, tmp_path: Path
) -> None:
    daemon = RotatedDaemon(start, tmp_path)
    report = daemon.rotate(CONFIGURATION, "--debug")
    assert "error" not in report
    assert "log does not need rotating" in report
    assert len(daemon.contents()) == 1
    daemon.stop()
