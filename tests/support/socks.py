"""A SOCKS 5 server: complete for CONNECT, with faults that tests can choose."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.support.records import RecordList
from tests.support.serving import loopback


class FakeSocks(Factory[Protocol]):
    """Connects every request to *target*, a port on loopback.

    :ivar credentials: that clients must present, or ``None``.
    :ivar replies: the reply codes of the next requests; 0 and no entry connect.
    :ivar answers: sent in place of the answer to the first message, if set.
    :ivar closes: close the connection after *answers*.
    :ivar dribbles: send the answers byte by byte.
    :ivar requested: host and port of each request.
    :ivar presented: user and password of each attempt.
    :ivar open: connections of clients.
    """

    noisy = False

    def __init__(self, reactor: Any, target: int) -> None:
        self.reactor = reactor
        self.target = target
        self.credentials: tuple[bytes, bytes] | None = None
        self.replies: list[int] = []
        self.answers: bytes | None = None
        self.closes = False
        self.dribbles = False
        self.requested: list[tuple[str, int]] = []
        self.presented: list[tuple[bytes, bytes]] = []
        self.open: set[SocksConnection] = set()
        self.changes: RecordList[None] = RecordList(reactor)
        self._port: Any = None

    async def listen(self) -> int:
        """Listen on loopback; return the port."""
        self._port = await loopback(self.reactor).listen(self)
        return int(self._port.getHost().port)

    async def close(self) -> None:
        await self._port.stopListening()
        for connection in tuple(self.open):
            connection.abort()
        await self.changes.wait_until(lambda: not self.open, 5.0)

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return SocksConnection(self)


class _ToTarget(Protocol):
    transport: Any

    def __init__(self, client: SocksConnection) -> None:
        self._client = client

    def dataReceived(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client.transport.loseConnection()


class SocksConnection(Protocol):
    """One client's connection."""

    transport: Any

    def __init__(self, server: FakeSocks) -> None:
        self._server = server
        self._received = b""
        self._step = self._greet
        self._target: Any = None

    def connectionMade(self) -> None:
        self._server.open.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._server.open.discard(self)
        self._server.changes.changed()
        if self._target is not None:
            self._target.transport.loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._target is not None:
            self._target.transport.write(data)
            return
        self._received += data
        self._step()

    def _greet(self) -> None:
        data, server = self._received, self._server
        if len(data) < 2 or len(data) < 2 + data[1]:
            return
        methods, self._received = data[2 : 2 + data[1]], data[2 + data[1] :]
        if server.answers is not None:
            self._answer(server.answers)
            if server.closes:
                self.transport.loseConnection()
            self._step = lambda: None
        elif server.credentials is None:
            self._step = self._connect
            self._answer(b"\5\0")
        elif 2 in methods:
            self._step = self._authenticate
            self._answer(b"\5\2")
        else:
            self._answer(b"\5\xff")
            self.transport.loseConnection()

    def _authenticate(self) -> None:
        data = self._received
        user = data[2 : 2 + data[1]]
        password = data[3 + len(user) :]
        self._received = b""
        self._server.presented.append((user, password))
        if (user, password) == self._server.credentials:
            self._step = self._connect
            self._answer(b"\1\0")
        else:
            self._answer(b"\1\1")
            self.transport.loseConnection()

    def _connect(self) -> None:
        data, server = self._received, self._server
        self._received = b""
        kind = data[3]
        if kind == 3:
            host = data[5 : 5 + data[4]].decode()
        else:
            host = str(IPv4Address(data[4:8]) if kind == 1 else IPv6Address(data[4:20]))
        server.requested.append((host, int.from_bytes(data[-2:], "big")))
        reply = server.replies.pop(0) if server.replies else 0
        if reply:
            self._answer(bytes((5, reply, 0, 1)) + bytes(6))
            self.transport.loseConnection()
            return
        endpoint = TCP4ClientEndpoint(server.reactor, "127.0.0.1", server.target)
        connectProtocol(endpoint, _ToTarget(self)).addCallback(self._connected)

    def _connected(self, target: Any) -> None:
        self._target = target
        self._answer(b"\5\0\0\1" + bytes(6))

    def _answer(self, data: bytes) -> None:
        if not self._server.dribbles:
            self.transport.write(data)
            return
        for index in range(len(data)):
            delay = index * 0.002
            self._server.reactor.callLater(delay, self.transport.write, data[index : index + 1])
