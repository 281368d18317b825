"""A service of several workers as processes, its upstream, and connections to chosen workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs
import pytest

from tests.process.daemon_process import TIMEOUT_SECONDS, DaemonProcess, Start, eventually

Address = str | int | tuple[str, int]


class Upstream(ThreadingHTTPServer):
    """Answers every request with JSON, which has its path; ``/v1/slow`` when :attr:`released`.

    :ivar served: number of requests. :ivar waiting: requests for ``/v1/slow`` that wait.
    :ivar padding: a part of each response.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, interface: str = "127.0.0.1") -> None:
        super().__init__((interface, 0), _Handler)
        self.served = 0
        self.waiting = 0
        self.padding = ""
        self.released = threading.Event()
        self._count_lock = threading.Lock()

    def count(self) -> int:
        with self._count_lock:
            self.served += 1
            return self.served


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        number = self.server.count()
        if self.path == "/v1/slow":
            self.server.waiting += 1
            self.server.released.wait(TIMEOUT_SECONDS)
        document = {
            "object": "model", "path": self.path, "number": number, "padding": self.server.padding,
        }  # fmt: skip
        body = json.dumps(document).encode()
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(body)
        )
        self.wfile.write(head + body)

    do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None: ...


@contextmanager
def upstream_server(interface: str = "127.0.0.1") -> Iterator[Upstream]:
    upstream = Upstream(interface)
    thread = threading.Thread(target=upstream.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield upstream
    finally:
        upstream.released.set()
        upstream.shutdown()
        thread.join()
        upstream.server_close()


@attrs.frozen
class Answer:
    """A response.

    :ivar worker: the start of its request ID, which each worker chooses for itself.
    """

    status: int
    cache: str | None
    worker: str
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@attrs.define(eq=False)
class Service:
    """A running service.

    :param connect: opens a connection.
    """

    process: DaemonProcess
    address: Address

    def connect(self) -> Connection:
        return Connection(self.address)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send a request on a new connection."""
        connection = self.connect()
        try:
            return connection.ask(path, method, **headers)
        finally:
            connection.close()

    def stats(self) -> Any:
        return self.ask("/stats").document

    def pids(self) -> list[int]:
        """The processes of the workers that serve."""
        processes = self.stats()["workers"]["processes"]
        return [each["pid"] for each in processes if each["state"] == "serving"]

    def connection_to(self, pid: int) -> Connection:
        """Open a connection that the worker *pid* accepts: the others are stopped meanwhile."""
        others = [each for each in self.pids() if each != pid]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        eventually(lambda: all(process_state(other) == "T" for other in others))
        try:
            connection = self.connect()
            connection.ask("/health")
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)
        return connection

    def connection_to_each(self) -> dict[int, Connection]:
        return {pid: self.connection_to(pid) for pid in self.pids()}

    def wait_for_workers(self, count: int) -> list[int]:
        """Wait until *count* workers serve; return their processes."""
        eventually(lambda: len(self.pids()) == count)
        return self.pids()


Serve = Callable[..., Service]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with upstream_server() as server:
        yield server


@pytest.fixture
def serve(start: Start, upstream: Upstream) -> Serve:
    """Start a service of two workers, or of as many as given."""

    def served(workers: int = 2, twistd: tuple[str, ...] = (), **settings: str) -> Service:
        settings = {"RATE_LIMIT": "0", "WORKERS": str(workers), **settings}
        process = start(
            twistd=twistd, OPENAI_API_URL=f"http://127.0.0.1:{upstream.server_port}", **settings
        )
        (port,) = process.listening()
        return Service(process, port)

    return served


_connections: list[Connection] = []


@pytest.fixture(autouse=True)
def close_connections() -> Iterator[None]:
    """Close all connections that a test has opened."""
    yield
    while _connections:
        _connections.pop().close()


class Connection:
    """A kept connection.

    :param address: a port on loopback, an address and a port, or the path of a Unix socket.
    """

    def __init__(self, address: Address) -> None:
        _connections.append(self)
        self._http = HTTPConnection("127.0.0.1", timeout=TIMEOUT_SECONDS)
        if not isinstance(address, str):
            peer = ("127.0.0.1", address) if isinstance(address, int) else address
            self._http.sock = socket.create_connection(peer, TIMEOUT_SECONDS)
            self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self._http.sock = socket.socket(socket.AF_UNIX)
            self._http.sock.settimeout(TIMEOUT_SECONDS)
            self._http.sock.connect(address)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        self._http.request(method, path, headers=headers)
        answer = self._http.getresponse()
        identifier = answer.getheader("X-Request-Id") or ""
        body = answer.read()
        return Answer(
            answer.status, answer.getheader("X-Cache"), identifier.partition("-")[0], body
        )

    def close(self) -> None:
        self._http.close()


def process_state(pid: int) -> str:
    """Return the state of a process as ``/proc`` has it, empty where there is none."""
    with suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]
    return ""


def has_ended(pid: int) -> bool:
    return process_state(pid) in ("", "Z")
