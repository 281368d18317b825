"""A TCP proxy in front of a server, whose replies a test delays, slows down, cuts or replaces."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto

import attrs

from tests.support.ports import free_port

DELAY_SECONDS = 0.2
"""More than a command's deadline."""

LAG_SECONDS = 0.02
"""Less than a request waits for a command."""

BYTES_PER_SECOND = 400
"""Fewer than the replies to a few requests a second."""

GARBAGE = b"HTTP/1.1 400 Bad Request\r\n\r\n"

_MAX_BYTES = 65536


class Fault(Enum):
    """What happens to replies."""

    NONE = auto()
    LAG = auto()
    DELAY = auto()
    THROTTLE = auto()
    CUT = auto()
    GARBAGE = auto()
    SILENCE = auto()


@attrs.define(eq=False)
class FaultyLink:
    """The proxy; clients connect to :attr:`port`.

    :ivar fault: applies to the replies from now on, on all connections.
    """

    target: int
    port: int = attrs.field(factory=free_port)
    fault: Fault = Fault.NONE
    _stopped: threading.Event = attrs.field(factory=threading.Event)
    _sockets: list[socket.socket] = attrs.field(factory=list)
    _threads: list[threading.Thread] = attrs.field(factory=list)

    def start(self) -> None:
        listening = socket.create_server(("127.0.0.1", self.port))
        self._sockets.append(listening)
        self._run(self._accept, listening)

    def stop(self) -> None:
        self._stopped.set()
        for each in self._sockets:
            _shut(each)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _run(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                self._sockets.append(client)
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    _shut(client)
                    continue
                self._sockets.append(server)
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._run(self._relay_commands, client, server)
                self._run(self._relay_replies, server, client)

    def _relay_commands(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(_MAX_BYTES):
                server.sendall(data)
        _shut(server)

    def _relay_replies(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(_MAX_BYTES):
                if not self._relay(data, client):
                    break
        _shut(client)
        _shut(server)

    def _relay(self, data: bytes, client: socket.socket) -> bool:
        """Send *data*, or what the fault makes of it; return whether the connection goes on."""
        match self.fault:
            case Fault.LAG:
                self._stopped.wait(LAG_SECONDS)
            case Fault.DELAY:
                self._stopped.wait(DELAY_SECONDS)
            case Fault.THROTTLE:
                for position in range(len(data) - 1):
                    client.sendall(data[position : position + 1])
                    self._stopped.wait(1 / BYTES_PER_SECOND)
                data = data[-1:]
            case Fault.CUT:
                client.sendall(data[: len(data) // 2])
                return False
            case Fault.GARBAGE:
                data = GARBAGE
            case Fault.SILENCE:
                return True
        client.sendall(data)
        return True


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def faulty_link(target: int) -> Iterator[FaultyLink]:
    """Run a link to the port *target* on loopback."""
    link = FaultyLink(target)
    link.start()
    try:
        yield link
    finally:
        link.stop()
