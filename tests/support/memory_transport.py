"""A socket in memory, for tests of protocols under a fake clock."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.interfaces import IPushProducer
from twisted.internet.testing import StringTransport
from zope.interface import implementer


class MemoryTransport(StringTransport):
    """A TCP transport without a socket, whose peer may stop reading.

    ``dataBuffer``, ``offset`` and ``_tempDataLen`` are the names that
    :func:`goproxyai.reactor.socket_write.unsent_bytes` reads of Twisted's TCP transports.

    :param stalled: the peer does not read: written bytes stay in :attr:`dataBuffer`.
    :ivar dataBuffer: bytes that the peer has not read.
    """

    offset = 0
    _tempDataLen = 0

    def __init__(self, stalled: bool = False) -> None:
        super().__init__()
        self.dataBuffer = b""
        self.stalled = stalled
        self.aborted = False
        self.half_closed = False
        self._kernel: socket.socket | None = None

    def fileno(self) -> int:
        return -1 if self._kernel is None else self._kernel.fileno()

    @contextmanager
    def unread_by_peer(self) -> Iterator[socket.socket]:
        """Have bytes in the kernel until the peer reads them from the socket that is yielded."""
        ours, peer = socket.socketpair()
        with ours, peer:
            ours.sendall(b"in the kernel")
            self._kernel = ours
            yield peer
            self._kernel = None

    def write(self, data: bytes) -> None:
        assert not self.disconnecting, "a write after loseConnection()"
        assert not self.half_closed, "a write after loseWriteConnection()"
        if self.stalled:
            self.dataBuffer += data
        else:
            super().write(data)

    def take(self, count: int) -> None:
        """The peer reads *count* bytes of :attr:`dataBuffer`."""
        taken, self.dataBuffer = self.dataBuffer[:count], self.dataBuffer[count:]
        self.io.write(taken)

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    @property
    def reading(self) -> bool:
        """Whether the protocol has not paused its transport."""
        return self.producerState == "producing"

    @property
    def open(self) -> bool:
        return not (self.disconnecting or self.half_closed)


class MemoryTLSTransport(MemoryTransport):
    """A TLS transport, which has no half-close."""

    loseWriteConnection = property()


@implementer(IPushProducer)
class RecordingProducer:
    """Records the calls of the transport that it is registered with."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")
