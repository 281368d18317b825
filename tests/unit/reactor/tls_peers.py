"""A TLS layer over a transport in memory, and a peer that is an OpenSSL connection."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, CertificateOptions
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.egress.tls import ClientTLS
from goproxyai.reactor.tls_transport import TLSFactory, TLSTransport
from tests.support.authority import Identity
from tests.support.memory_transport import MemoryTransport

MAX_READ_BYTES = 64 * 1024
"""Of one read of a socket."""


@cache
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


def server_options(name: str = "localhost") -> CertificateOptions:
    """The TLS of a server that has a certificate for *name*."""
    issued = authority().issue_cert(name, key_type=trustme.KeyType.ECDSA)
    return Identity(issued.private_key_and_cert_chain_pem.bytes()).options()


def client_tls(name: str = "localhost") -> ClientTLS:
    """The TLS of a client that trusts the authority."""
    return ClientTLS(name, Certificate.loadPEM(authority().cert_pem.bytes()))


@implementer(IHandshakeListener)
class Recorder(Protocol):
    """Records what the TLS layer reports.

    :ivar received: the plaintext of each call.
    :ivar on_handshake: called when the handshake is complete. :ivar on_data: called with plaintext.
    :ivar on_start: called with the transport.
    :ivar reason: why the connection was lost, or ``None``.
    """

    transport: Any

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.handshakes = 0
        self.reason: Failure | None = None
        self.on_start: Callable[[], object] = lambda: None
        self.on_handshake: Callable[[], object] = lambda: None
        self.on_data: Callable[[bytes], object] = lambda _: None

    def connectionMade(self) -> None:
        self.on_start()

    def handshakeCompleted(self) -> None:
        self.handshakes += 1
        self.on_handshake()

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)
        self.on_data(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.reason = reason

    @property
    def error(self) -> BaseException | None:
        return None if self.reason is None else self.reason.value


class Peer:
    """The other end: OpenSSL by pyOpenSSL's public methods.

    :ivar received: the plaintext.
    :ivar ended: why nothing more can be read: ``None``, or the exception.
    """

    def __init__(self, context: SSL.Context, is_server: bool) -> None:
        self.connection = SSL.Connection(context)
        if is_server:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
            self.connection.set_tlsext_host_name(b"localhost")
        self.received = b""
        self.ended: SSL.Error | None = None
        self.shakes_hands = True

    def feed(self, records: bytes) -> None:
        if records:
            self.connection.bio_write(records)
        try:
            if self.shakes_hands:
                self.connection.do_handshake()
                self.shakes_hands = False
            while True:
                self.received += self.connection.recv(65536)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.ended = error

    def output(self) -> bytes:
        records = b""
        try:
            while True:
                records += self.connection.bio_read(65536)
        except SSL.WantReadError:
            return records

    def records(self, *plaintexts: bytes) -> bytes:
        """Return a record of each of *plaintexts*."""
        for plaintext in plaintexts:
            self.connection.send(plaintext)
        return self.output()

    def close(self) -> bytes:
        """Return a ``close_notify``."""
        self.connection.shutdown()
        return self.output()


class ForgedRecords:
    """Records of a server that OpenSSL would not make (RFC 8446 sections 5 and 7).

    :param secret: of the server's traffic, with TLS_AES_256_GCM_SHA384.
    """

    HANDSHAKE, APPLICATION_DATA = 22, 23
    KEY_UPDATE = bytes.fromhex("18 000001 01")
    """Asks the client to update its keys too."""

    TICKETS = 2
    """Records that the server has sent after its handshake."""

    def __init__(self, secret: bytes) -> None:
        self._use(secret)
        self._number = self.TICKETS

    def _use(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._cipher = AESGCM(_expand(secret, b"key", 32))
        self._nonce = int.from_bytes(_expand(secret, b"iv", 12))

    def record(self, kind: int, content: bytes) -> bytes:
        header = struct.pack("!BHH", 23, 0x0303, len(content) + 17)
        nonce = (self._nonce ^ self._number).to_bytes(12)
        self._number += 1
        return header + self._cipher.encrypt(nonce, content + bytes([kind]), header)

    def key_update(self) -> bytes:
        """Return a request to update the keys; later records have new keys."""
        record = self.record(self.HANDSHAKE, self.KEY_UPDATE)
        self._use(_expand(self._secret, b"traffic upd", 48))
        return record


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    info = struct.pack("!HB", length, len(label) + 6) + b"tls13 " + label + b"\0"
    return HKDFExpand(SHA384(), length, info).derive(secret)


class TLSRig:
    """A protocol, its TLS layer, the transport below, and the peer.

    :param server: the layer's side is that of the server.
    :param version: of TLS, the only one that the peer speaks.
    :ivar tls: the layer. :ivar below: its transport.
    """

    def __init__(
        self,
        server: bool = False,
        version: int = SSL.TLS1_3_VERSION,
        tls: Any = None,
    ) -> None:
        self.below = MemoryTransport()
        self.protocol = Recorder()
        if server:
            creator = tls or server_options()
            context = CertificateOptions().getContext()
        else:
            creator = tls or client_tls()
            context = server_options().getContext()
            context.set_alpn_select_callback(lambda _, offered: offered[0])
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        self.secrets: dict[str, bytes] = {}
        context.set_keylog_callback(self._keep_secret)
        self.peer = Peer(context, is_server=not server)
        factory = TLSFactory(creator, not server, Factory.forProtocol(lambda: self.protocol))
        self.tls: TLSTransport = factory.buildProtocol(None)
        assert type(self.tls) is TLSTransport

    def _keep_secret(self, _: object, line: bytes) -> None:
        name, _random, secret = line.decode("ascii").split()
        self.secrets[name] = bytes.fromhex(secret)

    def start(self) -> TLSRig:
        """Connect, and complete the handshake."""
        self.connect()
        self.pump()
        assert self.protocol.handshakes == 1
        return self

    def connect(self) -> None:
        """Begin the handshake."""
        self.tls.makeConnection(self.below)

    def sent(self) -> bytes:
        """Return and forget what the layer has sent."""
        records: bytes = self.below.value()
        self.below.clear()
        return records

    def pump(self) -> None:
        """Exchange records until there are none."""
        if self.peer.shakes_hands:
            self.peer.feed(b"")
        while True:
            down, up = self.sent(), self.peer.output()
            if not down and not up:
                return
            if down:
                self.peer.feed(down)
            self.receive(up)

    def receive(self, records: bytes) -> None:
        """Let the layer receive *records*, as a socket does; nothing after the end."""
        for start in range(0, len(records), MAX_READ_BYTES):
            if self.protocol.reason is None:
                self.tls.dataReceived(records[start : start + MAX_READ_BYTES])

    def lose(self, error: BaseException) -> None:
        """Let the transport below be lost."""
        self.tls.connectionLost(Failure(error))
