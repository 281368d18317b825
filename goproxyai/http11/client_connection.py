"""The connection that we hold to an upstream.

1. One request at a time, for one receiver, who is told of the answer or of the failure, once.
   :meth:`ClientConnection.cancel`, or :meth:`Response.abort`, breaks the connection off at once,
   in every phase, and tells nobody.
2. What one read brings is handed on in one piece: the head and the body that came with it reach
   the pipeline in one turn, so that they can leave in one write.
3. A body ends in one of three ways, and the sink is told which: complete, closed (delimited by the
   end of the connection: relayed, never trusted), or broken.
4. Between the head and :meth:`Response.deliver`, and while the sink's owner is paused, the
   connection is not read: at most one read is held.
5. Only a connection whose last exchange was complete on both sides is used again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from select import poll
from typing import Any
from weakref import ref

import attrs
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from goproxyai.http11.framing import MAX_HEADER_BYTES, MAX_HEADER_FIELDS
from goproxyai.http11.request_upload import RequestUpload
from goproxyai.http11.response import Response, ResponseReceiver
from goproxyai.messages.header_templates import template_of
from goproxyai.messages.headers import Fields
from goproxyai.reactor.deadlines import NEVER, Ticker
from goproxyai.reactor.socket_write import parked, poller_of, set_no_delay
from goproxyai.reactor.write_batch import LARGE, Writer
from goproxyai.upstream.retries import Cause

LONGEST_REASON = 1024
"""Bytes of a status line's reason phrase."""

IDLE_SECONDS = 55.0
"""For which an unused connection is kept."""


CLOSE_SECONDS = 2.0
"""For which the peer may take to agree to a close; TLS waits for that."""

MOST_INTERIM = 32
"""Interim answers (1xx) to one request."""

_PHRASE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class UpstreamTimeout(Exception):
    """Upstream took longer than it may; the argument says for what."""


class ProtocolViolation(Exception):
    """Upstream did not speak HTTP/1.1; the argument says how."""


class ConnectionBroken(Exception):
    """The connection was lost before the exchange was complete.

    :param reason: the failure that the transport gave.
    """

    def __init__(self, reason: Failure) -> None:
        super().__init__(reason.getErrorMessage())
        self.reason = reason


@attrs.define(eq=False)
class Timeouts:
    """How long upstream may take, in seconds; all connections share one, which may be changed.

    A wait that has begun ends when it was to end.

    :ivar head: from the request's last byte (when the kernel has it) to the response's head.
    :ivar silence: inside a body, either way.
    """

    head: float
    silence: float


def _abort(connection: ClientConnection | None) -> None:
    if connection is not None:
        connection.abort()


@implementer(IHandshakeListener)
class ClientConnection(TwistedProtocol):
    """One connection to an upstream; see the module's rules.

    :param secured: whether TLS is laid over it: it is ready once the handshake is done.
    :param on_free: called when it can be used again.
    :param on_lost: called when it is gone.
    :param writer: shared by all connections.
    """

    __slots__ = (
        "_awaited", "_body", "_close_delimited", "_deadline", "_ended", "_head_bytes",
        "_header", "_held", "_interim", "_interims", "_keep", "_lost", "_method",
        "_on_free", "_on_lost", "_parser", "_poller", "_read_bytes", "_reason", "_receiver",
        "_response", "_secured", "_sending", "_sent", "_served", "_taken", "_ticker", "_timeouts",
        "_upload", "_writer", "doomed", "ready",
    )  # fmt: skip

    transport: Any  # ITransport does not tell half of what a transport can do

    def __init__(
        self,
        ticker: Ticker,
        timeouts: Timeouts,
        secured: bool,
        on_free: Callable[[ClientConnection], None],
        on_lost: Callable[[ClientConnection], None],
        writer: Writer,
    ) -> None:
        this = ref(self)  # so that no cycle is left to be collected
        self.ready: Deferred[ClientConnection] = Deferred(lambda _: _abort(this()))
        self.doomed = False
        self._ticker = ticker
        self._timeouts = timeouts
        self._secured = secured
        self._on_free = on_free
        self._on_lost = on_lost
        self._writer = writer
        self._lost = False
        self._deadline = NEVER
        self._awaited = ""
        self._parser = HttpResponseParser(self)
        self._poller: poll | None = None
        self._method = b""  # of the request that is under way
        self._receiver: ResponseReceiver | None = None
        self._response: Response | None = None
        self._upload: RequestUpload | None = None
        self._held = False
        self._keep = False
        self._ended = False
        self._interims = 0
        self._sending = False
        self._sent = 0
        self._taken = 0
        self._read_bytes = 0  # by the last read, of the answer at hand
        self._served = False  # a request before
        self._reason = b""
        self._header: list[bytes] = []  # name, value, name, value…
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._interim = False
        self._close_delimited = False

    # Its beginning and its end.

    def connectionMade(self) -> None:
        set_no_delay(self.transport)
        self._ticker.watched.add(self)
        if not self._secured:
            self._become_ready()

    def handshakeCompleted(self) -> None:
        """TLS is up, and the certificate was found good."""
        self._become_ready()

    def _become_ready(self) -> None:
        if not self.ready.called:
            self.ready.callback(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self._ticker.watched.discard(self)
        self._on_lost(self)
        if not self.ready.called:  # else it stood, or nobody waits for it any more
            self.ready.errback(reason)
        self._break(reason)
        del self._parser  # which knows us: no cycle is left to be collected

    @property
    def quiet(self) -> bool:
        """Whether the peer neither closed nor said anything, asked of the kernel.

        The reactor may not have got to what a peer did in this turn, and an answer that nobody
        asked for must not meet the next request.
        """
        if self._poller is None:
            self._poller = poller_of(self.transport)
        return not self._poller.poll(0)

    def abort(self) -> None:
        """Break the connection off."""
        self.doomed = True
        self._deadline = NEVER
        if not self._lost and self.transport is not None:
            self.transport.abortConnection()

    # A request, and its answer.

    def send(
        self,
        method: bytes,
        head: bytes,
        body: bytes | IBodyProducer | None,
        framed: bool,
        receiver: ResponseReceiver,
    ) -> None:
        """Send a request.

        :param head: request line and header lines, complete but for the blank line, and for the
            framing of a body that carries none yet.
        :param body: the bytes, or who produces them.
        :param framed: whether *head* holds the body's ``Content-Length``.
        """
        self._method = method
        self._receiver = receiver
        self._response = None
        self._ended = self._keep = self._held = False
        self._interims = self._read_bytes = 0
        self._start_head()
        if body is None or isinstance(body, bytes):
            self._await("the response's head", self._timeouts.head)
            if body is None:
                body = b""
            elif not framed:
                head += b"Content-Length: %d\r\n" % len(body)
            self._write(head + b"\r\n" + body)
            self._sending = len(body) >= LARGE and parked(self.transport) > 0
        else:
            upload = self._upload = RequestUpload(self, body)
            self._sending = True
            self.put(head + upload.framing(framed) + b"\r\n")
            self.transport.registerProducer(body, True)
            upload.start()

    def cancel(self) -> None:
        """The receiver wants no answer any more."""
        self._receiver = None
        self._drop()

    def _write(self, data: bytes) -> None:
        self._sent += len(data)
        self._writer.write(self.transport, data)

    def put(self, data: bytes) -> None:
        """A piece of a request whose body is streamed."""
        self._await("room for the request's body", self._timeouts.silence)
        self._write(data)

    def uploaded(self, failure: Failure | None) -> None:
        """The request is complete, or never will be."""
        self._upload = None
        if failure is not None:
            self._fail(failure)
        elif not self._lost:
            self.transport.unregisterProducer()
            if self._response is None:
                self._check_sending()

    def _stop_upload(self) -> bool:
        """Whether there was one to be stopped."""
        upload, self._upload = self._upload, None
        if upload is None:
            return False
        upload.stop()
        return True

    def _drop(self) -> None:
        """Nobody wants this exchange any more."""
        self.abort()
        self._stop_upload()

    def _fail(self, reason: Failure) -> None:
        self._break(reason)
        self._drop()

    def _break(self, reason: Failure) -> None:
        """Tell whoever waits, once."""
        receiver, self._receiver = self._receiver, None
        response, self._response = self._response, None
        self._method = b""
        if response is None and receiver is None:
            return
        if response is not None:
            if self._closes_body(reason):
                response.end(lambda sink: sink.closed())
            else:
                response.end(lambda sink: sink.broken(reason))
        self._stop_upload()
        if receiver is not None:
            cause = None
            if reason.check(ProtocolViolation, UpstreamTimeout) is None:
                reason = Failure(ConnectionBroken(reason))
                if self._served and not self._read_bytes:
                    cause = Cause.RESET
            receiver.failed(reason, cause)

    def _closes_body(self, reason: Failure) -> bool:
        return self._close_delimited and reason.check(ConnectionDone) is not None

    # Bytes in.

    def dataReceived(self, data: bytes) -> None:
        if not self._method:
            self.abort()  # bytes that nobody asked for must not meet the next request
            return
        size = self._read_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._violated("it switched protocols unasked")
            return
        except HttpParserError as refused:
            error = refused.__context__ or refused
            if not self._ended:
                self._deliver()
                self._violated(str(error))
                return
            self._keep = False  # what follows a complete answer is nobody's
        if not self._body and not self._ended:
            self._head_bytes += size
            if self._head_bytes > 2 * MAX_HEADER_BYTES:
                self._violated("its header or framing has no end")
                return
        else:
            self._head_bytes = 0
        self._deliver()

    def _violated(self, how: str) -> None:
        self._fail(Failure(ProtocolViolation(how)))

    def _deliver(self) -> None:
        """Hand on what this read brought."""
        response = self._response
        if response is None:
            return
        body, self._body = self._body, []
        ended = self._ended
        receiver, self._receiver = self._receiver, None
        if ended:
            self._finish()
        elif self._upload is None:
            self._await("more of the response", self._timeouts.silence)
        data = body[0] if len(body) == 1 else b"".join(body)
        if data or ended:
            response.take(data, ended)
        if receiver is not None:
            receiver.answered(response)
            if not ended and response.unclaimed:
                self.hold()

    def _finish(self) -> None:
        """The response is complete: keep the connection, or let it go."""
        self._response = None
        self._method = b""
        self._deadline = NEVER
        cut_short = self._upload is not None and self._stop_upload()
        if self._lost or self.transport is None:
            return
        if cut_short:
            self.transport.abortConnection()
        elif self._keep:
            self._served = True
            self._deadline = self._ticker.now + IDLE_SECONDS
            self._on_free(self)
        else:
            self._writer.flush()
            self._deadline = self._ticker.now + CLOSE_SECONDS
            self.transport.loseConnection()

    # llhttp's side.

    def _start_head(self) -> None:
        self._reason = b""
        self._header = []
        self._body = []
        self._head_bytes = 0
        self._close_delimited = False

    def on_message_begin(self) -> None:
        if self._ended:
            raise ProtocolViolation("it sent more than one answer")

    def on_status(self, reason: bytes) -> None:
        self._reason += reason
        if len(self._reason) > LONGEST_REASON:
            raise ProtocolViolation("its reason phrase exceeds 1 KiB")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header += (name, value)

    def on_headers_complete(self) -> None:
        if self._response is not None:
            raise ProtocolViolation("it sent more than one answer")
        parser = self._parser
        status = parser.get_status_code()
        header = self._header
        if len(header) > 2 * MAX_HEADER_FIELDS:
            raise ProtocolViolation(f"its header exceeds {MAX_HEADER_FIELDS} fields")
        if self._head_bytes or self._read_bytes > MAX_HEADER_BYTES:  # else it cannot be too large
            if sum(map(len, header)) + 2 * len(header) > MAX_HEADER_BYTES:
                raise ProtocolViolation("its header exceeds 64 KiB")
        if status < 100 or (self._reason != b"OK" and _PHRASE.fullmatch(self._reason) is None):
            raise ProtocolViolation("its status line is malformed")
        self._interim = status < 200
        if self._interim:
            self._interim_answer(status)
            return
        if not 200 <= status <= 599:
            raise ProtocolViolation(f"it answered with status {status}")
        self._header = []  # trailers, which are dropped, must not get among the header's lines
        shape, values = template_of(tuple(header[::2])), tuple(header[1::2])
        fields = shape.fields(values)
        length = self._length(status, fields)
        self._keep = parser.should_keep_alive() and not self._ended
        self._response = Response(self, status, self._reason, shape, values, fields, length)

    def _length(self, status: int, fields: Fields) -> Any:
        """How the body is delimited (RFC 9112 §6.3)."""
        coding = fields.get(b"transfer-encoding")
        length = fields.get(b"content-length")
        if self._method == b"HEAD":
            self._ended = True
        elif status in (204, 304):
            return 0
        elif coding is not None:
            if coding.strip(b" \t").lower() != b"chunked":
                raise ProtocolViolation("its Transfer-Encoding is not chunked")
            return UNKNOWN_LENGTH
        elif length is None:
            self._close_delimited = True
            return UNKNOWN_LENGTH
        return UNKNOWN_LENGTH if length is None else int(length)

    def _interim_answer(self, status: int) -> None:
        if status == 101:
            raise ProtocolViolation("it switched protocols unasked")
        self._interims += 1
        if self._interims > MOST_INTERIM:
            raise ProtocolViolation("its interim answers have no end")
        if status != 100 and self._receiver is not None:
            header = self._header
            headers = list(zip(header[::2], header[1::2], strict=True))
            self._receiver.informed(status, self._reason, headers)

    def on_body(self, data: bytes) -> None:
        if self._ended:
            raise ProtocolViolation("it sent a body that it may not send")
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self._start_head()
        else:
            self._ended = True

    # Backpressure and deadlines.

    def hold(self) -> None:
        """Do not read: the body has nowhere to go."""
        if not self._held and not self._lost:
            self._held = True
            self._deadline = NEVER
            self.transport.pauseProducing()

    def read_on(self) -> None:
        """Read again."""
        if self._held and not self._lost:
            self._held = False
            self._await("more of the response", self._timeouts.silence)
            self.transport.resumeProducing()

    def _await(self, what: str, seconds: float) -> None:
        self._awaited = what
        self._deadline = self._ticker.seconds() + seconds

    def tick(self, now: float) -> None:
        """See to the deadline; called four times a second."""
        if self._sending and self._method and self._response is None:
            self._check_sending()
        if now >= self._deadline:
            self._deadline = NEVER
            if not self._method:
                self.abort()
            else:
                self._fail(Failure(UpstreamTimeout(self._awaited)))

    def _check_sending(self) -> None:
        """While upstream takes the request it has time; it answers once it has the last byte."""
        waiting = parked(self.transport)
        taken, before = self._sent - waiting, self._taken
        self._taken = taken
        if not waiting and self._upload is None:
            self._sending = False
            self._await("the response's head", self._timeouts.head)
        elif not waiting or taken != before:  # the client's pace is the server side's to judge
            self._await("room for the request's body", self._timeouts.silence)
