"""The connection to a client.

1. :class:`~.request_parser.RequestParser` turns bytes into requests, and each request becomes an
   exchange. Input that is refused becomes an exchange with a ``problem``, which is handled in its
   turn and is the last one.
2. Exchanges are dispatched one at a time, in order. While pipelined requests wait the connection
   is not read, so at most one read (64 KiB) of them is parsed. While the client does not read its
   responses nothing more is dispatched or read.
3. Deadlines (:mod:`.connection_deadlines`) are checked by the ticker.
4. When the daemon drains, the current exchange is the last. An idle connection is closed at once; a
   new one gets a moment to send its first request.
5. A connection is closed while the client may still be sending: the output is shut, and input is
   discarded for :data:`.LINGER_SECONDS`, so that a reset does not destroy the response.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from goproxyai.errors import ProxyError
from goproxyai.http11.connection_deadlines import (
    HEAD_TIMEOUT_SECONDS,
    LINGER_SECONDS,
    ServerDeadlines,
)
from goproxyai.http11.connection_limits import ConnectionLimits
from goproxyai.http11.connection_states import InputState
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.exchange_queue import ExchangeQueue
from goproxyai.http11.request_body import RequestBody, WholeBody
from goproxyai.http11.request_head import FieldValues, RequestHead
from goproxyai.http11.request_parser import BODY, ENDED, HEAD, ParserOptions, RequestParser
from goproxyai.http11.response_output import BLOCKED, CLOSED, CLOSING, WRITABLE, ResponseOutput
from goproxyai.reactor.deadlines import NEVER, Ticker
from goproxyai.reactor.socket_state import input_poll, peer_closed, set_tcp_options
from goproxyai.reactor.write_batch import Writer


class ServerContext(ParserOptions, Protocol):
    """What all connections to clients share.

    :ivar dispatch: is called with every exchange, and must end it.
    :ivar connections: the open ones.
    """

    ticker: Ticker
    dispatch: Callable[[Exchange], None]
    keep_alive_seconds: float
    writer: Writer
    connection_limits: ConnectionLimits
    connections: set[ServerConnection]


class ServerConnection(TwistedProtocol):
    """One client's connection.

    :ivar peer: the address of the client, as text.
    :ivar fresh: whether no request has been received.
    :ivar reading_paused: whether the transport is paused.
    """

    __slots__ = (
        "_context", "_deadlines", "_draining", "_over_limit", "_parser", "_queue", "fresh",
        "output", "peer", "reading_paused",
    )  # fmt: skip

    transport: Any  # ITransport declares only a part of what transports have
    output: ResponseOutput

    def __init__(self, context: ServerContext, peer: str) -> None:
        self.peer = peer
        self.fresh = True
        self.reading_paused = False
        self._context = context
        self._parser = RequestParser(self, context)
        self._deadlines = ServerDeadlines(context.ticker.now)
        self._queue = ExchangeQueue()
        self._draining = False
        self._over_limit = False

    # Called by the transport.

    def connectionMade(self) -> None:
        context = self._context
        set_tcp_options(self.transport)
        self.output = ResponseOutput(self.transport, context.writer, self)
        context.ticker.watched.add(self)
        context.connections.add(self)
        self._over_limit = not context.connection_limits.connection_made(self)

    def dataReceived(self, data: bytes) -> None:
        self._parser.feed(data)
        if self._queue.waiting:
            self._dispatch_waiting()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        context = self._context
        self.output.connection_lost()
        self._parser.close()
        context.ticker.watched.discard(self)
        context.connections.discard(self)
        context.connection_limits.connection_lost(self)
        self._queue.connection_lost()

    # Called by the parser.

    def head_started(self) -> None:
        self._deadlines.expires_at = self._context.ticker.now + HEAD_TIMEOUT_SECONDS

    def request_received(
        self,
        head: RequestHead,
        values: FieldValues,
        body: RequestBody | WholeBody,
        problem: ProxyError | None,
    ) -> None:
        ticker = self._context.ticker
        exchange = Exchange(self, ticker.seconds(), head, values, body, problem)
        exchange.is_first, self.fresh = self.fresh, False
        self._deadlines.expires_at = NEVER
        self._deadlines.start_body(ticker.now)
        if self._over_limit:
            self._over_limit = not self._context.connection_limits.admit_late(self, exchange)
        if exchange.problem is not None:
            self._parser.end()
        self._queue.waiting.append(exchange)

    def repeated_request_received(
        self, head: RequestHead, values: FieldValues, body: RequestBody | WholeBody
    ) -> None:
        ticker = self._context.ticker
        exchange = Exchange(self, ticker.seconds(), head, values, body)
        self._deadlines.expires_at = NEVER
        if not body.complete:
            self._deadlines.start_body(ticker.now)
        # The way through the queue costs 2 % of a hit (bench/inside.py).
        queue = self._queue
        if queue.active is None and not queue.waiting and self.output.state is WRITABLE:
            queue.active = exchange
            self._context.dispatch(exchange)
        else:
            queue.waiting.append(exchange)

    def request_refused(self, head: RequestHead, problem: ProxyError) -> None:
        last = self._queue.last
        if last is not None and not last.keep_alive and last.body.complete:
            return  # its response closes the connection
        self._deadlines.expires_at = NEVER
        now = self._context.ticker.seconds()
        self._queue.waiting.append(Exchange(self, now, head, (), WholeBody(b""), problem))

    def body_refused(self, problem: ProxyError) -> None:
        self._deadlines.expires_at = NEVER
        exchange = self._queue.last
        if exchange is not None and exchange is self._queue.active:
            exchange.fail(problem)
        elif exchange is not None:
            exchange.problem = problem

    def _dispatch_waiting(self) -> None:
        if self._queue.dispatch_next(self._context.dispatch, self.output):
            self.pause_reading()

    # Called by the output.

    def output_blocked(self) -> None:
        if self._queue.active is None:
            self.pause_reading()

    def output_writable(self) -> None:
        if self._queue.active is None:
            self._dispatch_waiting()
            self.resume_reading()

    # Called by exchanges and bodies.

    def send(self, data: bytes) -> None:
        self.output.send(data)

    def pause_reading(self) -> None:
        if not self.reading_paused and self.output.state is not CLOSED:
            self.reading_paused = True
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read again, unless requests wait or the client does not read its responses."""
        if not self.reading_paused or self.output.state is CLOSED:
            return
        if self._parser.state is BODY or not (self._queue.waiting or self.output.state is BLOCKED):
            self.reading_paused = False
            self.transport.resumeProducing()

    def exchange_done(self, exchange: Exchange, keep_alive: bool) -> None:
        if exchange is not self._queue.active:
            return
        self._queue.active = None
        self.output.producer = None
        if not keep_alive:
            self._close()
        elif self._queue.waiting:
            self._dispatch_waiting()
        else:
            state = self._parser.state
            if state is not HEAD:
                context = self._context
                self._deadlines.expires_at = context.ticker.now + context.keep_alive_seconds
            if state is ENDED or (self._draining and state is not HEAD):
                self._close()
            elif self.reading_paused:
                self.resume_reading()

    def abort(self) -> None:
        self.output.abort()

    def _close(self, client_is_idle: bool = False) -> None:
        """Close the connection after everything is written.

        :param client_is_idle: the client is not sending, so that its input need not be discarded.
        """
        if self.output.state is CLOSED:
            return
        self._parser.end()
        self._queue.drop_waiting()
        self._deadlines.expires_at = self._context.ticker.now + LINGER_SECONDS
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resumeProducing()
        self.output.close(linger=not client_is_idle)

    # Deadlines.

    def postpone(self, lost: float, now: float) -> None:
        self._deadlines.postpone(lost, now)

    def tick(self, now: float) -> None:
        deadlines = self._deadlines
        passed = deadlines.tick(now)
        if self.reading_paused:
            if peer_closed(self.transport):
                self.abort()
                return
            if self.output.state is not CLOSING:
                deadlines.expires_at += passed
        body = self._parser.body
        if body is not None:
            if self.reading_paused or body.awaits_continue:
                deadlines.postpone_body(passed)
            elif deadlines.body_is_too_slow(body.received, now):
                self._refuse("The request body was received at less than 500 bytes per second.")
        if now >= deadlines.expires_at:
            self._expire(now)
        unsent = self.output.unsent()
        if deadlines.reader_is_stalled(self.output.bytes_written, unsent, now):
            self.abort()
        if not unsent and deadlines.has_changed():
            self._report_idle(now)

    def _report_idle(self, now: float) -> None:
        """Tell the limits whether this connection may be closed in favour of a new one."""
        slots = self._context.connection_limits.slots
        if self.idle and self.output.state is not CLOSING and self._parser.state is not HEAD:
            slots.mark_idle(self, now)
        else:
            slots.mark_busy(self)

    def _expire(self, now: float) -> None:
        deadlines = self._deadlines
        deadlines.expires_at = NEVER
        if self.output.state is CLOSING:
            if self.output.unsent():  # the response first; a stalled reader has its own deadline
                deadlines.expires_at = now + LINGER_SECONDS
            else:
                self.abort()
        elif self._parser.state is HEAD:
            self._refuse("The request header was not complete within 20 seconds.")
        else:
            self._close(client_is_idle=True)

    def _refuse(self, message: str) -> None:
        self._parser.refuse(ProxyError("bad_request", message))
        self._dispatch_waiting()

    # Called by the daemon and the limits.

    def drain(self, patient: bool) -> None:
        """Close the connection, at once if it is idle, else after the current exchange.

        A response that has not started announces the close. A request that is received after an
        idle connection was closed is not answered: the client sees the end of a connection that it
        has used, before the first byte of a response, and retries on another connection.

        :param patient: wait for the first request of a new connection, because the client has no
            reason to expect that an unused connection is closed.
        """
        self._draining = True
        active = self._queue.active
        if active is not None:
            if not (active.response_started or self._queue.waiting):
                active.keep_alive = False
        elif not (
            self._queue.waiting
            or self._parser.state in (HEAD, BODY)
            or self.output.state is CLOSING
            or (patient and self.fresh)
        ):
            self._close()

    def shut_down(self, problem: ProxyError | None = None) -> None:
        """Close an idle connection, and reset any other.

        :param problem: the response to a request that has none yet; it closes the connection.
        """
        active, answered = self._queue.active, False
        if problem is not None and active is not None and not active.response_started:
            active.fail(problem)
            answered = True
        if self.idle:
            self._close(client_is_idle=True)
        elif not answered:
            self.abort()

    @property
    def input_state(self) -> InputState:
        """What the next byte from the client belongs to."""
        return self._parser.state

    @property
    def idle(self) -> bool:
        """Whether no request is being received, handled or answered."""
        return (
            self._queue.active is None
            and not self._queue.waiting
            and self._parser.body is None
            and not self.output.unsent()
        )

    @property
    def evictable(self) -> bool:
        """Whether the connection is idle, and the kernel holds no input from the client."""
        return (
            self.output.state not in (CLOSING, CLOSED)
            and self._parser.state is not HEAD
            and self.idle
            and not input_poll(self.transport).poll(0)
        )
