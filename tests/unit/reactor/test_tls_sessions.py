"""Resumption of TLS sessions by the layer, against pyOpenSSL as the server."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions

from goproxyai.reactor.tls_sessions import MAX_SESSION_SECONDS, MAX_SESSIONS, TLSSessions
from goproxyai.reactor.tls_transport import TLSFactory, TLSTransport
from tests.support.memory_transport import MemoryTransport
from tests.unit.reactor.tls_peers import Peer, Recorder, client_tls, server_options


def server_context(name: str = "localhost", version: int = SSL.TLS1_3_VERSION) -> SSL.Context:
    """The context of a server that issues tickets."""
    options = server_options(name)
    with_tickets = CertificateOptions(
        privateKey=options.privateKey,
        certificate=options.certificate,
        extraCertChain=options.extraCertChain,
        enableSessionTickets=True,
    )
    context = with_tickets.getContext()
    context.set_max_proto_version(version)
    context.set_alpn_select_callback(lambda _, offered: offered[0])
    return context


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Route:
    """Connections of one route to one server.

    :ivar context: of the server. :ivar sessions: of the route.
    """

    def __init__(self, context: SSL.Context | None = None, creator: Any = None) -> None:
        self.context = context or server_context()
        self.creator = creator or client_tls()
        self.clock = Clock()
        self.sessions = TLSSessions(self.creator, self.clock)

    def connect(self) -> Connection:
        return Connection(self).pump()


class Connection:
    """One connection; ``tls`` is the layer, ``peer`` the server."""

    def __init__(self, route: Route) -> None:
        self.protocol = Recorder()
        self.below = MemoryTransport()
        self.peer = Peer(route.context, is_server=True)
        factory = TLSFactory(route.creator, True, Factory.forProtocol(lambda: self.protocol))
        factory.sessions = route.sessions
        self.tls: TLSTransport = factory.buildProtocol(None)
        self.tls.makeConnection(self.below)

    def pump(self) -> Connection:
        while True:
            sent = self.below.value()
            self.below.clear()
            if sent:
                self.peer.feed(sent)
            answer = self.peer.output()
            if answer and self.protocol.reason is None:
                self.tls.dataReceived(answer)
            if not sent and not answer:
                return self

    @property
    def resumed(self) -> bool:
        """Whether the server has resumed a session."""
        return bool(SSL._lib.SSL_session_reused(self.peer.connection._ssl))  # type: ignore[attr-defined]


def test_second_connection_resumes_the_session_of_the_first() -> None:
    route = Route()
    first, second = route.connect(), route.connect()
    assert (first.resumed, second.resumed) == (False, True)
    assert second.protocol.handshakes == 1
    second.tls.write(b"request")
    assert second.pump().peer.received == b"request"


def test_resumed_connection_has_the_certificate_of_the_server() -> None:
    route = Route()
    first, second = route.connect(), route.connect()
    assert second.resumed
    certificates = [each.tls.getPeerCertificate().to_cryptography() for each in (first, second)]
    assert certificates[0] == certificates[1]


def test_session_is_used_once() -> None:
    route = Route()
    route.connect()
    kept = len(route.sessions)
    Connection(route)
    assert len(route.sessions) == kept - 1


def test_session_is_not_kept_again_at_the_end_of_its_connection() -> None:
    route = Route()
    first = route.connect()
    assert route.connect().resumed
    kept = len(route.sessions)
    first.tls.dataReceived(first.peer.close())
    assert len(route.sessions) == kept


def test_session_is_kept_if_the_end_arrives_with_it() -> None:
    route = Route()
    connection = Connection(route)
    connection.peer.feed(connection.below.value())
    connection.below.clear()
    connection.tls.dataReceived(connection.peer.output())
    connection.peer.feed(connection.below.value())
    connection.tls.dataReceived(connection.peer.records(b"data") + connection.peer.close())
    assert connection.protocol.received == [b"data"]
    assert route.connect().resumed


def test_resumed_session_of_another_host_is_refused() -> None:
    route = Route(server_context("other.example"), client_tls("other.example"))
    route.connect()
    route.creator._identity = DNS_ID("localhost")
    connection = route.connect()
    assert connection.resumed
    assert connection.protocol.handshakes == 0
    connection.tls.connectionLost()
    assert isinstance(connection.protocol.error, VerificationError)


def test_nothing_is_sent_on_a_resumed_connection_that_is_refused() -> None:
    route = Route(server_context("other.example"), client_tls("other.example"))
    route.connect()
    route.creator._identity = DNS_ID("localhost")
    connection = Connection(route)
    connection.tls.write(b"secret")
    assert connection.pump().peer.received == b""
    assert connection.below.disconnecting


def test_refused_session_ends_resumption() -> None:
    route = Route()
    route.connect()

    class Refusing:
        def verify_resumed(self, connection: object) -> None:
            raise CertificateError("revoked")

        def valid_seconds(self, connection: object) -> float:
            return 60.0

    route.sessions._verifier = Refusing()
    route.connect()
    assert not route.connect().resumed
    assert len(route.sessions) == 0


def test_failed_handshake_with_a_session_ends_resumption() -> None:
    route = Route()
    route.connect()
    connection = Connection(route)
    connection.tls.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert len(route.sessions) == 0
    assert not route.connect().resumed


def test_failed_handshake_without_a_session_does_not_end_resumption() -> None:
    route = Route()
    Connection(route).tls.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    route.connect()
    assert route.connect().resumed


def test_session_that_the_server_does_not_know_leads_to_a_full_handshake() -> None:
    route = Route()
    route.connect()
    route.context = server_context()  # with other keys for its tickets
    connection = route.connect()
    assert (connection.resumed, connection.protocol.handshakes) == (False, 1)


def test_session_of_a_server_that_has_become_another_host_is_not_accepted() -> None:
    route = Route()
    route.connect()
    route.context = server_context("other.example")
    connection = route.connect()
    assert connection.protocol.handshakes == 0
    connection.tls.connectionLost()
    assert isinstance(connection.protocol.error, VerificationError)


def test_sessions_end_with_the_age_of_the_full_handshake() -> None:
    route = Route()
    route.connect()
    route.clock.now += MAX_SESSION_SECONDS - 1
    assert route.connect().resumed  # brings new sessions, of the same full handshake
    route.clock.now += 1
    assert not route.connect().resumed
    assert route.connect().resumed


def test_sessions_end_with_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    route = Route()
    monkeypatch.setattr(route.creator, "valid_seconds", lambda _: 5.0)
    route.connect()
    route.clock.now += 5
    assert not route.connect().resumed


def test_number_of_sessions_is_bounded() -> None:
    route = Route()
    connections = [Connection(route) for _ in range(MAX_SESSIONS + 2)]
    for connection in connections:
        connection.pump()
    assert len(route.sessions) == MAX_SESSIONS


def test_tls_1_2_is_not_resumed() -> None:
    route = Route(server_context(version=SSL.TLS1_2_VERSION))
    route.connect()
    assert len(route.sessions) == 0
    assert not route.connect().resumed
