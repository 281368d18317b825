"""A TCP connection over loopback whose transport is under a reactor that the test drives."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import attrs
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Server
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.tls import TLSMemoryBIOProtocol

TIMEOUT_MS = 5000


class RecordingProtocol(Protocol):
    """Ignores its input.

    :ivar reason: why the connection was lost, or ``None``.
    """

    reason: Any = None

    def connectionLost(self, reason: Any = None) -> None:
        self.reason = reason


@attrs.define(eq=False)
class SocketPair:
    """A transport and the socket of its peer.

    :ivar sends: the number of bytes that the kernel took, for each ``send``.
    :ivar limits: of the next ``send`` calls: the number of bytes that the kernel takes at most, or
        the error that it reports.
    """

    reactor: MemoryReactorClock
    transport: Any
    peer: socket.socket
    protocol: RecordingProtocol
    kernel: socket.socket
    sends: list[int] = attrs.field(factory=list)
    limits: list[int | Exception] = attrs.field(factory=list)

    def send(self, data: bytes) -> int:
        """Send as the kernel does, within the next limit."""
        limit = self.limits.pop(0) if self.limits else len(data)
        if isinstance(limit, Exception):
            raise limit
        sent = self.kernel.send(bytes(data)[:limit]) if limit else 0
        self.sends.append(sent)
        return sent

    @property
    def is_writing(self) -> bool:
        """Whether the reactor waits for the socket to become writable."""
        return self.transport in self.reactor.getWriters()

    def write_all(self) -> None:
        """Let the reactor write until no byte is buffered."""
        while self.is_writing:
            self.transport.doWrite()

    def fill(self) -> None:
        """Send until the kernel takes no more, since the peer does not read."""
        with suppress(BlockingIOError):
            while True:
                self.kernel.send(bytes(64 * 1024))

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self.peer.recv(count - len(data))
        return data

    def has_no_more_data(self) -> bool:
        self.peer.setblocking(False)
        try:
            return self.peer.recv(1) == b""
        except BlockingIOError:
            return True

    def wait_for_event(self, events: int = select.POLLIN) -> None:
        """Wait until one of *events* has reached the transport's socket."""
        poller = select.poll()
        poller.register(self.transport.fileno(), events)
        assert poller.poll(TIMEOUT_MS)

    def reset_by_peer(self) -> None:
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, for 0 seconds: close sends RST
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.peer.close()


class LimitedSocket:
    """The transport's socket; ``send`` obeys the pair's limits."""

    def __init__(self, pair: SocketPair) -> None:
        self._pair = pair
        self.send = pair.send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pair.kernel, name)


class TLSLayer(TLSMemoryBIOProtocol):
    """A TLS transport over *transport*, with a buffer of its own; it does not encrypt.

    :ivar written: the written data.
    """

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self._appSendBuffer: list[bytes] = []
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


@contextmanager
def socket_pair() -> Iterator[SocketPair]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        accepted, address = listening.accept()
    accepted.setblocking(False)
    peer.settimeout(TIMEOUT_MS / 1000)
    reactor, protocol = MemoryReactorClock(), RecordingProtocol()
    transport: Any = Server(accepted, protocol, address, None, 1, reactor)
    protocol.makeConnection(transport)
    pair = SocketPair(reactor, transport, peer, protocol, accepted)
    transport.socket = LimitedSocket(pair)
    yield pair
    peer.close()
    accepted.close()
