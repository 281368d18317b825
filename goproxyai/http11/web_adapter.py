"""Serve an exchange by a ``twisted.web`` resource, and so by Klein.

A ``twisted.web`` request costs 45 µs, which the admin endpoints can afford; relayed requests do not
use this module. The request body is read completely, up to :data:`MAX_BODY_BYTES`.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers as WebHeaders
from twisted.web.server import Request, Site

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.messages.headers import Headers, serialize_headers

MAX_BODY_BYTES = 64 * 1024
"""Of a request to an admin endpoint."""

_FRAMING_FIELDS = (b"transfer-encoding", b"connection")


class AdminRequest(Request):
    """A ``twisted.web`` request for an :class:`.exchange.Exchange`.

    :ivar problem_code: of the error that a resource responds with, for the log.
    """

    defaultContentType = None
    problem_code = ""

    def __init__(self, channel: ExchangeChannel) -> None:
        super().__init__(channel, parsePOSTFormSubmission=False)
        self.exchange = channel.exchange


class ExchangeChannel:
    """What ``twisted.web.server.Request`` needs of its channel, over one exchange.

    :param done: called once at the end, with how the exchange ended (``ok``, ``client_gone`` or
        ``cut``) and with the code of the error that was the response.
    """

    factory = None

    def __init__(self, exchange: Exchange, site: Site, done: Callable[[str, str], None]) -> None:
        self.exchange = exchange
        self.site = site
        self.transport = self
        self._done = done
        self._request: AdminRequest | None = None

    def serve(self) -> None:
        """Read the body, then render the resource for the target of the exchange."""
        self.exchange.listener = self
        self.exchange.body.collect(MAX_BODY_BYTES, self._render)

    def _render(self, body: bytes | None) -> None:
        exchange = self.exchange
        if body is None:
            self.request_failed(
                ProxyError(
                    "request_too_large",
                    "The request body exceeds 64 KiB, the limit of this endpoint; send less.",
                )
            )
            return
        request = self._request = AdminRequest(self)
        for name, value in exchange.headers:
            if name.lower() != b"host":  # Klein resolves Host, and fails for unusual names
                request.requestHeaders.addRawHeader(name, value)
        request.gotLength(len(body))
        request.handleContentChunk(body)
        # As HTTP/1.0, so that twisted.web leaves the framing of the response to the exchange.
        request.requestReceived(exchange.method, exchange.target, b"HTTP/1.0")

    # ExchangeListener

    def client_gone(self) -> None:
        if self._request is not None:
            self._request.connectionLost(Failure(ConnectionLost()))
        self._done("client_gone", "")

    def request_failed(self, problem: ProxyError) -> None:
        exchange = self.exchange
        if exchange.response_started:
            exchange.abort()
            self._done("cut", problem.code)
            return
        body = problem.body()
        fields = [(b"Content-Type", b"application/json"), (b"X-Proxy", b"goproxyai")]
        head = serialize_headers(fields + self._request_id_field())
        status_line = b"HTTP/1.1 %d Refused\r\n" % problem.status
        exchange.start_response(problem.status, status_line + head, len(body), close=True)
        exchange.write(body, last=True)
        self._done("ok", problem.code)

    # Called by twisted.web.server.Request

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: WebHeaders) -> None:
        length = None
        fields = []
        for name, values in headers.getAllRawHeaders():
            if name.lower() == b"content-length":
                length = int(values[0])
            elif name.lower() not in _FRAMING_FIELDS:
                fields += [(name, value) for value in values]
        status = int(code)
        head = serialize_headers(fields + self._request_id_field())
        status_line = b"HTTP/1.1 %d %b\r\n" % (status, reason)
        self.exchange.start_response(status, status_line + head, length)

    def _request_id_field(self) -> Headers:
        request_id = self.exchange.request_id
        return [(b"X-Request-Id", request_id)] if request_id else []

    def write(self, data: bytes) -> None:
        self.exchange.write(data)

    def writeSequence(self, pieces: list[bytes]) -> None:
        self.exchange.write(b"".join(pieces))

    def requestDone(self, request: Request) -> None:
        if not self.exchange.over:
            self.exchange.finish()
            self._done("ok", getattr(request, "problem_code", ""))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        if not streaming:
            raise NotImplementedError("pull producers are not supported; register a push producer")
        self.exchange.register_producer(producer)

    def unregisterProducer(self) -> None:
        self.exchange.unregister_producer()

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", self.exchange.connection.peer, 0)

    def getHost(self) -> IPv4Address:
        """Return a placeholder; no resource depends on the address of the listener."""
        return IPv4Address("TCP", "127.0.0.1", 80)

    def isSecure(self) -> bool:
        """Return a placeholder; no resource depends on TLS."""
        return False

    def loseConnection(self) -> None:
        """Close the connection after the response."""
        self.exchange.keep_alive = False

    def abortConnection(self) -> None:
        self.exchange.abort()
