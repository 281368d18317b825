"""A daemon as a process of its own, started with ``twistd goproxyai``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.threads import deferToThread

from goproxyai.config.likely_mistakes import PROXY_NAMES
from goproxyai.config.variables import VARIABLES
from tests.process.forked_process import CHECKOUT, ForkedProcess
from tests.support.answers import chunk, head
from tests.support.harness import ProxyHarness, request
from tests.support.raw_client import RawClient
from tests.support.serving import loopback
from tests.support.steps import Pause, Step

TWISTD = Path(sys.executable).with_name("twistd")
TIMEOUT_SECONDS = 60.0
"""After which a test gives up; more than a start takes on a machine with ten times its load."""

ON_LOOPBACK = "tcp:0:interface=127.0.0.1"

FEW_CONNECTIONS = "100"
"""A value of ``MAX_CONNECTIONS`` that fits the descriptor limit of every machine: no warning."""

SECRET = "hunter2"

COMMAND = [sys.executable, "-m", "goproxyai"]

PASS_SOCKET = """
import os, sys
descriptor, *arguments = sys.argv[1:]
os.dup2(int(descriptor), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(arguments[0], arguments)
"""
"""Does what systemd does between fork and exec: the socket becomes descriptor 3, and the variables
describe it."""


@cache
def trust_roots() -> Any:
    """Write a file with one certificate authority.

    Every start reads the file of ``SSL_CERT_FILE``. That of the system takes a third of the time of
    a forked start.
    """
    file = tempfile.NamedTemporaryFile(suffix=".pem")  # noqa: SIM115 # deleted at the end
    trustme.CA().cert_pem.write_to_path(file.name)
    return file


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with the plugin's path and *settings*.

    Settings and the proxies of other programs, which cause a warning, are not inherited.
    """
    names = {*(variable.name for variable in VARIABLES), *PROXY_NAMES}
    passed = {name: value for name, value in os.environ.items() if name not in names}
    return {
        **passed,
        "PYTHONPATH": f"{CHECKOUT}{os.pathsep}.",
        "SSL_CERT_FILE": trust_roots().name,
        **settings,
    }


def command(*options: str, twistd: tuple[str, ...] = ()) -> list[str]:
    return [str(TWISTD), "--nodaemon", "--pidfile=", *twistd, "goproxyai", *options]


def eventually(condition: Callable[[], object]) -> None:
    """Poll until *condition* holds."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.01)


class DaemonProcess:
    """A daemon; its standard output and error go to files in *directory*.

    ``twistd`` and ``goproxyai`` are forked from a template, which saves their imports.

    :param listening: the descriptor of a socket that is passed as systemd does.
    :param is_forked: ``False`` where the command line that other programs see matters, or a
        ``sitecustomize.py`` must be run before the imports.
    """

    def __init__(
        self,
        directory: Path,
        arguments: list[str],
        settings: dict[str, str],
        listening: int | None = None,
        is_forked: bool = True,
    ) -> None:
        self.directory = directory
        self._out, self._err = directory / "stdout", directory / "stderr"
        self._process: subprocess.Popen[bytes] | ForkedProcess
        with self._out.open("wb") as out, self._err.open("wb") as err:
            if is_forked and (arguments[0] == str(TWISTD) or arguments[:3] == COMMAND):
                self._process = ForkedProcess(
                    arguments, environment(**settings), directory, out, err, listening
                )
                return
            passed: tuple[int, ...] = ()
            if listening is not None:
                arguments = [sys.executable, "-c", PASS_SOCKET, str(listening), *arguments]
                passed = (listening,)
            self._process = subprocess.Popen(
                arguments,
                env=environment(**settings),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=passed,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The JSON lines of the standard output.

        The daemon writes them from a thread of its own, in order but later than what they tell
        about: see :meth:`caught_up`. A line that is written in part is left out.
        """
        return [json.loads(line) for line in self.out.splitlines(True) if line.endswith("\n")]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The lines of the access log."""
        return [line for line in self.log if line["event"] == "request"]

    def messages(self, level: str) -> list[str]:
        """Return the messages that were logged at *level*."""
        return [
            line["message"] for line in self.log if line["level"] == level and "message" in line
        ]

    def until(self, condition: Callable[[], object]) -> None:
        """Poll until *condition* holds; fail when the process ends before."""

        def check() -> bool:
            holds = bool(condition())
            assert holds or self._process.poll() is None, (self.out, self.err)
            return holds

        eventually(check)

    def listening(self, count: int = 1, text: Callable[[], str] | None = None) -> list[int]:
        """Return the TCP ports of the listeners, once *count* are logged in *text*."""
        read = text or (lambda: self.out)
        self.until(lambda: read().count("listening on") >= count)
        return [int(port) for port in re.findall(r"listening on \S*:(\d+)", read())]

    def caught_up(self, port: int) -> None:
        """Wait until everything that was logged before this call is in the standard output."""
        marker = f"/health?{time.monotonic_ns()}"
        get(port, marker)
        self.until(lambda: marker in self.out)

    def send(self, number: int) -> None:
        """Send signal *number*."""
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end; return the exit status, negative for a signal."""
        return self._process.wait(TIMEOUT_SECONDS)

    def terminate(self) -> None:
        """End the process by SIGTERM, or by SIGKILL if that takes too long."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(TIMEOUT_SECONDS)
        self.kill()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(TIMEOUT_SECONDS)


Start = Callable[..., DaemonProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start daemons with options and settings; kill them after the test."""
    running: list[DaemonProcess] = []

    def started(
        *options: str, twistd: tuple[str, ...] = (), is_forked: bool = True, **settings: str
    ) -> DaemonProcess:
        settings = {"LISTEN": ON_LOOPBACK, "MAX_CONNECTIONS": FEW_CONNECTIONS, **settings}
        arguments = command(*options, twistd=twistd)
        process = DaemonProcess(tmp_path, arguments, settings, is_forked=is_forked)
        running.append(process)
        return process

    yield started
    for process in running:
        process.kill()


def get(port: int, path: str) -> tuple[int, Any]:
    """Return the status and the JSON document of a GET request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def assert_clean(process: DaemonProcess) -> None:
    """Assert that no warning and no error was logged."""
    assert process.err == ""
    assert [line for line in process.log if line["level"] not in ("debug", "info")] == []


@attrs.define(eq=False)
class StreamInProgress:
    """A daemon that relays a stream, which waits in its middle.

    :ivar wire: the client's connection.
    :ivar pause: releases the rest of the stream.
    """

    process: DaemonProcess
    wire: RawClient
    pause: Pause
    port: int


async def start_stream(harness: ProxyHarness, start: Start) -> StreamInProgress:
    """Start a daemon in front of the upstream of *stand*, and a stream through the daemon."""
    reactor, upstream = harness.reactor, harness.upstream
    upstream_port = await upstream.listen(loopback(reactor))
    pause = Pause()
    stream: list[bytes | Step] = [
        head(200, [(b"Transfer-Encoding", b"chunked")]),
        chunk(b"one"),
        pause,
    ]
    upstream.script("/v1/stream", [*stream, chunk(b"two"), chunk(b"")])
    process = start(OPENAI_API_URL=f"http://127.0.0.1:{upstream_port}")
    (port,) = await deferToThread(process.listening)
    wire = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), RawClient(reactor))
    wire.send(request("/v1/stream"))
    await wire.until(lambda: b"one" in wire.received)
    return StreamInProgress(process, wire, pause, port)
