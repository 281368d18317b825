"""A request and the answer to it, as the pipeline sees them.

1. Every exchange ends exactly once: :meth:`Exchange.finish`, :meth:`Exchange.abort`, or the client
   leaves (``client_gone``, told to whoever listens).
2. The answer's framing is decided here, once, from its length and the client's version; an answer
   that cannot be completed as promised is aborted, never ended early.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer

from goproxyai.errors import ProxyError
from goproxyai.http11.framing import LAST_CHUNK, chunk
from goproxyai.http11.request_body import RequestBody, WholeBody
from goproxyai.http11.request_head import FieldValues, RequestHead
from goproxyai.messages.headers import Headers


class ExchangeListener(Protocol):
    """Who works on an exchange and wants to know that it is over."""

    def client_gone(self) -> None:
        """The client's connection is lost; nothing can be answered any more."""

    def request_failed(self, problem: ProxyError) -> None:
        """The rest of the request broke the rules: answer with *problem* where that is possible."""


class Wire(Protocol):
    """What an exchange asks of the connection that it came by."""

    def send(self, data: bytes) -> None:
        """Write *data* to the client."""

    def exchange_done(self, exchange: Exchange, keep: bool) -> None:
        """The answer is complete; *keep* the connection if the request is complete too."""

    def abort(self) -> None:
        """Break the connection off, so that the client sees that the answer was cut."""


class Exchange:
    """One request, and the way to answer it.

    :ivar head: what its head says; method, target, version and fields are the head's.
    :ivar values: what fills the head's holes.
    :ivar problem: why the request was refused at the door, if it was.
    :ivar began: when the request's head was complete, in reactor seconds.
    :ivar status: of the answer, 0 until there is one.
    :ivar sent: bytes of answer body.
    :ivar first: whether it is the first request of its connection.
    :ivar keep: whether the connection is to live on behind this exchange.
    :ivar name: that it has in the answer and in the log.
    :ivar trace: what follows it through other systems, where somebody does.
    """

    __slots__ = (
        "_bodiless", "_chunked", "_paused", "_pending", "_source", "_wire", "answering", "began",
        "body", "first", "head", "keep", "listener", "method", "name", "over", "peer", "problem",
        "sent", "status", "target", "trace", "values",
    )  # fmt: skip

    def __init__(
        self,
        wire: Wire,
        peer: str,
        began: float,
        head: RequestHead,
        values: FieldValues,
        body: RequestBody | WholeBody,
        problem: ProxyError | None = None,
    ) -> None:
        self.head = head
        self.method = head.method
        self.target = head.target
        self.values = values
        self.body = body
        self.problem = problem
        self.peer = peer
        self.began = began
        self.status = 0
        self.sent = 0
        self.listener: ExchangeListener | None = None
        self.answering = False
        self.over = False
        self.first = False
        self.keep = head.keep
        self.name = b""
        self.trace: Any = None
        self._wire = wire
        self._chunked = False
        self._bodiless = False
        self._pending = b""
        self._source: IPushProducer | None = None
        self._paused = False

    @property
    def version(self) -> str:
        """``1.1`` or ``1.0``."""
        return self.head.version

    @property
    def headers(self) -> Headers:
        """(name, value) in order, as received."""
        headers = self.head.headers.copy()
        for position, hole in self.head.holes.items():
            headers[position] = (headers[position][0], self.values[hole])
        return headers

    def get(self, name: bytes) -> bytes | None:
        """The value of a field, repeats joined; *name* in lower case."""
        hole = self.head.named.get(name)
        return self.head.fields.get(name) if hole is None else self.values[hole]

    # The answer.

    def begin(
        self,
        status: int,
        head: bytes,
        length: int | None,
        framed: bool = False,
        close: bool = False,
    ) -> None:
        """Start the answer; its head waits for the first body bytes or :meth:`flush`.

        :param head: status line and header lines, but for those that frame the body.
        :param length: of the body; ``None`` where it is not known beforehand.
        :param framed: *head* holds the ``Content-Length`` already.
        :param close: end the connection with this answer.
        """
        self.answering = True
        self.status = status
        if close or not self.body.complete:
            self.keep = False
        self._bodiless = self.method == b"HEAD" or status in (204, 304)
        framing = b""
        if length is not None:
            if not framed and status != 204:
                framing = b"Content-Length: %d\r\n" % length
        elif not self._bodiless:
            if self.head.version == "1.1":
                self._chunked = True
                framing = b"Transfer-Encoding: chunked\r\n"
            else:
                self.keep = False
        if not self.keep:
            framing += b"Connection: close\r\n"
        self._pending = head + framing + b"\r\n"

    @property
    def simple(self) -> bool:
        """Whether :meth:`answer` will do: the request is here, and the connection goes on."""
        return self.keep and self.body.complete

    def answer(self, status: int, message: bytes, size: int) -> None:
        """The whole answer to a :attr:`simple` exchange, in one write.

        :param message: head and body, framed by a ``Content-Length``.
        :param size: bytes of body in it.
        """
        self.answering = self.over = True
        self.status = status
        self.sent = size
        self.listener = None
        self._wire.send(message)
        self._wire.exchange_done(self, True)

    def inform(self, head: bytes) -> None:
        """Pass an interim answer on (RFC 9110 §15.2); HTTP/1.0 knows none."""
        if self.version == "1.1" and not self.answering and not self.over:
            self._wire.send(head + b"\r\n")

    def write(self, data: bytes, last: bool = False) -> None:
        """More of the answer's body; *last* ends the exchange with the same write."""
        if self.over:
            return
        out = self._pending
        self._pending = b""
        if not self._bodiless:
            self.sent += len(data)
            if self._chunked:
                out += chunk(data)
                if last:
                    out += LAST_CHUNK
            else:
                out = out + data if out else data
        if out:
            self._wire.send(out)
        if last and not self.over:
            self._close()

    def flush(self) -> None:
        """Let a head that waits for its body go now."""
        if self._pending and not self.over:
            out, self._pending = self._pending, b""
            self._wire.send(out)

    def finish(self) -> None:
        """The answer is complete."""
        self.write(b"", last=True)

    def _close(self) -> None:
        self.over = True
        self.listener = None
        self._source = None
        self._wire.exchange_done(self, self.keep)

    def abort(self) -> None:
        """The answer cannot be completed: break the connection off."""
        if not self.over:
            self.over = True
            self.listener = None
            self._source = None
            self._wire.abort()

    # Backpressure: the client's connection pauses whoever produces the answer.

    def source(self, producer: IPushProducer | None) -> None:
        """*producer* makes the answer's body: it is paused while the client does not read."""
        self._source = producer
        if producer is not None and self._paused:
            producer.pauseProducing()

    def pause(self) -> None:
        """The client's connection is full."""
        self._paused = True
        if self._source is not None:
            self._source.pauseProducing()

    def resume(self) -> None:
        """There is room again."""
        self._paused = False
        if self._source is not None:
            self._source.resumeProducing()

    # What the connection tells.

    def lost(self) -> None:
        """The client's connection is gone."""
        if self.over:
            return
        self.over = True
        listener, self.listener, self._source = self.listener, None, None
        if listener is not None:
            listener.client_gone()
        self.body.lost()

    def fail(self, problem: ProxyError) -> None:
        """The rest of the request broke the rules."""
        if self.over:
            return
        self.keep = False
        if self.listener is not None:
            self.listener.request_failed(problem)
        else:
            self.abort()
