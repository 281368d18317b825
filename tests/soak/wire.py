"""A client's connection, and what became of each request on it.

A call ends once: answered in full, cut, lost, or left by the client itself. Nothing is judged here.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
import httptools
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from goproxyai.reactor.socket_write import unsent_bytes
from tests.soak.truth import Told


@attrs.define(eq=False)
class Call:
    """One request, and what came of it.

    :ivar number: names it: in ``X-Forwarded-For``, so in the daemon's log and to upstream.
    :ivar kind: of client.
    :ivar identity: what a right answer says; empty where upstream is not to be asked.
    :ivar least: the version that the answer must have reached.
    :ivar end: ``answered``, ``cut``, ``lost`` or ``left``; empty while it is under way.
    :ivar sure: whether the daemon must have taken note of it, had it ended unanswered.
    :ivar outcome: of :mod:`.table`, once it is judged.
    :ivar before: whose answer would have come first, where that one's end was this one's, too.
    :ivar told: what upstream's answer says, once it is found right.
    """

    number: int
    kind: str
    method: str
    target: str
    identity: str
    sent_at: float
    least: int = 0
    end: str = ""
    done_at: float = 0.0
    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    size: int = 0
    garbled: str = ""
    sure: bool = False
    outcome: str = ""
    told: Told | None = None
    before: Call | None = attrs.field(default=None, repr=False)
    done: Deferred[Call] = attrs.field(factory=Deferred, repr=False)


class Line(Protocol):
    """A connection to the daemon (or whoever stands in its place).

    :ivar received: bytes of answers, so far.
    """

    transport: Any

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._calls: deque[Call] = deque()
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._left = False
        self.closed = False
        self.received = 0
        self.gone: Deferred[None] = Deferred()

    # What a client does.

    def ask(self, call: Call, data: bytes) -> Deferred[Call]:
        """Send *data*, which is the request of *call*, or its beginning."""
        self._calls.append(call)
        if self.closed:
            self._all("lost")
        else:
            self.transport.write(data)
        return call.done

    def more(self, data: bytes) -> None:
        """Send more of a request."""
        if not self.closed:
            self.transport.write(data)

    def leave(self, orderly: bool = False) -> None:
        """Go away, whatever is under way."""
        self._left = True
        if not self.closed:
            if orderly:
                self.transport.loseConnection()
            else:
                self.transport.abortConnection()
        self._all("left")

    @property
    def sent(self) -> bool:
        """Whether the kernel has everything that was to be sent."""
        return self.closed or not unsent_bytes(self.transport)

    def read(self, on: bool) -> None:
        """Take what comes, or do not."""
        if not self.closed:
            if on:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    # What Twisted calls.

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            for call in list(self._calls)[:1]:
                call.garbled = f"{error}: {data[:80]!r}"
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True
        self._all("left" if self._left else "lost")
        del self._parser
        self.gone.callback(None)

    def _all(self, end: str) -> None:
        calls, self._calls = self._calls, deque()
        for call in calls:
            call.before = calls[0] if call is not calls[0] else None
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
            raise ValueError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._calls:
            self._calls[0].headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._calls[0].status = status
        else:
            self._calls[0].headers.clear()

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._calls and self._calls[0].status and not self._left:
            call = self._calls.popleft()
            call.body = b"".join(self._pieces)
            call.size = len(call.body)
            self._end(call, "answered")


async def dial(reactor: Any, port: int) -> Line | None:
    """A new connection; ``None`` where there is none to be had."""
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port, timeout=5)
    try:
        line: Line = await connectProtocol(endpoint, Line(reactor))
    except Exception:  # refused, or no room in the backlog
        return None
    return line
