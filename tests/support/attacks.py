"""Many connections to a daemon over plain sockets, and the memory of the daemon."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterable
from pathlib import Path

MIB = 1 << 20
SEND_SECONDS = 20.0
"""In which the daemon takes what an attack sends, or refuses it."""


class Attackers:
    """The open connections of attacks."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> Attackers:
        raise_descriptor_limit()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.sockets:
            each.close()
        self.sockets = []

    def connect(self, receive_bytes: int = 0) -> socket.socket:
        """Open a connection.

        :param receive_bytes: size of the receive buffer; 0 for the system's default.
        """
        client = socket.socket()
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.connect(("127.0.0.1", self.port))
        self.sockets.append(client)
        return client

    def send_all(self, messages: Iterable[bytes], receive_bytes: int = 0) -> None:
        """Send each message on a connection of its own, at the pace of the daemon.

        Returns when all are sent, or when the daemon has stopped reading.
        """
        unsent = []
        for message in messages:
            client = self.connect(receive_bytes)
            client.setblocking(False)
            unsent.append((client, memoryview(message)))
        deadline = time.monotonic() + SEND_SECONDS
        quiet_since = time.monotonic()
        while unsent and time.monotonic() < deadline:
            rest = []
            for client, left in unsent:
                try:
                    sent = client.send(left[: 256 * 1024])
                except BlockingIOError:
                    sent = 0
                except OSError:  # refused: the daemon has closed the connection
                    continue
                if sent:
                    quiet_since = time.monotonic()
                if sent < len(left):
                    rest.append((client, left[sent:]))
            unsent = rest
            if time.monotonic() - quiet_since > 1.0:
                return
            if unsent:
                time.sleep(0.002)


def raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def memory_of(pid: int, field: str = "VmRSS") -> int:
    """Return a value of ``/proc/<pid>/status`` in bytes: ``VmRSS``, or ``VmHWM`` for its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def reset_peak(pid: int) -> None:
    """Make ``VmHWM`` the present resident memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def get_request(target: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: a", *lines, b"", b""])


def post_request(target: bytes, body: bytes, missing: int = 0) -> bytes:
    """Return a JSON request.

    :param missing: bytes that the body lacks at its end.
    """
    head = (
        b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    return head % (target, len(body) + missing) + body


def large_head(target: bytes, number: int, size: int = 60_000, fields: int = 190) -> bytes:
    """Return a GET request with a head of *size* bytes that no other request has."""
    value = b"v" * (size // fields - 14)
    lines = [b"X-%06d-%03d: %b" % (number, each, value) for each in range(fields)]
    return get_request(target, *lines)
