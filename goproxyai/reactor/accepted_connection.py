"""The transport of an accepted TCP connection, with few system calls for a single request.

Twisted's transport makes 19 system calls for a connection that serves one request, of which 10 are
not needed (``strace -c``). This one differs from it as follows:

1. The first read is tried when the connection is accepted, since the request has often arrived. A
   connection that is closed after its response is then never registered with epoll.
2. The options of the socket are those of the listening socket, see :func:`inherit_tcp_options`.
3. A connection without unsent bytes is closed at the end of the reactor's turn, and its output is
   shut at once. Twisted waits for a writable event for either, which takes two ``epoll_ctl`` and an
   empty ``send``.
4. ``close`` alone ends the connection. Twisted calls ``epoll_ctl`` and ``shutdown`` first, but
   no other process has the socket, so that the kernel does both with ``close``.

All of this needs the private names in :data:`PRIVATE_NAMES` and the iteration of
:mod:`.lean_loop`; :func:`supports` tells. Other reactors have Twisted's transport.
"""

from __future__ import annotations

import socket
from sys import platform
from typing import Any, Final

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Server
from twisted.python.failure import Failure

from goproxyai.reactor.private_names import missing_names
from goproxyai.reactor.socket_state import KEEP_ALIVE_OPTIONS

PRIVATE_NAMES: Final = ("_reads", "_writes", "_selectables", "_goproxyai_at_end")
"""Attributes of the reactor; the last one is of :mod:`.lean_loop`."""

READ_BYTES: Final = FileDescriptor.bufferSize
"""The most that one read takes: 64 KiB."""

INHERITS_OPTIONS: Final = platform == "linux"
"""Whether accepted sockets have the options of the listening socket (tcp(7))."""

_DONE: Final = Failure(ConnectionDone())  # shared, as in Twisted's reactors


def supports(reactor: Any) -> bool:
    """Return whether :class:`AcceptedConnection` works with *reactor*."""
    return not missing_names(reactor, *PRIVATE_NAMES)


def inherit_tcp_options(listening: socket.socket) -> None:
    """Set the options that accepted connections inherit on the *listening* socket."""
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for level, option, value in KEEP_ALIVE_OPTIONS:
        listening.setsockopt(level, option, value)


class AcceptedConnection(Server):
    """The transport of a connection that *port* has accepted.

    ``Server.__init__`` is not called. It formats two texts for log lines, which take a tenth of the
    time in which a connection is accepted; here they are made when they are read.

    :param accepted: in non-blocking mode.
    :param client: the peer's address, as the kernel reports it.
    :ivar has_tcp_options: no options need to be set.
    """

    has_tcp_options = INHERITS_OPTIONS

    def __init__(
        self, accepted: socket.SocketType, protocol: Any, client: Any, port: Any, reactor: Any
    ) -> None:
        self.reactor = reactor
        self._tempDataBuffer: list[bytes] = []
        self._tempDataLen = 0
        self.socket: Any = accepted
        self.fileno = accepted.fileno
        self.protocol = protocol
        self.server = port
        self.client = client
        self.hostname = client[0]
        self.connected = 1
        self._is_reading = True  # is to be read, whether or not it is registered
        if len(client) > 2:
            self._addressType = IPv6Address

    def __repr__(self) -> str:
        return f"<AcceptedConnection from {self.hostname}>"

    def logPrefix(self) -> str:
        return f"{type(self).__name__},{self.hostname}"

    def begin(self) -> None:
        """Read what has arrived, and read the rest when it arrives."""
        why = self.doRead()
        if why is not None:
            self.connectionLost(Failure(why))
        elif self._is_reading and self.connected and not self.disconnecting:
            self.reactor.addReader(self)

    def startReading(self) -> None:
        self._is_reading = True
        self.reactor.addReader(self)

    def stopReading(self) -> None:
        self._is_reading = False
        self.reactor.removeReader(self)

    def doRead(self) -> Any:
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if data:
            self.protocol.dataReceived(data)
            return None
        if IHalfCloseableProtocol.providedBy(self.protocol):
            return CONNECTION_DONE
        self.connectionLost(_DONE)  # the reactor would call epoll_ctl first
        return None

    def doWrite(self) -> Any:
        # For an event of both kinds, also called after a doRead that has ended the connection.
        return None if self.disconnected else super().doWrite()

    def _has_unsent(self) -> bool:
        return bool(self.dataBuffer or self._tempDataBuffer or self.producer or self.TLS)

    def loseConnection(self, *args: Any) -> None:
        if self._writeDisconnecting or self._writeDisconnected or self._has_unsent():
            super().loseConnection(*args)
        elif self.connected and not self.disconnecting:
            self.disconnecting = 1
            reactor: Any = self.reactor
            reactor._goproxyai_at_end(self._finish)

    def _finish(self) -> None:
        """Close after :meth:`loseConnection`, in whose call the protocol may be at work."""
        if not self._aborting:  # else the peer would take an incomplete response for complete
            self.connectionLost(_DONE)

    def loseWriteConnection(self) -> None:
        if not self.connected or self._aborting or self._has_unsent():
            super().loseWriteConnection()
        else:
            self._writeDisconnecting = self._writeDisconnected = True
            self._closeWriteConnection()

    def connectionLost(self, reason: Failure) -> None:
        if self.disconnected:
            return
        self.disconnected = 1
        self.connected = 0
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        reactor: Any = self.reactor
        descriptor = self.fileno()
        reactor._reads.discard(descriptor)
        reactor._writes.discard(descriptor)
        reactor._selectables.pop(descriptor, None)
        if reason.type is ConnectionAborted:
            self._closeSocket(False)  # with a reset
        else:
            self.socket.close()
        protocol = self.protocol
        del self.protocol, self.socket, self.fileno
        protocol.connectionLost(reason)


def peer_address(client: Any) -> IPv4Address | IPv6Address:
    """Return the address of a peer that the kernel reports as *client*."""
    if len(client) == 2:
        return IPv4Address("TCP", *client)
    if client[3]:  # a link-local address, whose text has the name of the interface
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        return IPv6Address("TCP", socket.getnameinfo(client, numeric)[0], *client[1:])
    return IPv6Address("TCP", *client)
