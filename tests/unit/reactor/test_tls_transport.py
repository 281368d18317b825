"""TLS transports over a loopback connection, under a reactor that the test drives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from goproxyai.reactor import tls_transport
from goproxyai.reactor.socket_write import unsent_bytes
from goproxyai.reactor.tls_transport import (
    BIO_NAMES,
    PRIVATE_NAMES,
    DirectTLS,
    TLSFactory,
    is_supported,
)
from tests.support.authority import self_signed
from tests.unit.reactor.socket_pair import SocketPair

REQUEST = b"request" * 20
LARGE = bytes(range(256)) * 400


class Received(Protocol):
    """Keeps its input.

    :ivar reads: the data of each call.
    :ivar aborts: reset the connection with the first read.
    :ivar reason: why the connection was lost, or ``None``.
    """

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.aborts = False
        self.reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.reads.append(data)
        if self.aborts and self.transport is not None:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


class TLSPair:
    """The TLS client transport of *pair*, and its peer, after the handshake.

    :ivar peer: the TLS connection of the peer, over memory BIOs.
    """

    def __init__(self, pair: SocketPair, version: int) -> None:
        self.pair = pair
        self.protocol = Received()
        factory = TLSFactory(CertificateOptions(), True, Factory.forProtocol(lambda: self.protocol))
        self.transport: Any = factory.buildProtocol(None)
        assert isinstance(self.transport, DirectTLS)
        pair.transport.protocol = self.transport
        context = self_signed().options().getContext()
        context.set_max_proto_version(version)
        self.peer = SSL.Connection(context)
        self.peer.set_accept_state()
        self.transport.makeConnection(pair.transport)
        for _ in range(2):
            self.peer.bio_write(pair.peer.recv(65536))
            with suppress(SSL.WantReadError):
                self.peer.do_handshake()
            self.deliver()
        pair.sends.clear()

    def encrypted(self) -> bytes:
        """Return what the peer has to send."""
        return self.peer.bio_read(1 << 20)

    def deliver(self, data: bytes | None = None) -> None:
        """Deliver *data* to the transport, by default what the peer has to send."""
        self.pair.peer.sendall(self.encrypted() if data is None else data)
        self.pair.wait_for_event()
        self.pair.transport.doRead()

    def received(self, count: int) -> bytes:
        """Return *count* bytes that the peer receives, decrypted."""
        data = b""
        while len(data) < count:
            self.peer.bio_write(self.pair.peer.recv(65536))
            while True:
                try:
                    data += self.peer.recv(65536)
                except SSL.WantReadError:
                    break
        return data


@pytest.fixture(params=[SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
def tls(pair: SocketPair, request: pytest.FixtureRequest) -> Iterator[TLSPair]:
    tls = TLSPair(pair, request.param)
    yield tls
    if tls.protocol.reason is None:
        tls.transport.connectionLost(Failure(ConnectionDone()))


def test_write_is_sent_at_once(tls: TLSPair) -> None:
    tls.transport.write(REQUEST)
    assert len(tls.pair.sends) == 1
    assert not tls.pair.is_writing
    assert tls.received(len(REQUEST)) == REQUEST


def test_rest_of_write_is_buffered_in_order(tls: TLSPair) -> None:
    tls.pair.limits = [10]
    tls.transport.write(LARGE)
    tls.transport.write(REQUEST)
    assert tls.pair.sends == [10]
    assert unsent_bytes(tls.transport) > len(LARGE)
    tls.pair.write_all()
    size = len(LARGE) + len(REQUEST)
    assert tls.received(size) == LARGE + REQUEST
    assert unsent_bytes(tls.transport) == 0


def test_each_record_of_one_read_is_delivered(tls: TLSPair) -> None:
    tls.peer.send(b"one")
    tls.peer.send(b"two")
    tls.deliver()
    assert tls.protocol.reads == [b"one", b"two"]


def test_record_in_two_reads_is_delivered_when_complete(tls: TLSPair) -> None:
    tls.peer.send(REQUEST)
    data = tls.encrypted()
    for piece in (data[:3], data[3:10], data[10:-1]):
        tls.deliver(piece)
        assert tls.protocol.reads == []
    tls.deliver(data[-1:])
    assert tls.protocol.reads == [REQUEST]


def test_read_of_complete_records_ends_without_another_attempt(
    tls: TLSPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []
    read = SSL.Connection.recv

    def recv(connection: SSL.Connection, size: int) -> bytes:
        attempts.append(size)
        return read(connection, size)

    tls.peer.send(b"one")
    monkeypatch.setattr(SSL.Connection, "recv", recv)
    tls.deliver()
    assert tls.protocol.reads == [b"one"]
    assert len(attempts) == 1


def test_end_of_tls_after_data_closes_connection(tls: TLSPair) -> None:
    tls.peer.send(b"last")
    tls.peer.shutdown()
    tls.deliver()
    assert tls.protocol.reads == [b"last"]
    assert tls.pair.transport.disconnecting
    tls.pair.transport.connectionLost(Failure(ConnectionDone()))
    assert tls.protocol.reason is not None
    assert tls.protocol.reason.type is ConnectionDone


def test_end_of_tcp_without_end_of_tls_is_an_error(tls: TLSPair) -> None:
    tls.peer.send(b"cut")
    tls.deliver()
    tls.pair.transport.connectionLost(Failure(ConnectionDone()))
    assert tls.protocol.reads == [b"cut"]
    assert tls.protocol.reason is not None
    assert tls.protocol.reason.type is ConnectionLost


def test_invalid_record_is_an_error_of_openssl(tls: TLSPair) -> None:
    tls.peer.send(b"good")
    tls.deliver(tls.encrypted() + b"GET / HTTP/1.1\r\n\r\n")
    assert tls.protocol.reads == [b"good"]
    assert tls.pair.transport.disconnecting
    tls.pair.transport.connectionLost(Failure(ConnectionDone()))
    assert tls.protocol.reason is not None
    assert tls.protocol.reason.type is SSL.Error


def test_nothing_is_delivered_after_an_abort(tls: TLSPair) -> None:
    tls.protocol.aborts = True
    tls.peer.send(b"one")
    tls.peer.send(b"two")
    tls.deliver()
    assert tls.protocol.reads == [b"one"]


def test_installed_releases_are_supported() -> None:
    assert is_supported()
    assert TLSFactory.protocol is DirectTLS


def test_release_without_the_size_of_a_bio_is_not_supported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_transport, "_data_size", None)
    assert not is_supported()


@pytest.mark.parametrize("name", PRIVATE_NAMES + BIO_NAMES)
def test_release_without_a_private_name_is_not_supported(name: str) -> None:
    class Holder:
        """Has all names but one."""

        def __init__(self, context: object) -> None:
            for each in PRIVATE_NAMES + BIO_NAMES:
                if each != name:
                    setattr(self, each, None)

    def connection(context: object) -> Holder:
        return Holder(context)

    transport = Holder(None) if name in PRIVATE_NAMES else TLSMemoryBIOProtocol
    assert not is_supported(transport, connection)
