"""Target ``answers``: the client's parsing of upstream responses, compared with h11's.

1. The response does not depend on how the bytes are split into reads.
2. h11 agrees on every complete response: the same end, status, header and body. It also agrees if
   the end of the connection ends the body.
3. h11 would reuse every connection that the client reuses (except after HTTP/1.0, which h11 never
   does), and no byte is left on it that the next request would read as its response.
"""

from __future__ import annotations

import re
from typing import Any

import attrs
import h11
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.connection_deadlines import Timeouts
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.messages.headers import Headers
from goproxyai.reactor.deadlines import Ticker
from goproxyai.reactor.write_batch import ImmediateWriter
from goproxyai.upstream.retries import RetryCause
from tests.fuzz.requests import normalized
from tests.support.memory_transport import MemoryTransport

METHODS = (b"GET", b"HEAD", b"POST")
MAX_BODY_BYTES = 1 << 20
_INTERIM = re.compile(rb"HTTP/[0-9]\.[0-9] 1[0-9][0-9]")
_CODING = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*", re.IGNORECASE)
"""Has no meaning in an interim response, which has no body; h11 rejects some values of it."""


@attrs.frozen
class Answer:
    """A response.

    :ivar ending: ``complete``, ``closed`` by the end of the connection, ``broken``, or empty if the
        body has not ended.
    :ivar end: offset of the byte after it.
    :ivar reusable: whether the connection can serve another request.
    """

    status: int
    reason: bytes
    headers: Headers
    body: bytes
    ending: str
    end: int = attrs.field(eq=False)
    reusable: bool = attrs.field(eq=False)


class ClientUnderTest:
    """An upstream connection that sends one request."""

    def __init__(self, method: bytes) -> None:
        self.bytes_read = 0
        self.releases = 0
        self.failures = 0
        self.transport = MemoryTransport()
        self.connection = ClientConnection(
            Ticker(Clock()),
            Timeouts(30, 30),
            False,
            self._release,
            lambda lost: None,
            ImmediateWriter(),
            RequestMemory(),
        )
        self.connection.makeConnection(self.transport)
        self._response: Any = None
        self._body = b""
        self._ending = ""
        self._end = 0
        head = b"%b /v1/models HTTP/1.1\r\nHost: a\r\n" % method
        self.connection.send(method, head, None, False, self)

    def read(self, data: bytes, size: int, closed: bool) -> Answer | None:
        """Receive *data* in pieces of *size* bytes, then the end of the connection if *closed*."""
        for begin in range(0, len(data), size):
            piece = data[begin : begin + size]
            self.bytes_read += len(piece)
            self.connection.dataReceived(piece)
            if self.releases or not self.transport.open:
                break
        reusable = self.releases == 1 and self.transport.open
        if closed or not self.transport.open:
            self.connection.connectionLost(Failure(ConnectionDone()))
        if self._response is None:
            return None
        assert not self.failures, "both a response and a failure"
        response = self._response
        return Answer(
            response.code,
            response.phrase,
            response.raw_headers,
            self._body,
            self._ending,
            self._end,
            reusable,
        )

    def _release(self, connection: ClientConnection) -> None:
        self.releases += 1

    def may_switch_protocols(self) -> bool:
        return False

    def answered(self, response: Any) -> None:
        assert self._response is None, "a second response"
        self._response = response
        response.deliver(self)

    def failed(self, reason: Failure, cause: RetryCause | None = None) -> None:
        assert not self.failures, "a second failure"
        self.failures += 1

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        assert self._response is None, "an interim response after the response"

    def received(self, data: bytes, ended: bool) -> None:
        assert not self._ending, "data after the end of the body"
        self._body += data
        if ended:
            self._ending, self._end = "complete", self.bytes_read

    def closed(self) -> None:
        assert not self._ending
        self._ending, self._end = "closed", self.bytes_read

    def broken(self, reason: Failure) -> None:
        assert not self._ending
        self._ending, self._end = "broken", self.bytes_read


def h11_answer(method: bytes, data: bytes, closed: bool) -> tuple[Answer | None, bytes]:
    """The response that h11 parses, and the bytes after it."""
    rest = data
    while True:
        connection = h11.Connection(h11.CLIENT, MAX_BODY_BYTES)
        connection.send(h11.Request(method=method, target=b"/v1/models", headers=[(b"Host", b"a")]))
        connection.send(h11.EndOfMessage())
        rest = rest.lstrip(b"\r\n")  # llhttp accepts empty lines here too
        if _INTERIM.match(rest):
            head, blank, after = rest.partition(b"\r\n\r\n")
            rest = _CODING.sub(b"", head) + blank + after
        if not rest:
            return None, b""
        connection.receive_data(rest)
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None, b""
        rest = connection.trailing_data[0]
        if isinstance(event, h11.Response):
            break
        if not isinstance(event, h11.InformationalResponse):
            return None, b""
    body, ending = _rest(connection, closed)
    rest = connection.trailing_data[0]
    reusable = connection.our_state is h11.DONE and connection.their_state is h11.DONE
    headers = list(event.headers.raw_items())
    end = len(data) - len(rest)
    return Answer(event.status_code, event.reason, headers, body, ending, end, reusable), rest


def _rest(connection: h11.Connection, closed: bool) -> tuple[bytes, str]:
    """The body after a head, and how it ended."""
    body, ending = b"", ""
    while True:
        try:
            event = connection.next_event()
            if event is h11.NEED_DATA and closed and not ending:
                connection.receive_data(b"")
                ending = "closed"
                event = connection.next_event()
        except h11.RemoteProtocolError:
            return body, "broken"
        if isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return body, ending or "complete"
        else:
            return body, ""


def check_answers(data: bytes) -> None:
    """Compare reads of different sizes with each other, and the result with h11's.

    :param data: its first byte selects the request's method, whether the connection closes after
        the data, and the size of a read; the rest are the bytes to parse.
    """
    first, data = data[0] if data else 0, data[1:]
    method, closed, size = METHODS[first % 3], first % 2 == 0, 2 + first // 8
    whole = ClientUnderTest(method).read(data, len(data) or 1, closed)
    bytewise = ClientUnderTest(method).read(data, 1, closed)
    in_pieces = ClientUnderTest(method).read(data, size, closed)
    assert bytewise == whole, "the read size changes the response"
    assert in_pieces == whole, "the read size changes the response"
    if bytewise is None or whole is None or bytewise.ending not in ("complete", "closed"):
        return
    other, rest = h11_answer(method, data, closed)
    bodiless = method == b"HEAD" or bytewise.status in (204, 304)
    if (
        other is None
        and bodiless
        and any(n.lower() == b"transfer-encoding" for n, _ in whole.headers)
    ):
        return  # h11 rejects a transfer coding here, where it has no meaning
    assert other is not None, "h11 parses no response"
    assert other.ending == bytewise.ending, "the kinds of ending differ"
    assert other.end == bytewise.end, "the ends of the response differ"
    assert other.status == bytewise.status
    assert other.reason == bytewise.reason
    assert other.body == bytewise.body, "bodies differ"
    assert normalized(other.headers) == normalized(bytewise.headers), "headers differ"
    if whole.reusable:
        assert other.reusable or b"HTTP/1.0" in data, "h11 would not reuse the connection"
        assert not rest.strip(b"\r\n"), "the next request would read the rest as its response"


TOKENS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 200\r\n",
    b"HTTP/1.1 200 \r\n",
    b"HTTP/2.0 200 OK\r\n",
    b"HTTP/1.1 099 X\r\n",
    b"HTTP/1.1 600 X\r\n",
    b"HTTP/1.1 205 Reset Content\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length:\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\r\n",
    b"X-A: b\r\n folded\r\n",
    b"X-A : b\r\n",
    b"X-A: \xff\x80\r\n",
    b": empty\r\n",
    b"5\r\nhello\r\n",
    b"5;a=b\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\nTrailer: x\r\n\r\n",
    b"hello",
    b"\r\n\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
)
