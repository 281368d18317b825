"""The transport of accepted connections, under an epoll reactor that the test drives."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Server
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from goproxyai.reactor import accept
from goproxyai.reactor.accept import BoundedAccept
from goproxyai.reactor.accepted_connection import (
    INHERITS_OPTIONS,
    PRIVATE_NAMES,
    AcceptedConnection,
    peer_address,
    supports,
)
from goproxyai.reactor.lean_loop import install_lean_poll
from goproxyai.reactor.socket_write import unsent_bytes, write_through

LARGE = b"x" * 6_000_000
"""More than the buffers of both sockets hold."""

RECEIVE_BUFFER_BYTES = 100_000
"""Of clients; the default grows up to 32 MB on some machines."""


class Recorder(Protocol):
    """Records what its transport reports.

    :ivar on_data: is called with each read.
    """

    reason: Any = None
    half_closed = False

    def __init__(self, on_data: Callable[[Recorder], object]) -> None:
        self.received: list[bytes] = []
        self._on_data = on_data

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)
        self._on_data(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.reason = reason

    def readConnectionLost(self) -> None:
        self.half_closed = True

    def writeConnectionLost(self) -> None:
        """Do nothing."""


class Stand:
    """A listening socket, and the protocols of the connections that it has accepted.

    :ivar on_data: is called with the protocol after each read.
    """

    def __init__(self) -> None:
        self.reactor: Any = EPollReactor()
        install_lean_poll(self.reactor)
        self.protocols: list[Recorder] = []
        self.on_data: Callable[[Recorder], object] = lambda protocol: None
        self.factory: Any = Factory()
        self.factory.noisy = False
        self.factory.buildProtocol = self._protocol
        self.port = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        self._accept = BoundedAccept(self.port, self.reactor, [].append)
        self._clients: list[socket.socket] = []

    def _protocol(self, _address: Any) -> Recorder:
        protocol = Recorder(self._received)
        self.protocols.append(protocol)
        return protocol

    def _received(self, protocol: Recorder) -> None:
        self.on_data(protocol)

    def connect(self, data: bytes = b"") -> socket.socket:
        """Connect and send *data* before the connection is accepted."""
        client = socket.socket()
        self._clients.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        client.connect(("127.0.0.1", self.port.getHost().port))
        client.settimeout(5)
        client.sendall(data)
        return client

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0.05)

    def serve(self, data: bytes = b"") -> tuple[socket.socket, Any]:
        """Return a client and the transport of its accepted connection."""
        client = self.connect(data)
        self.turn()
        return client, self.protocols[-1].transport

    def is_registered(self, transport: Any) -> bool:
        return transport in self.reactor.getReaders()

    def close(self) -> None:
        for each in self._clients:
            each.close()
        for protocol in self.protocols:
            if protocol.transport is not None:
                protocol.transport.connectionLost(Failure(CONNECTION_DONE))
        for selectable in self.reactor.removeAll():
            selectable.connectionLost(Failure(CONNECTION_DONE))


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()
    yield made
    made.close()


def test_data_that_has_arrived_is_read_in_the_turn_of_the_accept(stand: Stand) -> None:
    client, transport = stand.serve(b"request")
    assert type(transport) is AcceptedConnection
    assert stand.protocols[0].received == [b"request"]
    assert stand.is_registered(transport)
    client.sendall(b"more")
    stand.turn()
    assert stand.protocols[0].received == [b"request", b"more"]


def test_connection_without_data_is_read_later(stand: Stand) -> None:
    client, transport = stand.serve()
    assert stand.is_registered(transport)
    client.sendall(b"request")
    stand.turn()
    assert stand.protocols[0].received == [b"request"]


def test_connection_closed_by_its_first_read_is_never_registered(stand: Stand) -> None:
    def answer(protocol: Recorder) -> None:
        write_through(protocol.transport, b"response")
        protocol.transport.loseConnection()
        assert protocol.reason is None  # not within the call

    stand.on_data = answer
    client, transport = stand.serve(b"request")
    assert not stand.is_registered(transport)
    assert stand.protocols[0].reason.check(ConnectionDone)
    assert client.recv(100) == b"response"
    assert client.recv(100) == b""


def test_connection_paused_by_its_first_read_is_not_read(stand: Stand) -> None:
    stand.on_data = lambda protocol: protocol.transport.pauseProducing()
    client, transport = stand.serve(b"request")
    assert not stand.is_registered(transport)
    client.sendall(b"more")
    transport.resumeProducing()
    stand.turn()
    assert stand.protocols[0].received == [b"request", b"more"]


@pytest.mark.parametrize("close", ["loseConnection", "loseWriteConnection"])
def test_unsent_bytes_are_sent_before_the_close(stand: Stand, close: str) -> None:
    client, transport = stand.serve()
    write_through(transport, LARGE)
    assert unsent_bytes(transport)
    getattr(transport, close)()
    received = 0
    client.setblocking(False)
    while received < len(LARGE):
        stand.turn()
        with suppress(BlockingIOError):  # the kernel has not delivered it yet
            received += len(client.recv(len(LARGE)))
    client.settimeout(5)
    stand.turn(2)
    assert client.recv(1) == b""


def test_output_without_unsent_bytes_is_shut_at_once(stand: Stand) -> None:
    client, transport = stand.serve()
    transport.loseWriteConnection()
    assert client.recv(1) == b""
    transport.write(b"ignored")
    client.sendall(b"still read")
    stand.turn()
    assert stand.protocols[0].received == [b"still read"]
    transport.loseConnection()
    assert stand.protocols[0].reason.check(ConnectionDone)


def test_close_by_the_peer_ends_the_connection(stand: Stand) -> None:
    client, transport = stand.serve(b"request")
    client.close()
    stand.turn()
    assert stand.protocols[0].reason.check(ConnectionDone)
    assert not stand.is_registered(transport)
    assert transport.fileno() == -1


def test_connection_ends_once_if_its_end_and_room_are_reported_together(
    stand: Stand, failures: list[LogEvent]
) -> None:
    client, transport = stand.serve()
    transport.write(b"answer")
    client.shutdown(socket.SHUT_WR)
    stand.turn()
    assert failures == []
    assert stand.protocols[0].reason.check(ConnectionDone)


def test_reset_by_the_peer_is_reported_as_a_loss(stand: Stand) -> None:
    client, _ = stand.serve()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    stand.turn()
    assert stand.protocols[0].reason.check(ConnectionLost)


def test_half_close_by_the_peer_is_reported_to_a_protocol_that_asks_for_it(stand: Stand) -> None:
    client, transport = stand.serve()
    alsoProvides(stand.protocols[0], IHalfCloseableProtocol)
    client.shutdown(socket.SHUT_WR)
    stand.turn()
    assert stand.protocols[0].half_closed
    assert stand.protocols[0].reason is None
    transport.write(b"answer")
    stand.turn()
    assert client.recv(100) == b"answer"


def test_abort_resets_the_connection(stand: Stand) -> None:
    client, transport = stand.serve(b"request")
    transport.abortConnection()
    stand.turn()
    assert stand.protocols[0].reason.check(ConnectionAborted)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.parametrize(
    "calls",
    [
        ("abortConnection", "loseConnection"),
        ("abortConnection", "loseWriteConnection"),
        ("loseConnection", "abortConnection"),
    ],
)
def test_abort_prevails_over_a_close_in_the_same_turn(stand: Stand, calls: tuple[str, ...]) -> None:
    def end(protocol: Recorder) -> None:
        for name in calls:
            getattr(protocol.transport, name)()

    stand.on_data = end
    client, _ = stand.serve(b"request")
    stand.turn(2)
    assert stand.protocols[0].reason.check(ConnectionAborted)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_many_connections_may_end_in_one_turn(stand: Stand) -> None:
    clients = [stand.connect(b"request") for _ in range(20)]
    while len(stand.protocols) < len(clients):  # a turn accepts for a limited time
        stand.turn()
    for client in clients:
        client.close()
    stand.turn()
    assert all(each.reason.check(ConnectionDone) for each in stand.protocols)
    assert set(stand.reactor.getReaders()) == {stand.port, stand.reactor.waker}


def test_error_in_a_new_connection_is_logged_and_ends_it_alone(
    stand: Stand, failures: list[LogEvent]
) -> None:
    def fail(_protocol: Recorder) -> None:
        raise ValueError("planted")

    stand.on_data = fail
    client, _ = stand.serve(b"request")
    assert [event["log_failure"].type for event in failures] == [ValueError]
    failures.clear()
    assert client.recv(1) == b""
    stand.on_data = lambda protocol: None
    stand.serve(b"request")
    assert stand.protocols[1].reason is None


def test_error_at_the_end_of_a_failed_connection_is_logged_and_ends_it_alone(
    stand: Stand, failures: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_protocol: Recorder, _reason: object = None) -> None:
        raise ValueError("planted")

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "connectionMade", fail)
        patched.setattr(Recorder, "connectionLost", fail)
        client, _ = stand.serve()
    assert [event["log_failure"].type for event in failures] == [ValueError] * 2
    failures.clear()
    assert client.recv(1) == b""
    stand.serve(b"request")
    assert stand.protocols[1].received == [b"request"]


def test_protocol_that_cannot_be_made_ends_its_connection_alone(
    stand: Stand, failures: list[LogEvent]
) -> None:
    make, stand.factory.buildProtocol = stand.factory.buildProtocol, None
    client = stand.connect()
    stand.turn()
    assert [event["log_failure"].type for event in failures] == [TypeError]
    failures.clear()
    assert client.recv(1) == b""
    stand.factory.buildProtocol = make
    stand.serve()
    assert len(stand.protocols) == 1


def test_connection_without_a_protocol_is_closed(stand: Stand) -> None:
    stand.factory.buildProtocol = lambda _address: None
    client = stand.connect()
    stand.turn()
    assert client.recv(1) == b""


@pytest.mark.skipif(not INHERITS_OPTIONS, reason="the system does not pass options on")
def test_options_of_the_listening_socket_are_inherited(stand: Stand) -> None:
    _, transport = stand.serve()
    handle = transport.getHandle()
    assert transport.has_tcp_options
    assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_addresses_are_those_of_the_sockets(stand: Stand) -> None:
    client, transport = stand.serve()
    assert (transport.getPeer().host, transport.getPeer().port) == client.getsockname()
    assert (transport.getHost().host, transport.getHost().port) == client.getpeername()
    assert "127.0.0.1" in transport.logPrefix()
    assert "127.0.0.1" in repr(transport)


def test_link_local_address_has_the_name_of_the_interface() -> None:
    index, name = socket.if_nameindex()[0]
    assert peer_address(("::1", 1, 0, 0)).host == "::1"
    assert peer_address(("fe80::1", 1, 0, index)).host == f"fe80::1%{name}"


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_reactor_without_a_private_name_is_not_supported(stand: Stand, name: str) -> None:
    others = {each: None for each in PRIVATE_NAMES if each != name}
    assert supports(stand.reactor)
    assert not supports(type("LaterReactor", (), others)())


def test_unsupported_reactor_keeps_the_transport_of_twisted(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "supports", lambda _reactor: False)
    stand.port.doRead = type(stand.port).doRead.__get__(stand.port)
    BoundedAccept(stand.port, stand.reactor, [].append)
    _, transport = stand.serve()
    assert type(transport) is Server
