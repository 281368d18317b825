"""Target ``requests``: the server's parsing of requests, compared with h11's.

1. The requests do not depend on how the bytes are split into reads.
2. h11 parses every request that the server serves, with the same method, target, header, body and
   end. The server never serves bytes that h11 rejects or reads as part of a body, because that
   would be request smuggling.
3. The server may reject what h11 accepts, because it is stricter: it rejects bare line feeds,
   folded lines and requests with both framings.
"""

from __future__ import annotations

import re

import attrs
import h11
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.messages.headers import Headers
from goproxyai.reactor.deadlines import Ticker
from tests.support.memory_transport import MemoryTransport

MAX_BODY_BYTES = 1 << 20
_NO_CONTENT = b"HTTP/1.1 204 No Content\r\n"
_REQUEST_LINE = re.compile(rb"\A([A-Z-]+) +([\x21-\x7e]+) +(?=HTTP/)")
"""A request line with repeated spaces: llhttp accepts it, as RFC 9112 §3 allows; h11 does not."""


@attrs.frozen
class Request:
    """A complete request.

    :ivar end: offset of the byte after it.
    """

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    end: int = attrs.field(eq=False)


class ServerUnderTest:
    """A server connection that answers each request when it is complete.

    :ivar requests: the served requests.
    :ivar error_code: of the error that ended the connection, if any.
    :ivar bytes_read: offset of the read that the connection handles.
    """

    def __init__(self) -> None:
        ticker = Ticker(Clock())
        self.requests: list[Request] = []
        self.error_code: str | None = None
        self.bytes_read = 0
        self._active: Exchange | None = None
        self.transport = MemoryTransport()
        factory = ServerFactory(ticker, self._dispatch, MAX_BODY_BYTES)
        self.connection = factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4))
        self.connection.makeConnection(self.transport)

    def read(self, data: bytes, size: int) -> ServerUnderTest:
        """Receive *data* in pieces of *size* bytes, until the connection closes."""
        for begin in range(0, len(data), size):
            piece = data[begin : begin + size]
            self.bytes_read += len(piece)
            self.connection.dataReceived(piece)
            if not self.transport.open:
                break
            assert self.transport.reading, "the connection stays paused"
        self.connection.connectionLost(Failure(ConnectionDone()))
        return self

    def _dispatch(self, exchange: Exchange) -> None:
        assert self._active is None, "two exchanges are active at once"
        if exchange.problem is None:
            self._active = exchange
            exchange.listener = self
            exchange.body.collect(MAX_BODY_BYTES, self._take)
        else:
            self._refuse(exchange, exchange.problem)

    def _take(self, body: bytes | None) -> None:
        exchange, self._active = self._active, None
        assert exchange is not None
        assert body is not None
        assert self.error_code is None, "a request is served after an error"
        self.requests.append(
            Request(exchange.method, exchange.target, exchange.headers, body, self.bytes_read)
        )
        exchange.start_response(204, _NO_CONTENT, 0)
        exchange.finish()

    def _refuse(self, exchange: Exchange, problem: ProxyError) -> None:
        assert self.error_code is None, "a connection is refused once"
        self.error_code = problem.code
        exchange.start_response(problem.status, b"HTTP/1.1 400 X\r\n", 0, close=True)
        exchange.finish()

    def request_failed(self, problem: ProxyError) -> None:
        """The rest of the request is malformed."""
        exchange, self._active = self._active, None
        assert exchange is not None
        self._refuse(exchange, problem)

    def client_gone(self) -> None:
        """The connection closed within a request."""
        self._active = None


def h11_requests(data: bytes) -> list[Request]:
    """The requests that h11 parses from *data*."""
    requests: list[Request] = []
    rest = data
    while rest := rest.lstrip(b"\r\n"):  # RFC 9112 §2.2 allows empty lines; h11 does not
        connection = h11.Connection(h11.SERVER, MAX_BODY_BYTES)
        connection.receive_data(_REQUEST_LINE.sub(rb"\1 \2 ", rest))
        head, body = None, b""
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return requests
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return requests
        assert head is not None
        rest = connection.trailing_data[0]
        headers = list(head.headers.raw_items())
        requests.append(Request(head.method, head.target, headers, body, len(data) - len(rest)))
        connection.send(h11.Response(status_code=400, headers=[(b"Content-Length", b"0")]))
        connection.send(h11.EndOfMessage())
        if connection.our_state is not h11.DONE:
            break
    return requests


def normalized(headers: Headers) -> Headers:
    """Header lines as h11 returns them.

    h11 lower-cases names and the transfer coding. It strips the white space after a value, which is
    not part of the value (RFC 9110 §5.5); the server keeps it.
    """
    return [
        (name.lower(), value.lower() if name.lower() == b"transfer-encoding" else value)
        for name, value in [(name, value.rstrip(b" \t")) for name, value in headers]
    ]


def check_requests(data: bytes) -> None:
    """Compare reads of different sizes with each other, and the result with h11's.

    :param data: the size of a read, less 2, in its first byte; then the bytes to parse.
    """
    size, data = 2 + (data[0] if data else 0), data[1:]
    whole = ServerUnderTest().read(data, len(data) or 1)
    bytewise = ServerUnderTest().read(data, 1)
    servers = [bytewise]
    if size < len(data):
        servers.append(ServerUnderTest().read(data, size))
    for server in servers:
        assert server.requests == whole.requests, "the read size changes the requests"
        assert server.error_code == whole.error_code, "the read size changes the error"
    expected = h11_requests(data)
    assert len(bytewise.requests) <= len(expected), "the server serves what h11 rejects"
    for request, other in zip(bytewise.requests, expected, strict=False):
        assert request.end == other.end, "the ends of the request differ"
        assert request.method == other.method
        assert other.target.endswith(request.target.removeprefix(b"/")), "targets differ"
        assert request.body == other.body, "bodies differ"
        assert normalized(request.headers) == normalized(other.headers), "headers differ"


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
