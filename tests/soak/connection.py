"""A client connection, and the end of each request on it.

A call ends once: answered completely, cut, lost, or left by the client. This module judges nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
import httptools
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.reactor.socket_state import (
    can_half_close,
    is_reset,
    peer_closed,
    report_half_close,
)
from goproxyai.reactor.socket_write import unsent_bytes
from tests.soak.answers import Info

SWITCHED = 101
"""The status of a call that becomes a tunnel."""


@attrs.define(eq=False)
class Call:
    """One request and how it ended.

    :ivar number: identifies the request: in ``X-Forwarded-For`` for the daemon's log, and in
        ``X-Request-Id`` for the upstream.
    :ivar kind: of the client.
    :ivar identity: that the answer must have; empty if the request must not reach the upstream.
    :ivar min_version: that the answer must have.
    :ivar end: ``answered``, ``cut``, ``lost`` or ``left``; empty while the call is active.
    :ivar logged: whether the daemon must have logged the request even if it was not answered.
    :ivar outcome: of :mod:`.faults`, set by the audit.
    :ivar first_in_pipeline: the call whose end ended this one as well, if any.
    :ivar info: of the upstream's answer, set by the audit if the answer is correct.
    """

    number: int
    kind: str
    method: str
    target: str
    identity: str
    sent_at: float
    min_version: int = 0
    end: str = ""
    done_at: float = 0.0
    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    size: int = 0
    parse_error: str = ""
    logged: bool = False
    outcome: str = ""
    info: Info | None = None
    first_in_pipeline: Call | None = attrs.field(default=None, repr=False)
    done: Deferred[Call] = attrs.field(factory=Deferred, repr=False)


@attrs.frozen
class Door:
    """Where a daemon listens.

    :ivar tls_port: of its endpoint with TLS; 0 where it has none.
    :ivar trust_root: of the certificate there.
    """

    port: int
    tls_port: int = 0
    trust_root: Any = None


@implementer(IHandshakeListener)
class LoadConnection(Protocol):
    """A connection to the daemon, or to nginx instead.

    :ivar reusable: whether a further request may be sent (RFC 9112 §9.6).
    :ivar received: bytes of answers so far.
    :ivar disconnected: fires when the connection is closed.
    :ivar secured: fires when TLS is set up, or when the connection is closed before.
    :ivar is_tunnel: whether the active call was answered with status 101.
    :ivar expects_end: the call is answered if the daemon ends the tunnel first.
    """

    transport: Any

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._calls: deque[Call] = deque()
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._left = False
        self.closed = False
        self.reusable = True
        self.received = 0
        self.is_tunnel = False
        self._finishes = self.expects_end = False
        self.disconnected: Deferred[None] = Deferred()
        self.secured: Deferred[None] = Deferred()

    # What a client calls.

    def send(self, call: Call, data: bytes) -> Deferred[Call]:
        """Send *data*, the request of *call* or the beginning of it."""
        self._calls.append(call)
        if self.closed:
            self._end_all("lost")
        else:
            self.transport.write(data)
        return call.done

    def send_more(self, data: bytes) -> None:
        """Send more of a request."""
        if not self.closed:
            self.transport.write(data)

    def tunnelled(self) -> bytes:
        """Everything that was received in the tunnel."""
        return b"".join(self._pieces)

    def finish_tunnel(self) -> None:
        """Send a FIN, or ``close_notify``; the call is answered if the daemon ends as well."""
        self._finishes = True
        if not self.closed:
            finish(self.transport)

    def close(self, orderly: bool = False) -> None:
        """Close the connection, or reset it unless *orderly*; active calls end as ``left``."""
        self._left = True
        if not self.closed:
            if orderly:
                self.transport.loseConnection()
            else:
                self.transport.abortConnection()
        self._end_all("left")

    @property
    def flushed(self) -> bool:
        """Whether the kernel has all sent data."""
        return self.closed or not unsent_bytes(self.transport)

    @property
    def ended_by_daemon(self) -> bool:
        """Whether the daemon has ended the connection, which need not be read."""
        return self.closed or peer_closed(self.transport) or is_reset(self.transport)

    def set_reading(self, reading: bool) -> None:
        if not self.closed:
            if reading:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    # What Twisted calls.

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def handshakeCompleted(self) -> None:
        self.secured.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        if self.is_tunnel:
            self._pieces.append(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.is_tunnel, self.reusable = True, False
            self._pieces = [data[upgrade.args[0] :]]
        except httptools.HttpParserError as error:
            for call in list(self._calls)[:1]:
                call.parse_error = f"{error}: {data[:80]!r}"
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed, self.reusable = True, False
        is_done = (self._finishes or self.expects_end) and reason.check(ConnectionDone) is not None
        if is_done and self._calls:
            call = self._calls.popleft()
            call.size = len(self.tunnelled())
            self._end(call, "answered")
        self._end_all("left" if self._left else "lost")
        del self._parser
        if not self.secured.called:
            self.secured.callback(None)
        self.disconnected.callback(None)

    def _end_all(self, end: str) -> None:
        calls, self._calls = self._calls, deque()
        for call in calls:
            call.first_in_pipeline = calls[0] if call is not calls[0] else None
            if call.status and end == "lost":
                call.size = sum(map(len, self._pieces))
                self._end(call, "cut")
            else:
                self._end(call, end)

    def _end(self, call: Call, end: str) -> None:
        call.end = end
        call.done_at = self._clock.seconds()
        call.done.callback(call)

    # What llhttp calls.

    def on_message_begin(self) -> None:
        self._pieces = []
        if not self._calls:
            raise ValueError("an answer without a request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._calls:
            self._calls[0].headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 or status == SWITCHED:
            self._calls[0].status = status
        else:
            self._calls[0].headers.clear()

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._calls and self._calls[0].status not in (0, SWITCHED) and not self._left:
            call = self._calls.popleft()
            if call.headers.get("connection", "").lower() == "close":
                self.reusable = False
            call.body = b"".join(self._pieces)
            call.size = len(call.body)
            self._end(call, "answered")


class TunnelConnection(LoadConnection):
    """A connection for a tunnel, which remains open after the daemon's FIN.

    :ivar input_ended: the daemon has sent a FIN.
    """

    input_ended = False

    def connectionMade(self) -> None:
        super().connectionMade()
        report_half_close(self.transport, self)

    def readConnectionLost(self) -> None:
        self.input_ended = True
        if self._finishes or not (self.is_tunnel and self.expects_end):
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: the FIN is sent."""

    def finish_tunnel(self) -> None:
        super().finish_tunnel()
        if self.input_ended and not self.closed:
            self.transport.loseConnection()


def finish(transport: Any) -> None:
    """Send a FIN; with TLS ``close_notify``, which leaves TCP open until the peer answers."""
    if can_half_close(transport):
        transport.loseWriteConnection()
    else:
        transport.loseConnection()


async def connect(
    reactor: Any, door: Door, kind: type[LoadConnection] = LoadConnection, tls: bool = False
) -> LoadConnection | None:
    """A new connection; ``None`` if it is refused or times out."""
    port = door.tls_port if tls else door.port
    endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", port, timeout=5)
    if tls:
        endpoint = wrapClientTLS(optionsForClientTLS("localhost", door.trust_root), endpoint)
    try:
        connection: LoadConnection = await connectProtocol(endpoint, kind(reactor))
    except Exception:  # refused, or the backlog is full
        return None
    if tls:
        await connection.secured
        return None if connection.closed else connection
    return connection
