"""Our reading of requests, against h11's: what is a request, and where does it end?

1. However the bytes are cut into reads, ours sees the same requests.
2. Whatever ours serves, h11 sees too: the same method, target, header and body, up to the same
   byte. What h11 refuses, or takes for the body of another, ours never serves: that would be
   smuggling.
3. Ours may refuse what h11 serves. It is the stricter one: bare line feeds, folded lines, both
   framings at once.
"""

from __future__ import annotations

import re

import attrs
import h11
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.messages.headers import Headers
from goproxyai.reactor.deadlines import Ticker

MOST_BODY = 1 << 20
_NO_CONTENT = b"HTTP/1.1 204 No Content\r\n"
_SPACED = re.compile(rb"\A([A-Z-]+) +([\x21-\x7e]+) +(?=HTTP/)")
"""A request line that RFC 9112 §3 lets us read at its spaces, as llhttp does and h11 does not."""


@attrs.frozen
class Request:
    """A complete request, and the byte behind it."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    end: int = attrs.field(eq=False)


class Line(StringTransport):
    """A client's socket; it may be broken off, and half closed."""

    aborted = False
    half_closed = False

    def abortConnection(self) -> None:
        self.aborted = True

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    @property
    def open(self) -> bool:
        return not (self.aborted or self.half_closed or self.disconnecting)


class Ours:
    """A connection that answers every request as soon as it is complete.

    :ivar seen: the requests that were served.
    :ivar refused: the code of the problem that ended it.
    """

    def __init__(self) -> None:
        ticker = Ticker(Clock())
        self.seen: list[Request] = []
        self.refused: str | None = None
        self.fed = 0
        self._active: Exchange | None = None
        self.line = Line()
        factory = ServerFactory(ticker, self._dispatch, MOST_BODY)
        self.connection = factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4))
        self.connection.makeConnection(self.line)

    def read(self, data: bytes, size: int) -> Ours:
        """Read *data* in pieces of *size* bytes, to its end or that of the connection."""
        for begin in range(0, len(data), size):
            piece = data[begin : begin + size]
            self.fed += len(piece)
            self.connection.dataReceived(piece)
            if not self.line.open:
                break
            assert self.line.producerState == "producing", "nobody would let it read on"
        self.connection.connectionLost(Failure(ConnectionDone()))
        return self

    def _dispatch(self, exchange: Exchange) -> None:
        assert self._active is None, "one at a time"
        if exchange.problem is None:
            self._active = exchange
            exchange.listener = self
            exchange.body.collect(MOST_BODY, self._take)
        else:
            self._refuse(exchange, exchange.problem)

    def _take(self, body: bytes | None) -> None:
        exchange, self._active = self._active, None
        assert exchange is not None
        assert body is not None
        assert self.refused is None, "nothing is served behind a refusal"
        self.seen.append(
            Request(exchange.method, exchange.target, exchange.headers, body, self.fed)
        )
        exchange.start_response(204, _NO_CONTENT, 0)
        exchange.finish()

    def _refuse(self, exchange: Exchange, problem: ProxyError) -> None:
        assert self.refused is None, "a connection is refused once"
        self.refused = problem.code
        exchange.start_response(problem.status, b"HTTP/1.1 400 X\r\n", 0, close=True)
        exchange.finish()

    def request_failed(self, problem: ProxyError) -> None:
        """The rest of the request broke the rules."""
        exchange, self._active = self._active, None
        assert exchange is not None
        self._refuse(exchange, problem)

    def client_gone(self) -> None:
        """The connection ended within a request."""
        self._active = None


def theirs(data: bytes) -> list[Request]:
    """The requests that h11 sees in *data*."""
    seen: list[Request] = []
    rest = data
    while rest := rest.lstrip(b"\r\n"):  # RFC 9112 §2.2; h11 takes none
        connection = h11.Connection(h11.SERVER, MOST_BODY)
        connection.receive_data(_SPACED.sub(rb"\1 \2 ", rest))
        head, body = None, b""
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return seen
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return seen
        assert head is not None
        rest = connection.trailing_data[0]
        headers = list(head.headers.raw_items())
        seen.append(Request(head.method, head.target, headers, body, len(data) - len(rest)))
        connection.send(h11.Response(status_code=400, headers=[(b"Content-Length", b"0")]))
        connection.send(h11.EndOfMessage())
        if connection.our_state is not h11.DONE:
            break
    return seen


def plain(headers: Headers) -> Headers:
    """In the form that h11 gives: it lower-cases what it reads itself, and strips all values.

    Ours keeps the white space behind a value, which is not part of it (RFC 9110 §5.5).
    """
    return [
        (name.lower(), value.lower() if name.lower() == b"transfer-encoding" else value)
        for name, value in [(name, value.rstrip(b" \t")) for name, value in headers]
    ]


def check(data: bytes) -> None:
    """Hold ours against itself and against h11; the first byte says how ours is cut."""
    size, data = 2 + (data[0] if data else 0), data[1:]
    whole, bytewise, cut = Ours().read(data, len(data) or 1), Ours().read(data, 1), None
    if size < len(data):
        cut = Ours().read(data, size)
    for one in (bytewise, cut):
        if one is not None:
            assert one.seen == whole.seen, "the cut changes what is seen"
            assert one.refused == whole.refused, "the cut changes what is refused"
    others = theirs(data)
    assert len(bytewise.seen) <= len(others), "ours serves what h11 does not"
    for ours, other in zip(bytewise.seen, others, strict=False):
        assert ours.end == other.end, "they end at different bytes"
        assert ours.method == other.method
        assert other.target.endswith(ours.target.removeprefix(b"/")), "targets differ"
        assert ours.body == other.body, "bodies differ"
        assert plain(ours.headers) == plain(other.headers), "headers differ"


TOKENS = (
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1/a HTTP/1.1\r\nHost: a\r\nX-Request-Id: 7\r\n\r\n",
    b"GET http://a/v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /v1/files HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Content-Length: 4\r\n\r\nabcd",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /v1/files HTTP/1.1\r\n",
    b"GET /v1/models HTTP/1.1\r\n",
    b"GET /v1/models HTTP/1.0\r\n",
    b"Host: a\r\n",
    b"Host: b\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 05\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 18446744073709551617\r\n",
    b"Content-Length : 5\r\n",
    b"Content-Length:\t5 \r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: Chunked \r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: upgrade, close\r\n",
    b"Connection: Upgrade\r\n",
    b"Connection: content-length, transfer-encoding\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"X-A: b\r\n folded\r\n",
    b"X-A: \xff\x80\r\n",
    b"X-A:\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"5;a=b\r\nhello\r\n",
    b'5;a="\r\n"\r\nhello\r\n',
    b"5 ;a\r\nhello\r\n",
    b"05\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b"5\nhello\r\n",
    b"5\r\nhello\n",
    b"0\r\nTrailer: x\r\n\r\n",
    b"0\r\nContent-Length: 9\r\n\r\n",
    b"0;\r\n\r\n",
    b"00\r\n\r\n",
    b"hello",
    b"\r\n\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\n\n",
    b"\0",
    b"\t",
    b" ",
)
