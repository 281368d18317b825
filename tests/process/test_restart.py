"""Restarts: a listening socket that systemd keeps open, and a Unix socket that was left."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.threads import deferToThread

from tests.process.daemon_process import (
    TIMEOUT_SECONDS,
    DaemonProcess,
    Start,
    assert_clean,
    command,
    start,
)
from tests.support.answers import chunk, head
from tests.support.harness import ProxyHarness, request
from tests.support.raw_client import RawClient
from tests.support.serving import loopback
from tests.support.steps import Pause

__all__ = ["start"]  # the fixture

pytestmark = pytest.mark.process

BY_INDEX = "systemd:domain=INET:index=0"


@attrs.define
class SocketUnit:
    """Keeps a listening socket open and passes it to the daemons that it starts, as systemd does.

    :ivar settings: of the daemons.
    """

    listening: socket.socket
    directory: Path
    settings: dict[str, str]
    started: list[DaemonProcess] = attrs.field(factory=list)

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    def start(self, listen: str = BY_INDEX, is_forked: bool = True) -> DaemonProcess:
        directory = self.directory / str(len(self.started))
        directory.mkdir()
        settings = {"LISTEN": listen, **self.settings}
        process = DaemonProcess(
            directory, command(), settings, self.listening.fileno(), is_forked=is_forked
        )
        self.started.append(process)
        return process


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[SocketUnit]:
    """A unit with a socket on loopback; its daemons are killed after the test."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        one = SocketUnit(listening, tmp_path, {"RATE_LIMIT": "0"})
        yield one
        for process in one.started:
            process.kill()


def wait_until_listening(process: DaemonProcess) -> None:
    process.until(lambda: "listening on" in process.out)


# Adopting a passed socket.


def test_passed_socket_is_adopted_by_index_and_by_name(unit: SocketUnit) -> None:
    for listen in (BY_INDEX, "systemd:domain=INET:name=web"):
        process = unit.start(listen, is_forked=False)
        assert process.listening() == [unit.port]
        assert ask(unit.port) == 200
        process.send(signal.SIGTERM)
        process.ended()
        assert_clean(process)


def test_connection_without_a_daemon_waits_for_the_next_daemon(unit: SocketUnit) -> None:
    process = unit.start()
    wait_until_listening(process)
    process.send(signal.SIGTERM)
    process.ended()
    with socket.create_connection(("127.0.0.1", unit.port), TIMEOUT_SECONDS) as waiting:
        waiting.sendall(b"GET /health HTTP/1.0\r\nHost: a\r\n\r\n")
        unit.start()
        assert waiting.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_path_of_a_passed_unix_socket_stays(unit: SocketUnit) -> None:
    path = unit.directory / "web.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        unit.listening.close()
        unit.listening = listening
        process = unit.start("systemd:domain=UNIX:index=0")
        wait_until_listening(process)
        process.send(signal.SIGTERM)
        process.ended()
        assert_clean(process)
        assert path.exists()


@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        ("systemd:domain=INET:index=1", "no such socket was passed"),
        ("systemd:domain=INET:name=other", "no such socket was passed"),
        ("systemd:domain=INET6:index=0", "is of domain=INET"),
    ],
)
def test_socket_that_cannot_be_adopted_ends_the_start_with_one_line(
    unit: SocketUnit, listen: str, problem: str
) -> None:
    process = unit.start(listen)
    assert process.ended() == 1
    (line,) = process.err.splitlines()
    assert line.startswith(f"goproxyai: cannot listen on {listen}: ")
    assert problem in line
    assert process.out == ""


def test_passed_socket_that_does_not_listen_ends_the_start_with_one_line(unit: SocketUnit) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        unit.listening.close()
        unit.listening = bound
        process = unit.start()
        assert process.ended() == 1
    (line,) = process.err.splitlines()
    assert "does not listen; set Accept=no in its unit" in line


# A Unix socket that a killed process has left.


def test_socket_of_a_killed_process_is_replaced(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    killed = start(LISTEN="unix:web.sock")
    wait_until_listening(killed)
    killed.kill()
    assert path.exists()
    process = start(LISTEN="unix:web.sock")
    wait_until_listening(process)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    process.send(signal.SIGTERM)
    process.ended()
    assert_clean(process)
    assert not path.exists()


# Restarts under load.


def ask(port: int, path: str = "/health") -> int:
    """Return the status of one request on a new connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


@attrs.define
class Client:
    """Sends requests until told to stop.

    :ivar keeps: whether the client keeps its connection. Such a client repeats a request on a new
        connection only where a connection that has been used was closed before a response began,
        or where the response was 503 and closed that connection, as the official clients do.
    :ivar reconnected: the number of such repetitions.
    :ivar failures: all other outcomes except a 200 response.
    """

    port: int
    keeps: bool
    number: int
    answered: int = 0
    reconnected: int = 0
    failures: list[str] = attrs.field(factory=list)

    def run(self, stop: threading.Event) -> None:
        connection, used, count = None, False, 0
        while not stop.is_set():
            count += 1
            path = f"/v1/models?{self.number}.{count % 50}"
            try:
                if connection is None:
                    connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
                    used = False
                connection.request("GET", path, headers={"Authorization": "Bearer sk-good"})
                answer = connection.getresponse()
                answer.read()
            except (RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
                if used:
                    self.reconnected += 1
                else:
                    self.failures.append(repr(error))
                connection = None
                continue
            except Exception as error:
                self.failures.append(repr(error))
                connection = None
                continue
            if answer.status == 200:
                self.answered += 1
            elif answer.status == 503 and used and answer.will_close:
                self.reconnected += 1
            else:
                self.failures.append(str(answer.status))
            used = True
            if not self.keeps or answer.will_close:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


@contextmanager
def load(port: int, count: int) -> Iterator[list[Client]]:
    """Run *count* clients; every second client keeps its connection."""
    stop = threading.Event()
    clients = [Client(port, number % 2 == 0, number) for number in range(count)]
    threads = [threading.Thread(target=each.run, args=(stop,)) for each in clients]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT_SECONDS)


def eventually_more(clients: list[Client], process: DaemonProcess, more: int = 20) -> None:
    """Wait until each client has received *more* responses."""
    before = [each.answered for each in clients]
    process.until(
        lambda: all(
            each.answered >= count + more or each.failures
            for each, count in zip(clients, before, strict=True)
        )
    )


@pytest_twisted.ensureDeferred
async def test_no_request_fails_during_two_restarts(
    harness: ProxyHarness, unit: SocketUnit
) -> None:
    upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    unit.settings["OPENAI_API_URL"] = f"http://127.0.0.1:{upstream_port}"
    clients = await deferToThread(_replace_twice, unit)
    assert [each.failures for each in clients] == [[]] * len(clients)
    assert sum(each.reconnected for each in clients) <= 2 * len(clients)
    for process in unit.started[:-1]:
        assert_clean(process)
        assert {line["status"] for line in process.requests} <= {200, 503}


def _replace_twice(unit: SocketUnit) -> list[Client]:
    process = unit.start()
    wait_until_listening(process)
    with load(unit.port, 8) as clients:
        eventually_more(clients, process)
        for _ in range(2):
            process.send(signal.SIGTERM)
            process.ended()
            process = unit.start()
            eventually_more(clients, process)
    return clients


@pytest_twisted.ensureDeferred
async def test_stream_finishes_while_the_next_daemon_serves(
    harness: ProxyHarness, unit: SocketUnit
) -> None:
    upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    unit.settings["OPENAI_API_URL"] = f"http://127.0.0.1:{upstream_port}"
    pause = Pause()
    stream = [head(200, [(b"Transfer-Encoding", b"chunked")]), chunk(b"one"), pause]
    harness.upstream.script("/v1/stream", [*stream, chunk(b"two"), chunk(b"")])
    before = unit.start()
    await deferToThread(wait_until_listening, before)
    endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", unit.port)
    wire = await connectProtocol(endpoint, RawClient(harness.reactor))
    wire.send(request("/v1/stream"))
    await wire.until(lambda: b"one" in wire.received)
    before.send(signal.SIGTERM)
    await deferToThread(before.until, lambda: "draining" in before.out)
    after = unit.start()
    await deferToThread(wait_until_listening, after)
    assert await deferToThread(ask, unit.port) == 200
    pause.release()
    answer = await wire.answer()
    assert (answer.body, answer.cut) == (b"onetwo", False)
    await wire.wait_closed()
    await deferToThread(before.ended)
    assert_clean(before)
