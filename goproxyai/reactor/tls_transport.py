"""A thin TLS layer between a transport and a protocol.

Twisted's layer delays small writes to the next iteration of the reactor, has the socket's transport
buffer them once more, and tries each read until an exception says that nothing is left. With it, a
forwarded request over TLS takes 1.8 times the CPU time of one without TLS. Here:

1. A write is encrypted and sent to the socket at once (:func:`.write_through`).
2. The plaintext of one read is delivered in one piece. It is at most one read of the transport
   below, 64 KiB, also where the protocol pauses meanwhile.
3. Certificates, SNI and ALPN are a matter of the OpenSSL connection, which the connection creators
   of Twisted's interfaces make.

What protocols see is as with Twisted's layer:

1. Data that is written before the end of the handshake waits for the end.
2. ``loseConnection`` sends ``close_notify`` after everything is written, and waits for that of the
   peer. The caller must have a deadline.
3. The peer's ``close_notify`` ends the connection in both directions with ``ConnectionDone``.
   An end of the transport without it is ``ConnectionLost``: the input may be cut short.
   What the peer has not taken by then is dropped, as TLS 1.2 asks (RFC 5246 §7.2.1): a peer that
   sends ``close_notify`` and reads nothing more must not keep the connection open. TLS 1.3 permits
   such a peer to read on (RFC 8446 §6.1), but a client that sends a FIN without TLS has left as
   well.
4. A failed handshake, and a record that is invalid, is the reason of ``connectionLost``: an
   OpenSSL error, or what verifies certificates has said.
5. There is no half-close.

``abortConnection`` sends no ``close_notify``: the peer must not take what it has for complete.

A peer can make OpenSSL send messages (answers to ``HelloRequest`` and ``KeyUpdate``). A peer that
does not read them is reset after :data:`MAX_REPLY_BYTES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final

from OpenSSL.SSL import TLS1_3_VERSION, Error
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ISystemHandle,
    ITransport,
)
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.reactor import tls_records
from goproxyai.reactor.private_names import missing_names
from goproxyai.reactor.receivers import receive_directly
from goproxyai.reactor.socket_state import TransportLayer
from goproxyai.reactor.socket_write import unsent_bytes, write_through
from goproxyai.reactor.tls_records import TLSRecords
from goproxyai.reactor.tls_sessions import TLSSessions

MAX_REPLY_BYTES: Final = 64 * 1024
"""Of TLS's own messages, which wait for a peer that does not read."""

MAX_PENDING_BYTES: Final = 64 * 1024
"""Written during the handshake, above which the producer is paused."""

_SLICE_BYTES: Final = 256 * 1024
"""Plaintext that is encrypted at once."""

FACTORY_NAMES: Final = ("_creatorCallable",)
"""Private attributes of Twisted's factory."""


class TLSState(Enum):
    """What a TLS connection can send."""

    HANDSHAKE = "nothing yet: written data waits"
    OPEN = "data"
    CLOSING = "nothing: close_notify is sent, and the peer's input is still delivered"
    ENDED = "nothing: TLS has ended, and the transport below is being closed"


HANDSHAKE, OPEN, CLOSING, ENDED = TLSState


@implementer(IProtocol, ITransport, ISystemHandle)
class TLSTransport(TransportLayer):
    """The protocol of *transport*, and the transport of the wrapped protocol.

    :param connect: makes the OpenSSL connection; is called with this object.
    :ivar factory: has made this object; ALPN asks it for protocols.
    :ivar transport: the transport below.
    :ivar wrappedProtocol: ``None`` after the end.
    :ivar disconnecting: ``loseConnection`` or ``abortConnection`` was called.
    """

    __slots__ = (
        "__weakref__", "_connect", "_pending", "_producer", "_reason", "_records", "_reply_bytes",
        "_session_ends_at", "_state", "connected", "disconnecting", "factory", "wrappedProtocol",
    )  # fmt: skip

    def __init__(
        self, factory: TLSFactory, connect: Callable[[TLSTransport], Any], protocol: IProtocol
    ) -> None:
        self.factory = factory
        self.wrappedProtocol: Any = protocol
        self.connected = False
        self.disconnecting = False
        self._connect = connect
        self._state = HANDSHAKE
        self._records: Any = None
        self._reason: Failure | None = None
        self._pending: list[bytes] = []
        self._producer: Any = None
        self._reply_bytes = 0
        self._session_ends_at: float | None = None

    # Called by the transport below.

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        receive_directly(transport, self)
        connection = self._connect(self)
        if self.factory.sessions is not None:
            self._session_ends_at = self.factory.sessions.offer(connection)
        self._records = TLSRecords(connection)
        self.connected = True
        self.wrappedProtocol.makeConnection(self)
        if self._state is HANDSHAKE:
            self._shake_hands(b"")

    def connectionMade(self) -> None:
        """Do nothing: :meth:`makeConnection` has begun."""

    def dataReceived(self, data: bytes) -> None:
        shakes_hands = self._state is HANDSHAKE
        if shakes_hands:
            if not self._shake_hands(data):
                return
            data = b""  # what follows the handshake
        if self._state is ENDED:
            return
        records = self._records
        plaintext = records.decrypt(data)
        if records.is_whole:
            self.wrappedProtocol.dataReceived(plaintext)
            return
        if records.has_message:
            self._keep_session()  # before the protocol may end the connection
        if plaintext:
            self.wrappedProtocol.dataReceived(plaintext)
        if self._state is ENDED:
            return
        if records.has_output:  # a write has sent it otherwise
            self._reply()
        if shakes_hands:
            records.release_handshake()
        if records.ended:
            self._end()
        elif records.error is not None:
            self._fail(Failure(records.error))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reason is not None:
            reason = self._reason
        elif self._state is not ENDED and reason.check(ConnectionDone) is not None:
            reason = Failure(CONNECTION_LOST)  # without close_notify
        self._state = ENDED
        self.connected = False
        protocol, self.wrappedProtocol = self.wrappedProtocol, None
        protocol.connectionLost(reason)
        self._reason = self._records = self._producer = None  # OpenSSL's objects refer to this one
        self._pending.clear()

    # The handshake, and the end.

    def _shake_hands(self, data: bytes) -> bool:
        """Go on with the handshake; return whether data can be received."""
        records = self._records
        try:
            complete = records.handshake(data)
        except Error as error:
            if self._session_ends_at is not None and self.factory.sessions is not None:
                self.factory.sessions.end()
            self._fail(Failure(error.with_traceback(None)))
            return False
        if not complete:
            self._reply()
            return False
        if self.factory.sessions is not None and not self._verify_session(self.factory.sessions):
            return False
        self._state = OPEN
        self._send_pending()
        protocol = self.wrappedProtocol
        if self._is_open() and IHandshakeListener.providedBy(protocol):
            protocol.handshakeCompleted()  # what it writes is sent with the end of the handshake
        return self._is_open()

    def _verify_session(self, sessions: TLSSessions) -> bool:
        """Verify the certificate again if a session was resumed; return whether it is accepted."""
        connection = self._records.connection
        if not self._records.is_resumed:
            self._session_ends_at = sessions.begin(connection)
            return True
        try:
            sessions.verify(connection)
        except Exception as error:
            sessions.end()
            self._fail(Failure(error.with_traceback(None)))
            return False
        return True

    def _keep_session(self) -> None:
        """Keep the session that the peer may have sent a ticket for; none of TLS 1.2."""
        sessions, connection = self.factory.sessions, self._records.connection
        if sessions is not None and self._session_ends_at is not None:
            if connection.get_protocol_version() == TLS1_3_VERSION:
                sessions.keep(connection.get_session(), self._session_ends_at)

    def _is_open(self) -> bool:
        return self._state is OPEN or self._state is CLOSING

    def _send_pending(self) -> None:
        """Send what was written during the handshake."""
        pending = b"".join(self._pending)
        self._pending.clear()
        if pending:
            self._send(pending)
        producer = self._producer
        if producer is not None and len(pending) > MAX_PENDING_BYTES:
            if not getattr(self.transport, "producerPaused", False):  # else it will resume
                producer.resumeProducing()
        if self.disconnecting and producer is None:
            self._close()

    def _close(self) -> None:
        """Send ``close_notify``."""
        if self._state is OPEN:
            self._state = CLOSING
            both = self._records.close()
            self._reply()
            if both:
                self._close_transport(Failure(CONNECTION_DONE))

    def _end(self) -> None:
        """Answer the peer's ``close_notify``, and close the transport below."""
        if self._state is not ENDED:
            if self._state is OPEN:
                self._records.close()
                self._reply()
            self._close_transport(Failure(CONNECTION_DONE))

    def _fail(self, reason: Failure) -> None:
        """Send the alert that OpenSSL has made, and close the transport below."""
        if self._state is not ENDED:
            self._reply()
            self._close_transport(reason)

    def _close_transport(self, reason: Failure) -> None:
        """Close the transport below, without waiting for a peer that does not read."""
        self._state = ENDED
        if self._reason is None:
            self._reason = reason
        if unsent_bytes(self.transport):
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def failVerification(self, reason: Failure) -> None:
        """Let the handshake fail for *reason*: OpenSSL is about to report an error."""
        self._reason = reason

    def _reply(self) -> None:
        """Send what OpenSSL has to say."""
        records = self._records.output()
        if not records:
            return
        waiting = self._reply_bytes if unsent_bytes(self.transport) else 0
        self._reply_bytes = waiting + len(records)
        if self._reply_bytes > MAX_REPLY_BYTES:
            self.abortConnection()
        else:
            write_through(self.transport, records)

    # Called by the wrapped protocol.

    @property
    def pending_bytes(self) -> int:
        """The bytes that wait for the end of the handshake."""
        return sum(map(len, self._pending))

    @property
    def producerPaused(self) -> bool:
        """Whether the transport below has paused the producer."""
        return getattr(self.transport, "producerPaused", False)

    def write(self, data: bytes) -> None:
        if not data or (self.disconnecting and self._producer is None):
            return
        if self._state is OPEN:
            self._send(data)
        elif self._state is HANDSHAKE:
            self._pending.append(data)
            if self._producer is not None and self.pending_bytes > MAX_PENDING_BYTES:
                self._producer.pauseProducing()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def _send(self, data: bytes) -> None:
        try:
            if len(data) <= _SLICE_BYTES:
                write_through(self.transport, self._records.encrypt(data))
                return
            for start in range(0, len(data), _SLICE_BYTES):
                part = data[start : start + _SLICE_BYTES]
                write_through(self.transport, self._records.encrypt(part))
        except Error as error:
            self._fail(Failure(error.with_traceback(None)))

    def loseConnection(self) -> None:
        """Close the connection after everything is written."""
        if self.disconnecting or not self.connected:
            return
        if self._state is HANDSHAKE and not self._pending:
            self.abortConnection()
        self.disconnecting = True
        if self._state is OPEN and self._producer is None:
            self._close()

    def abortConnection(self) -> None:
        """Reset the connection, without ``close_notify``."""
        self.disconnecting = True
        self._state = ENDED
        self._pending.clear()
        self.transport.abortConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._state is ENDED:
            producer.stopProducing()
            return
        self.transport.registerProducer(producer, streaming)
        self._producer = producer

    def unregisterProducer(self) -> None:
        if self._producer is not None:
            self._producer = None
            self.transport.unregisterProducer()
            if self.disconnecting:
                self._close()

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> Any:
        return self.transport.getPeer()

    def getHost(self) -> Any:
        return self.transport.getHost()

    # What TLS has agreed on.

    def getHandle(self) -> Any:
        """Return the OpenSSL connection; ``None`` after the end."""
        return None if self._records is None else self._records.connection

    def getPeerCertificate(self) -> Any:
        """Return the certificate of the peer; ``None`` without one, and after the end."""
        return None if self._records is None else self._records.connection.get_peer_certificate()

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """What ALPN has agreed on."""
        if self._records is None:
            return None
        return self._records.connection.get_alpn_proto_negotiated() or None


class TLSFactory(TLSMemoryBIOFactory):
    """Adds TLS to the connections of a factory.

    The parameters are those of the factory in Twisted, which makes the OpenSSL connections. Where
    pyOpenSSL or Twisted lack a private name, the layer is Twisted's own.

    :ivar sessions: of the route of a client; ``None`` where no session is resumed.
    """

    noisy = False
    sessions: TLSSessions | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if tls_records.MISSING or missing_names(self, *FACTORY_NAMES):
            return super().buildProtocol(addr)
        protocol = self.wrappedFactory.buildProtocol(addr)
        creator: Any = self._creatorCallable
        return None if protocol is None else TLSTransport(self, creator, protocol)


@implementer(IStreamClientEndpoint)
class TLSClientEndpoint:
    """Connects through *endpoint* and adds TLS, as Twisted's ``wrapClientTLS`` does.

    :param creator: an ``IOpenSSLClientConnectionCreator``. Later connections resume the sessions of
        earlier ones if it is a :class:`.SessionVerifier`, too.
    """

    def __init__(self, creator: Any, endpoint: Any) -> None:
        self._creator = creator
        self._endpoint = endpoint
        self._sessions = TLSSessions(creator) if hasattr(creator, "verify_resumed") else None

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Return the protocol that *factory* makes, once TCP is connected."""
        outer = TLSFactory(self._creator, True, factory)
        outer.sessions = self._sessions
        connecting: Deferred[Any] = self._endpoint.connect(outer)
        return connecting.addCallback(lambda tls: tls.wrappedProtocol)
