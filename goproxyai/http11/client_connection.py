"""The connection to an upstream.

1. A connection sends one request at a time, for one receiver, which is told once of the response or
   of the failure. :meth:`ClientConnection.cancel` and :meth:`.Response.abort` reset the connection
   in any state, and the receiver is told nothing more.
2. What one read brings is delivered at once: the head and the part of the body that was received
   with it reach the receiver in one turn, so that they can be relayed in one write.
3. A body ends complete, closed (delimited by the end of the connection) or broken
   (:class:`.BodySink`).
4. The connection is not read between the response head and :meth:`.Response.deliver`, nor while the
   response is paused: at most one read is held.
5. A connection is used again only after an exchange that was complete in both directions.
6. After a response with status 101 the connection belongs to a :class:`~.tunnel_end.TunnelEnd`.
"""

from __future__ import annotations

from collections.abc import Callable
from select import poll
from typing import Any
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from goproxyai.errors import out_of_memory
from goproxyai.http11.connection_deadlines import CLOSE_SECONDS, ClientDeadlines, Timeouts
from goproxyai.http11.connection_states import ClientState
from goproxyai.http11.errors import ConnectionBroken, ProtocolViolation, UpstreamTimeout
from goproxyai.http11.request_upload import RequestUpload
from goproxyai.http11.response import ResponseReceiver
from goproxyai.http11.response_parser import COMPLETE, SWITCHED, UNTIL_CLOSE, ResponseParser
from goproxyai.http11.tunnel_end import TunnelEnd
from goproxyai.limits.request_memory import Holding, RequestMemory
from goproxyai.messages.headers import Headers
from goproxyai.reactor.deadlines import NEVER, Ticker, postponed
from goproxyai.reactor.receivers import receive_directly
from goproxyai.reactor.socket_state import (
    input_poll,
    report_half_close,
    set_tcp_options,
    unacknowledged_bytes,
)
from goproxyai.reactor.socket_write import unsent_bytes
from goproxyai.reactor.write_batch import MIN_UNBATCHED_BYTES, Writer
from goproxyai.upstream.retries import RetryCause

CONNECTING, IDLE, ACTIVE, TUNNEL, CLOSING, ABORTED, CLOSED = ClientState


@implementer(IHandshakeListener)
class ClientConnection(TwistedProtocol):
    """One connection to an upstream.

    :param secured: whether it is a TLS connection, which is ready after the handshake.
    :param on_idle: called when the connection can be used again.
    :param on_lost: called when it is lost.
    :param writer: shared by all connections.
    :param memory: the budget in which unsent bytes, large response heads, and bodies that upstream
        does not read before it answers are counted, shared by all connections.
    :ivar ready: fires with the connection when it can be used; cancelling resets the connection.
    :ivar state: what the connection is used for.
    :ivar reading_paused: whether the transport is paused.
    """

    __slots__ = (
        "_deadlines", "_holding", "_on_idle", "_on_lost", "_parser", "_poller", "_receiver",
        "_reused", "_secured", "_ticker", "_tunnel", "_upload", "_writer", "reading_paused",
        "ready", "state",
    )  # fmt: skip

    transport: Any  # ITransport declares only a part of what transports have

    def __init__(
        self,
        ticker: Ticker,
        timeouts: Timeouts,
        secured: bool,
        on_idle: Callable[[ClientConnection], None],
        on_lost: Callable[[ClientConnection], None],
        writer: Writer,
        memory: RequestMemory,
    ) -> None:
        this = ref(self)  # a strong reference would form a cycle
        self.ready: Deferred[ClientConnection] = Deferred(lambda _: _abort(this()))
        self.state = CONNECTING
        self.reading_paused = False
        self._ticker = ticker
        self._deadlines = ClientDeadlines(timeouts, ticker.now)
        self._holding = Holding(memory)
        self._secured = secured
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._writer = writer
        self._parser = ResponseParser(self)
        self._poller: poll | None = None
        self._receiver: ResponseReceiver | None = None
        self._upload: RequestUpload | None = None
        self._tunnel: TunnelEnd | None = None
        self._reused = False  # the connection has served a request

    # Called by the transport.

    def connectionMade(self) -> None:
        receive_directly(self.transport, self)
        set_tcp_options(self.transport)
        self._ticker.watched.add(self)
        if not self._secured:
            self._become_ready()

    def handshakeCompleted(self) -> None:
        """Become ready: the certificate has been verified."""
        self._become_ready()

    def _become_ready(self) -> None:
        if self.state is CONNECTING:
            self.state = IDLE
            self.ready.callback(self)

    def dataReceived(self, data: bytes) -> None:
        if self.state is not ACTIVE:
            if self._tunnel is not None:
                self._tunnel.receive(data)
            else:
                self.abort()  # these bytes must not become the response to the next request
            return
        try:
            self._parser.feed(data)
        except ProtocolViolation as violation:
            self._deliver()
            self._fail(Failure(violation.with_traceback(None)))  # its frames refer to this object
            return
        self._deliver()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail what is in progress."""
        self.state = CLOSED
        self._ticker.watched.discard(self)
        self._on_lost(self)
        self._holding.hold(0)
        if self._tunnel is not None:
            self._tunnel.connection_lost(reason)
            return
        if not self.ready.called:
            self.ready.errback(reason)
        self._break(reason)
        self._parser.close()

    # Called by the connection pool.

    def is_usable(self) -> bool:
        """Return whether an idle connection can send another request.

        The idle time may be over before the next tick aborts the connection. Whether the upstream
        has closed the connection or sent bytes, the kernel is asked, since the reactor may not have
        reached the event in this turn: what was sent would become the next response.
        """
        if self._ticker.seconds() >= self._deadlines.expires_at:
            return False
        if self._poller is None:
            self._poller = input_poll(self.transport)
        return not self._poller.poll(0)

    def abort(self) -> None:
        """Reset the connection."""
        if self.state is not CLOSED and self.state is not ABORTED:
            self.state = ABORTED
            self._deadlines.expires_at = NEVER
            if self.transport is not None:
                self.transport.abortConnection()

    # The switch of protocols.

    def may_switch_protocols(self) -> bool:
        return self._receiver is not None and self._receiver.may_switch_protocols()

    def start_tunnel(self, early: bytes) -> TunnelEnd:
        self._parser.close()
        self._ticker.watched.discard(self)
        report_half_close(self.transport, self)
        self._tunnel = TunnelEnd(self.transport, self._writer, self._ticker, self._holding, early)
        return self._tunnel

    def readConnectionLost(self) -> None:
        """Take note of the upstream's FIN; without a tunnel, Twisted calls connectionLost."""
        if self._tunnel is not None:
            self._tunnel.end_input()

    def writeConnectionLost(self) -> None:
        """Do nothing: the FIN to the upstream is sent."""

    # The request.

    def send(
        self,
        method: bytes,
        head: bytes,
        body: bytes | IBodyProducer | None,
        has_length: bool,
        receiver: ResponseReceiver,
    ) -> None:
        """Send a request.

        :param head: request line and header lines, without the blank line and without the framing
            of a body that has none yet.
        :param body: bytes, or what produces them.
        :param has_length: whether *head* contains the ``Content-Length`` of *body*.
        """
        self.state = ACTIVE
        self.reading_paused = False
        self._receiver = receiver
        self._parser.start(method)
        self._deadlines.is_post = method == b"POST"
        if body is None or isinstance(body, bytes):
            self._deadlines.await_response_head(self._ticker.seconds())
            if body is None:
                body = b""
            elif not has_length:
                head += b"Content-Length: %d\r\n" % len(body)
            self._write(head + b"\r\n" + body)
            self._deadlines.sending = len(body) >= MIN_UNBATCHED_BYTES
        else:
            upload = self._upload = RequestUpload(self, body)
            self._deadlines.sending = True
            self.send_body(head + upload.framing_line(has_length) + b"\r\n")
            self.transport.registerProducer(body, True)
            upload.start()

    def cancel(self) -> None:
        """Reset the connection; the receiver is told nothing more."""
        self._receiver = None
        self._drop()

    def _write(self, data: bytes) -> None:
        self._deadlines.bytes_written += len(data)
        self._writer.write(self.transport, data)

    def send_body(self, data: bytes) -> None:
        """Write a part of a streamed request."""
        self._deadlines.await_request_progress(self._ticker.seconds())
        self._write(data)

    def upload_finished(self, failure: Failure | None) -> None:
        self._upload = None
        if failure is not None:
            self._fail(failure)
        elif self.state is not CLOSED:
            self.transport.unregisterProducer()
            if self._parser.response is None:
                self._count_memory()
                self._deadlines.await_response_head(self._ticker.seconds())
            elif self._holding.held:
                self._count_memory()

    def _stop_upload(self) -> bool:
        """Stop the upload; return whether there was one."""
        upload, self._upload = self._upload, None
        if upload is None:
            return False
        upload.stop()
        return True

    def _check_request_progress(self) -> None:
        self._count_memory()
        self._deadlines.check_request_progress(
            unsent_bytes(self.transport),
            unacknowledged_bytes(self.transport),
            self._upload is not None,
            self._ticker.seconds(),
        )

    def _count_memory(self) -> None:
        held = unsent_bytes(self.transport) + self._parser.framing_memory
        if self._upload is not None and self._parser.response is not None:
            held += self._upload.held_bytes  # the request counted its body until the response head
        self._holding.hold(held)

    # The response.

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        if self._receiver is not None:
            self._receiver.interim_received(status, reason, headers)

    def _deliver(self) -> None:
        """Deliver what the last read brought."""
        parser = self._parser
        response = parser.response
        if parser.framing_memory or self._upload is not None or self._holding.held:
            self._count_memory()
            if self._receiver is not None and not self._head_fits():
                return
        if response is None:
            return
        complete = parser.state is COMPLETE
        data = parser.take_body()
        receiver, self._receiver = self._receiver, None
        if complete:
            self._finish(response.fields.get(b"keep-alive"))
        elif parser.state is SWITCHED:
            self._switch()
        elif self._upload is None:
            self._deadlines.await_response_body(self._ticker.seconds())
        if data or complete:
            response.receive(data, complete)
        if receiver is not None:
            receiver.answered(response)
            if not complete and response.unclaimed:
                self.pause_reading()

    def _head_fits(self) -> bool:
        """Fail the request if its response head does not fit in the budget; return whether it does.

        Slow readers are broken off first. They may be waiting for this very response.
        """
        memory = self._holding.memory
        if self._parser.framing_memory and memory.is_exceeded and not memory.make_room():
            self._fail(Failure(out_of_memory()))
        return self.state is ACTIVE

    def _switch(self) -> None:
        """End the use of HTTP; the receiver of the response starts the tunnel."""
        self._parser.response = None
        self.pause_reading()
        self._deadlines.sending = False
        self.state = TUNNEL

    def _finish(self, announced: bytes | None) -> None:
        """Keep or close the connection after a complete response.

        :param announced: the ``Keep-Alive`` field of the response.
        """
        parser, deadlines = self._parser, self._deadlines
        parser.response = None
        if self._holding.held:
            self._holding.hold(0)
        deadlines.expires_at = NEVER
        incomplete_request = self._upload is not None and self._stop_upload()
        if self.state is not ACTIVE:
            return
        if incomplete_request:
            self.abort()
        elif parser.keep_alive and deadlines.await_next_request(announced, self._ticker.now):
            self.state = IDLE
            self._reused = True
            self._on_idle(self)
        else:
            self.state = CLOSING
            self._writer.flush()
            deadlines.expires_at = self._ticker.now + CLOSE_SECONDS
            self.transport.loseConnection()

    def _fail(self, reason: Failure) -> None:
        self._break(reason)
        self._drop()

    def _drop(self) -> None:
        self.abort()
        self._stop_upload()

    def _break(self, reason: Failure) -> None:
        """Tell the receiver, or the sink of the response, that the exchange has ended early."""
        parser = self._parser
        receiver, self._receiver = self._receiver, None
        response, parser.response = parser.response, None
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
                if self._reused and not parser.read_bytes:
                    cause = RetryCause.RESET
            receiver.failed(reason, cause)

    def _closes_body(self, reason: Failure) -> bool:
        return self._parser.state is UNTIL_CLOSE and reason.check(ConnectionDone) is not None

    def pause_reading(self) -> None:
        """Stop reading, and do not count the time until :meth:`resume_reading`."""
        if not self.reading_paused and self.state is not CLOSED:
            self.reading_paused = True
            self._deadlines.expires_at = NEVER
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        if self.reading_paused and self.state is not CLOSED:
            self.reading_paused = False
            self._deadlines.await_response_body(self._ticker.seconds())
            self.transport.resumeProducing()

    # Called by the ticker.

    def tick(self, now: float) -> None:
        """Act on the deadline if it is due."""
        deadlines = self._deadlines
        if deadlines.sending and self.state is ACTIVE and self._parser.response is None:
            self._check_request_progress()
        if now >= deadlines.expires_at:
            deadlines.expires_at = NEVER
            if self.state is ACTIVE:
                self._fail(Failure(UpstreamTimeout(deadlines.awaited)))
            else:
                self.abort()

    def postpone(self, lost: float, now: float) -> None:
        if self.state is ACTIVE:  # for an idle connection, the time of the upstream counts
            self._deadlines.expires_at = postponed(self._deadlines.expires_at, lost, now)


def _abort(connection: ClientConnection | None) -> None:
    if connection is not None:
        connection.abort()
