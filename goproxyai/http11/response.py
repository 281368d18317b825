"""The response of an upstream: an ``IResponse`` that also has the header lines as received."""

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

from goproxyai.http11.tunnel_end import TunnelEnd
from goproxyai.messages.header_templates import HeaderTemplate
from goproxyai.messages.headers import Fields, Headers
from goproxyai.messages.locations import local_reference
from goproxyai.messages.media_types import is_event_stream
from goproxyai.upstream.retries import RetryCause


class BodySink(Protocol):
    """Receives the body of a response, and in which of three ways it ended."""

    def received(self, data: bytes, ended: bool) -> None:
        """The body bytes of one read; *ended*: they are the last, and the body is complete."""

    def closed(self) -> None:
        """The end of the connection delimits the body: whether it is complete is not known."""

    def broken(self, reason: Failure) -> None:
        """The body is incomplete."""


class ResponseReceiver(Protocol):
    """Sent a request, and is told once of the response or of the failure."""

    def answered(self, response: Response) -> None:
        """The response head was received; the body is read after :meth:`Response.deliver`."""

    def failed(self, reason: Failure, cause: RetryCause | None = None) -> None:
        """There will be no response.

        :param cause: why a retry may succeed; ``None`` if it cannot.
        """

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        """An interim response was received (RFC 9110 §15.2)."""

    def may_switch_protocols(self) -> bool:
        """Whether the request is a WebSocket handshake, so that 101 may answer it."""


class ResponseConnection(Protocol):
    """The connection that a response is received from."""

    def pause_reading(self) -> None:
        """Stop reading from the upstream."""

    def resume_reading(self) -> None:
        """Read from the upstream again."""

    def abort(self) -> None:
        """Reset the connection."""

    def start_tunnel(self, early: bytes) -> TunnelEnd:
        """End the use of HTTP, after a response with status 101.

        :param early: was received after the response.
        """


@implementer(IResponse, IPushProducer)
class Response:
    """The response of an upstream.

    :ivar template: the names of the header, and what follows from them.
    :ivar values: of the header, in the order of *template*.
    :ivar fields: lower-cased name to value, repeated lines joined.
    :ivar is_event_stream: whether the media type is ``text/event-stream``.
    :ivar length: of the body in bytes; ``UNKNOWN_LENGTH`` if it is not announced.
    :ivar over: whether nothing more will be delivered.
    """

    __slots__ = (
        "_connection", "_ending", "_held", "_paused", "_sink", "code", "fields", "is_event_stream",
        "length", "over", "phrase", "template", "values",
    )  # fmt: skip

    request = None
    previousResponse = None
    version = (b"HTTP", 1, 1)

    def __init__(
        self,
        connection: ResponseConnection,
        code: int,
        phrase: bytes,
        template: HeaderTemplate,
        values: tuple[bytes, ...],
        fields: Fields,
        length: Any,
    ) -> None:
        self.code = code
        self.phrase = phrase
        self.template = template
        self.values = values
        self.fields = fields
        self.is_event_stream = is_event_stream(fields)
        self.length = length
        self.over = False
        self._connection: ResponseConnection = connection
        self._sink: BodySink | None = None
        self._held = b""  # received with the head, before there is a sink
        self._ending: Callable[[BodySink], None] | None = None
        self._paused = False

    # The head.

    @property
    def raw_headers(self) -> Headers:
        """(name, value) in order, as received."""
        return self.template.headers(self.values)

    def relayed_lines(self) -> bytes:
        """Return the header lines that are relayed to the client."""
        return self.template.relayed_lines(self.values, self.fields)

    def localize(self, origin: bytes, base: bytes) -> None:
        """Make references to the upstream lead through the proxy.

        :param origin: and *base* as in :func:`.locations.local_reference`.
        """
        values = list(self.values)
        for at in self.template.locations:
            values[at] = local_reference(values[at], origin, base)
        self.values = tuple(values)
        self.fields = self.template.fields(self.values)

    @property
    def request_id(self) -> bytes:
        """The upstream's ``X-Request-Id``; empty if it gives none."""
        return self.fields.get(b"x-request-id", b"")

    @property
    def headers(self) -> WebHeaders:
        """The header in the type of ``twisted.web``."""
        headers = WebHeaders()
        for name, value in self.raw_headers:
            headers.addRawHeader(name, value)
        return headers

    def setPreviousResponse(self, previous: IResponse) -> None:
        """Do nothing: no redirect is followed."""

    def switch_protocols(self) -> TunnelEnd:
        """Return the connection, which is the receiver's after a response with status 101."""
        self.over = True
        early, self._held = self._held, b""
        return self._connection.start_tunnel(early)

    # The body, for the receiver.

    @property
    def unclaimed(self) -> bool:
        """Whether :meth:`deliver` has not been called."""
        return self._sink is None

    def take_whole(self) -> bytes | None:
        """Return the body if it was received with the head, and end the response."""
        if self._ending is not _complete:
            return None
        self.over = True
        return self._held

    def deliverBody(self, protocol: IProtocol) -> None:
        """Deliver the body to *protocol*, as ``IResponse`` specifies."""
        self.deliver(_ProtocolSink(self, protocol))

    def deliver(self, sink: BodySink) -> None:
        """Deliver the body to *sink*: what is held at once, the rest when it is received."""
        self._sink = sink
        held, self._held = self._held, b""
        if self._ending is not None:
            self._deliver_ending(held)
            return
        if held:
            sink.received(held, False)
        if not self.over and not self._paused:
            self._connection.resume_reading()

    def _deliver_ending(self, held: bytes) -> None:
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

    # Called by the connection.

    def receive(self, data: bytes, complete: bool) -> None:
        """Take the body bytes of one read; *complete*: they are the last."""
        sink = self._sink
        if sink is None:
            self._held = self._held + data if self._held else data
            if complete:
                self._ending = _complete
            return
        if complete:
            self.over = True
            self._sink = None  # the sink refers to this response: a cycle
        sink.received(data, complete)

    def end(self, ending: Callable[[BodySink], None]) -> None:
        """End the body early; *ending* calls the method of the sink that says how."""
        if self.over or self._ending is not None:
            return
        self._ending = ending
        if self._sink is not None:
            self._deliver_ending(b"")

    # IPushProducer, for the sink.

    def abort(self) -> None:
        """Reset the connection: the rest of the body is not wanted."""
        if not self.over and self._ending is None:
            self.over = True
            self._sink = None  # the sink refers to this response: a cycle
            self._connection.abort()

    def pauseProducing(self) -> None:
        self._paused = True
        if not self.over and self._ending is None:
            self._connection.pause_reading()

    def resumeProducing(self) -> None:
        self._paused = False
        if not self.over and self._ending is None:
            self._connection.resume_reading()

    def stopProducing(self) -> None:
        self.abort()

    abortConnection = abort
    loseConnection = abort


def _complete(sink: BodySink) -> None:
    sink.received(b"", True)


class _ProtocolSink:
    """Delivers a body to an ``IProtocol``."""

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
