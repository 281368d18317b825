"""An upstream over plain sockets that answers, stalls or does not read, as the target says."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import attrs


@attrs.define(eq=False)
class SlowUpstream:
    """Answers each request as its target says, one thread for each connection.

    ``/v1/.../stall`` reads the request and never answers. ``/v1/.../unread`` does not even read the
    body. ``size=N`` in the query asks for a JSON string of N bytes.
    """

    port: int = attrs.field(init=False)
    _listener: socket.socket = attrs.field(init=False)
    _connections: set[socket.socket] = attrs.field(init=False, factory=set)

    def __attrs_post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *tuple(self._connections)):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._answer(connection)
        with suppress(OSError, ValueError):
            closed = select.poll()
            closed.register(connection, select.POLLRDHUP)
            closed.poll()
        self._connections.discard(connection)
        connection.close()

    def _answer(self, connection: socket.socket) -> None:
        """Answer requests until one is to be stalled, or the daemon closes the connection."""
        with suppress(OSError, ValueError):
            file = connection.makefile("rb")
            while line := file.readline():
                _, target, _ = line.split()
                length = 0
                while (field := file.readline()) not in (b"\r\n", b""):
                    name, _, value = field.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                if b"/unread" in target:
                    return
                while length:
                    length -= len(file.read(min(length, 65536)))
                if b"/stall" in target:
                    return
                _, _, size = target.partition(b"size=")
                body = b'"' + b"x" * int(size or 2) + b'"'
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body)
                )
                connection.sendall(body)


@contextmanager
def slow_upstream() -> Iterator[SlowUpstream]:
    upstream = SlowUpstream()
    try:
        yield upstream
    finally:
        upstream.close()
