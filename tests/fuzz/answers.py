"""Our reading of an upstream's answers, against h11's: whose bytes are these, and are they all?

1. However the bytes are cut into reads, ours sees the same answer.
2. What ours calls complete, h11 ends at the same byte with the same status, header and body; what
   ours says the connection ended, the end of the connection ended for h11 too.
3. A connection that ours keeps, h11 would keep, and nothing is left on it that the next request
   could take for its answer. (h11 keeps none of HTTP/1.0.)
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
from goproxyai.messages.headers import Headers
from goproxyai.reactor.deadlines import Ticker
from goproxyai.reactor.write_batch import ImmediateWriter
from goproxyai.upstream.retries import Cause
from tests.fuzz.requests import Line, plain

METHODS = (b"GET", b"HEAD", b"POST")
_MOST = 1 << 20
_INTERIM = re.compile(rb"HTTP/[0-9]\.[0-9] 1[0-9][0-9]")
_CODING = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*", re.IGNORECASE)
"""Says nothing in an answer without a body, and stays on its hop; h11 reads it all the same."""


@attrs.frozen
class Answer:
    """An answer, and the byte behind it.

    :ivar ending: ``complete``, ``closed`` by the end of the connection, ``broken``, or empty while
        more is to come.
    """

    status: int
    reason: bytes
    headers: Headers
    body: bytes
    ending: str
    end: int = attrs.field(eq=False)
    kept: bool = attrs.field(eq=False)


class Ours:
    """A connection that asks once, and takes what comes."""

    def __init__(self, method: bytes) -> None:
        self.fed = 0
        self.freed = 0
        self.failures = 0
        self.line = Line()
        self.connection = ClientConnection(
            Ticker(Clock()),
            Timeouts(30, 30),
            False,
            self._free,
            lambda lost: None,
            ImmediateWriter(),
        )
        self.connection.makeConnection(self.line)
        self._response: Any = None
        self._body = b""
        self._ending = ""
        self._end = 0
        head = b"%b /v1/models HTTP/1.1\r\nHost: a\r\n" % method
        self.connection.send(method, head, None, False, self)

    def read(self, data: bytes, size: int, closed: bool) -> Answer | None:
        """Read *data* in pieces of *size* bytes, and then perhaps the end of the connection."""
        for begin in range(0, len(data), size):
            piece = data[begin : begin + size]
            self.fed += len(piece)
            self.connection.dataReceived(piece)
            if self.freed or not self.line.open:
                break
        kept = self.freed == 1 and self.line.open
        if closed or not self.line.open:
            self.connection.connectionLost(Failure(ConnectionDone()))
        if self._response is None:
            return None
        assert not self.failures, "an answer or a failure"
        one = self._response
        return Answer(
            one.code, one.phrase, one.raw_headers, self._body, self._ending, self._end, kept
        )

    def _free(self, connection: ClientConnection) -> None:
        self.freed += 1

    def answered(self, response: Any) -> None:
        assert self._response is None, "one answer"
        self._response = response
        response.deliver(self)

    def failed(self, reason: Failure, cause: Cause | None = None) -> None:
        assert not self.failures, "one failure"
        self.failures += 1

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        assert self._response is None, "no interim answer behind the answer"

    def received(self, data: bytes, ended: bool) -> None:
        assert not self._ending, "nothing follows the end"
        self._body += data
        if ended:
            self._ending, self._end = "complete", self.fed

    def closed(self) -> None:
        assert not self._ending
        self._ending, self._end = "closed", self.fed

    def broken(self, reason: Failure) -> None:
        assert not self._ending
        self._ending, self._end = "broken", self.fed


def theirs(method: bytes, data: bytes, closed: bool) -> tuple[Answer | None, bytes]:
    """What h11 makes of it, and the bytes behind it."""
    rest = data
    while True:
        connection = h11.Connection(h11.CLIENT, _MOST)
        connection.send(h11.Request(method=method, target=b"/v1/models", headers=[(b"Host", b"a")]))
        connection.send(h11.EndOfMessage())
        rest = rest.lstrip(b"\r\n")  # llhttp forgives empty lines here too
        if _INTERIM.match(rest):
            head, blank, behind = rest.partition(b"\r\n\r\n")
            rest = _CODING.sub(b"", head) + blank + behind
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
    beyond = connection.trailing_data[0]
    kept = connection.our_state is h11.DONE and connection.their_state is h11.DONE
    headers = list(event.headers.raw_items())
    end = len(data) - len(beyond)
    return Answer(event.status_code, event.reason, headers, body, ending, end, kept), beyond


def _rest(connection: h11.Connection, closed: bool) -> tuple[bytes, str]:
    """The body behind a head, and how it ended."""
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


def check(data: bytes) -> None:
    """Hold ours against itself and against h11; the first byte says of what and how it is cut."""
    first, data = data[0] if data else 0, data[1:]
    method, closed, size = METHODS[first % 3], first % 2 == 0, 2 + first // 8
    whole = Ours(method).read(data, len(data) or 1, closed)
    bytewise = Ours(method).read(data, 1, closed)
    assert bytewise == whole, "the cut changes what is seen"
    assert Ours(method).read(data, size, closed) == whole, "the cut changes what is seen"
    if bytewise is None or whole is None or bytewise.ending not in ("complete", "closed"):
        return
    other, beyond = theirs(method, data, closed)
    bodiless = method == b"HEAD" or bytewise.status in (204, 304)
    if (
        other is None
        and bodiless
        and any(n.lower() == b"transfer-encoding" for n, _ in whole.headers)
    ):
        return  # h11 reads it where it says nothing
    assert other is not None, "h11 sees no answer"
    assert other.ending == bytewise.ending, "they end in different ways"
    assert other.end == bytewise.end, "they end at different bytes"
    assert other.status == bytewise.status
    assert other.reason == bytewise.reason
    assert other.body == bytewise.body, "bodies differ"
    assert plain(other.headers) == plain(bytewise.headers), "headers differ"
    if whole.kept:
        assert other.kept or b"HTTP/1.0" in data, "h11 would not keep it"
        assert not beyond.strip(b"\r\n"), "what follows would meet the next request"


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
