"""What an upstream answered: an ``IResponse`` whose header lines are also there as they came.

A body ends in one of three ways, and the sink is told which: complete, closed (delimited by the end
of the connection: relayed, never trusted), or broken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers as WebHeaders
from twisted.web.iweb import IResponse
from zope.interface import implementer

from goproxyai.messages.header_templates import HeaderTemplate
from goproxyai.messages.headers import Fields, Headers
from goproxyai.upstream.retries import RetryCause


class BodySink(Protocol):
    """Where a response's body goes."""

    def received(self, data: bytes, ended: bool) -> None:
        """The body bytes of one read; *ended*: they are the last, and the body is complete."""

    def closed(self) -> None:
        """The connection ended the body: whether it is whole cannot be known."""

    def broken(self, reason: Failure) -> None:
        """The body was cut short."""


class ResponseReceiver(Protocol):
    """Who waits for an answer: is told of it, or of the failure to get one, once."""

    def answered(self, response: Response) -> None:
        """The head is here; the body waits to be asked for."""

    def failed(self, reason: Failure, cause: RetryCause | None = None) -> None:
        """There will be no answer.

        :param cause: why it may be worth while to ask again; ``None``: for nothing.
        """

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        """An interim answer came (RFC 9110 §15.2)."""


class Source(Protocol):
    """What a response asks of the connection that it comes by."""

    def hold(self) -> None:
        """Do not read: the body has nowhere to go."""

    def read_on(self) -> None:
        """Read again."""

    def abort(self) -> None:
        """Break the connection off."""


@implementer(IResponse, IPushProducer)
class Response:
    """What came back: an ``IResponse`` whose header lines are also there as they came.

    :ivar shape: the names of the header; :ivar values: what stands behind them.
    :ivar fields: lower-cased name to value, repeats joined.
    :ivar length: of the body; ``UNKNOWN_LENGTH`` where it is not said.
    """

    __slots__ = (
        "_connection", "_ending", "_held", "_paused", "_sink", "code", "fields", "length", "over",
        "phrase", "shape", "values",
    )  # fmt: skip

    request = None
    previousResponse = None
    version = (b"HTTP", 1, 1)

    def __init__(
        self,
        connection: Source,
        code: int,
        phrase: bytes,
        shape: HeaderTemplate,
        values: tuple[bytes, ...],
        fields: Fields,
        length: Any,
    ) -> None:
        self.code = code
        self.phrase = phrase
        self.shape = shape
        self.values = values
        self.fields = fields
        self.length = length
        self._connection: Source = connection
        self._sink: BodySink | None = None
        self._held = b""  # what came with the head; see rule 4 of the connection
        self._ending: Callable[[BodySink], None] | None = None
        self.over = False
        self._paused = False

    @property
    def raw(self) -> Headers:
        """(name, value) in order, as they came."""
        return self.shape.headers(self.values)

    @property
    def lines(self) -> bytes:
        """The header lines that are relayed."""
        return self.shape.relayed_lines(self.values, self.fields)

    @property
    def request_id(self) -> bytes:
        """Upstream's ``X-Request-Id``; empty where it gives none."""
        return self.fields.get(b"x-request-id", b"")

    @property
    def headers(self) -> WebHeaders:
        """The header as ``twisted.web`` knows it; made when asked for."""
        headers = WebHeaders()
        for name, value in self.raw:
            headers.addRawHeader(name, value)
        return headers

    def setPreviousResponse(self, previous: IResponse) -> None:
        """Part of ``IResponse``; nothing is redirected here."""

    @property
    def unclaimed(self) -> bool:
        """Whether nobody has asked for the body yet."""
        return self._sink is None

    def take_whole(self) -> bytes | None:
        """The body, where all of it came with the head; nothing is then left to be delivered."""
        if self._ending is not _complete:
            return None
        self.over = True
        return self._held

    def deliverBody(self, protocol: IProtocol) -> None:
        """As ``IResponse`` has it, for those who do not know :meth:`deliver`."""
        self.deliver(_ProtocolSink(self, protocol))

    def deliver(self, sink: BodySink) -> None:
        """Hand the body to *sink*: what is here at once, the rest as it comes."""
        self._sink = sink
        held, self._held = self._held, b""
        if self._ending is not None:
            self._end_with(held)
            return
        if held:
            sink.received(held, False)
        if not self.over and not self._paused:
            self._connection.read_on()

    def _end_with(self, held: bytes) -> None:
        sink, ending = self._sink, self._ending
        if sink is None or ending is None:
            return
        self.over = True
        self._sink = None
        if ending is _complete:
            sink.received(held, True)
            return
        if held:
            sink.received(held, False)
        ending(sink)

    # The connection's side.

    def take(self, data: bytes, complete: bool) -> None:
        """What one read brought."""
        if self._sink is None:
            self._held = self._held + data if self._held else data
            if complete:
                self._ending = _complete
            return
        sink = self._sink
        if complete:
            self.over = True
            self._sink = None  # which knows us: no cycle is left to be collected
        sink.received(data, complete)

    def end(self, ending: Callable[[BodySink], None]) -> None:
        """The body ended otherwise than complete."""
        if self.over or self._ending is not None:
            return
        self._ending = ending
        if self._sink is not None:
            self._end_with(b"")

    # The sink's side.

    def abort(self) -> None:
        """Break the connection off: nobody wants the rest."""
        if not self.over and self._ending is None:
            self.over = True
            self._sink = None  # which knows us: no cycle is left to be collected
            self._connection.abort()

    def pauseProducing(self) -> None:
        """Stop reading from upstream."""
        self._paused = True
        if not self.over and self._ending is None:
            self._connection.hold()

    def resumeProducing(self) -> None:
        """Read on."""
        self._paused = False
        if not self.over and self._ending is None:
            self._connection.read_on()

    def stopProducing(self) -> None:
        """As :meth:`abort`."""
        self.abort()

    abortConnection = abort
    loseConnection = abort


def _complete(sink: BodySink) -> None:
    sink.received(b"", True)


class _ProtocolSink:
    """A sink for ``deliverBody``: speaks to an ``IProtocol``."""

    def __init__(self, response: Response, protocol: IProtocol) -> None:
        self._protocol = protocol
        protocol.makeConnection(cast("Any", response))

    def received(self, data: bytes, ended: bool) -> None:
        if data:
            self._protocol.dataReceived(data)
        if ended:
            self._protocol.connectionLost(Failure(ResponseDone()))

    def closed(self) -> None:
        self._protocol.connectionLost(Failure(PotentialDataLoss()))

    def broken(self, reason: Failure) -> None:
        self._protocol.connectionLost(reason)
