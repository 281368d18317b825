"""An exchange dressed up for ``twisted.web`` resources, and so for Klein.

System endpoints can afford a full ``twisted.web`` request (45 µs); what is relayed never comes
here. The body is read whole first, up to :data:`MOST_BODY` bytes; answers are small.
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

MOST_BODY = 64 * 1024
"""Bytes of body that a system endpoint takes."""

_FRAMING = (b"transfer-encoding", b"connection")


class AdminRequest(Request):
    """A ``twisted.web`` request that belongs to an :class:`.exchange.Exchange`.

    :ivar exchange: what it came from.
    :ivar problem_code: of the error that is answered, for the log.
    """

    defaultContentType = None
    problem_code = ""

    def __init__(self, channel: ExchangeChannel) -> None:
        super().__init__(channel, parsePOSTFormSubmission=False)
        self.exchange = channel.exchange


class ExchangeChannel:
    """What ``twisted.web.server.Request`` asks of its channel, over one exchange.

    :param over: called once at the end, with how it ended and the error's code.
    """

    factory = None

    def __init__(self, exchange: Exchange, site: Site, over: Callable[[str, str], None]) -> None:
        self.exchange = exchange
        self.site = site
        self._over = over
        self.transport = self
        self._request: AdminRequest | None = None

    def serve(self) -> None:
        """Read the body, then render the resource at the exchange's target."""
        self.exchange.listener = self
        self.exchange.body.collect(MOST_BODY, self._serve)

    def _serve(self, body: bytes | None) -> None:
        exchange = self.exchange
        if body is None:
            self.request_failed(
                ProxyError("request_too_large", "This endpoint takes 64 KiB of body at the most.")
            )
            return
        request = self._request = AdminRequest(self)
        for name, value in exchange.headers:
            if name.lower() != b"host":  # Klein would resolve it, and stumble over odd names
                request.requestHeaders.addRawHeader(name, value)
        request.gotLength(len(body))
        request.handleContentChunk(body)
        # The request believes in HTTP/1.0 so that it leaves the framing of its answer to us.
        request.requestReceived(exchange.method, exchange.target, b"HTTP/1.0")

    # The exchange's side: Listener.

    def client_gone(self) -> None:
        """The client left: let the resource know."""
        if self._request is not None:
            self._request.connectionLost(Failure(ConnectionLost()))
        self._over("client_gone", "")

    def request_failed(self, problem: ProxyError) -> None:
        """The body was too large, too slow or malformed."""
        exchange = self.exchange
        if exchange.answering:
            exchange.abort()
            self._over("cut", problem.code)
            return
        body = problem.body()
        fields = [(b"Content-Type", b"application/json"), (b"X-Proxy", b"goproxyai")]
        head = serialize_headers(fields + self._named())
        status_line = b"HTTP/1.1 %d Refused\r\n" % problem.status
        exchange.begin(problem.status, status_line + head, len(body), close=True)
        exchange.write(body, last=True)
        self._over("ok", problem.code)

    # The request's side.

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: WebHeaders) -> None:
        """Start the answer; its framing is the exchange's to decide."""
        length = None
        kept = []
        for name, values in headers.getAllRawHeaders():
            if name.lower() == b"content-length":
                length = int(values[0])
            elif name.lower() not in _FRAMING:
                kept += [(name, value) for value in values]
        status = int(code)
        head = serialize_headers(kept + self._named())
        self.exchange.begin(status, b"HTTP/1.1 %d %b\r\n%b" % (status, reason, head), length)

    def _named(self) -> Headers:
        name = self.exchange.name
        return [(b"X-Request-Id", name)] if name else []

    def write(self, data: bytes) -> None:
        """More of the answer's body."""
        self.exchange.write(data)

    def writeSequence(self, pieces: list[bytes]) -> None:
        """The same, in pieces."""
        self.exchange.write(b"".join(pieces))

    def requestDone(self, request: Request) -> None:
        """The resource is done."""
        if not self.exchange.over:
            self.exchange.finish()
            self._over("ok", getattr(request, "problem_code", ""))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """A resource that streams its answer is paused while the client does not read."""
        if not streaming:
            raise NotImplementedError("pull producers are not served here")
        self.exchange.source(producer)

    def unregisterProducer(self) -> None:
        """It is done."""
        self.exchange.source(None)

    def getPeer(self) -> IPv4Address:
        """The connection's peer, as an address object."""
        return IPv4Address("TCP", self.exchange.peer, 0)

    def getHost(self) -> IPv4Address:
        """Our own address; resources do not depend on it."""
        return IPv4Address("TCP", "127.0.0.1", 80)

    def isSecure(self) -> bool:
        """Whether TLS ends here; resources do not depend on it."""
        return False

    def loseConnection(self) -> None:
        """End the connection with this answer."""
        self.exchange.keep = False

    def abortConnection(self) -> None:
        """Break it off."""
        self.exchange.abort()
