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

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.errors import ProxyError
from goproxyai.http11.connection_deadlines import (
    HEAD_TIMEOUT_SECONDS,
    KEEP_ALIVE_SECONDS,
    LINGER_SECONDS,
    ServerDeadlines,
)
from goproxyai.http11.connection_limits import HEALTH, ConnectionLimits
from goproxyai.http11.connection_states import InputState, OutputState
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.repeated_head import RepeatedHeadCache
from goproxyai.http11.request_body import RequestBody, WholeBody
from goproxyai.http11.request_head import FieldValues, RequestHead
from goproxyai.http11.request_parser import BODY, ENDED, HEAD, RequestParser
from goproxyai.limits.addresses import canonical_address
from goproxyai.reactor.deadlines import NEVER, Ticker
from goproxyai.reactor.socket_state import can_half_close, input_poll, peer_closed, set_no_delay
from goproxyai.reactor.socket_write import unsent_bytes
from goproxyai.reactor.write_batch import ImmediateWriter, Writer

LOCAL_PEER = "local"
"""Address of a client that has none, such as one over a Unix socket."""

WRITABLE, BLOCKED, CLOSING, CLOSED = OutputState


@implementer(IPushProducer)
class ServerConnection(Protocol):
    """One client's connection.

    :ivar peer: the address of the client, as text.
    :ivar reading_paused: whether the transport is paused.
    """

    __slots__ = (
        "_active", "_deadlines", "_dispatching", "_draining", "_fresh", "_output", "_over_limit",
        "_parser", "_producer", "_waiting", "peer", "reading_paused",
    )  # fmt: skip

    factory: ServerFactory
    transport: Any  # ITransport declares only a part of what transports have

    def __init__(self, factory: ServerFactory, peer: str) -> None:
        self.factory = factory
        self.peer = peer
        self._parser = RequestParser(self, factory)
        self._deadlines = ServerDeadlines(factory.ticker.now)
        self._active: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._dispatching = False
        self._output = WRITABLE
        self._producer: IPushProducer | None = None  # of the active exchange's response
        self.reading_paused = False
        self._fresh = True  # no request has been received
        self._draining = False
        self._over_limit = False

    # Called by the transport.

    def connectionMade(self) -> None:
        factory = self.factory
        set_no_delay(self.transport)
        self.transport.registerProducer(self, True)
        factory.ticker.watched.add(self)
        factory.connections.add(self)
        self._over_limit = not factory.connection_limits.came(self, self.peer)

    def dataReceived(self, data: bytes) -> None:
        self._parser.feed(data)
        if self._waiting:
            self._dispatch_waiting()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End all exchanges of this connection."""
        factory = self.factory
        self._output = CLOSED
        self._producer = None
        self._parser.close()
        factory.ticker.watched.discard(self)
        factory.connections.discard(self)
        factory.connection_limits.left(self)
        active, self._active = self._active, None
        waiting, self._waiting = self._waiting, deque()
        for exchange in (active, *waiting):
            if exchange is not None:
                exchange.connection_lost()

    def pauseProducing(self) -> None:
        """Pause what makes the response: the client reads too slowly."""
        if self._output is not WRITABLE:
            return
        self._output = BLOCKED
        if self._active is None:
            self.pause_reading()
        elif self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Resume it."""
        if self._output is not BLOCKED:
            return
        self._output = WRITABLE
        if self._active is None:
            self._dispatch_waiting()
            self.resume_reading()
        elif self._producer is not None:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: Twisted calls ``connectionLost`` next."""

    # Called by the parser.

    def head_started(self) -> None:
        self._deadlines.expires_at = self.factory.ticker.now + HEAD_TIMEOUT_SECONDS

    def request_received(
        self,
        head: RequestHead,
        values: FieldValues,
        body: RequestBody | WholeBody,
        problem: ProxyError | None,
    ) -> None:
        ticker = self.factory.ticker
        exchange = Exchange(self, ticker.seconds(), head, values, body, problem)
        exchange.first, self._fresh = self._fresh, False
        self._deadlines.expires_at = NEVER
        self._deadlines.start_body(ticker.now)
        if self._over_limit:
            self._admit_over_limit(exchange)
        if exchange.problem is not None:
            self._parser.end()
        self._waiting.append(exchange)

    def _admit_over_limit(self, exchange: Exchange) -> None:
        """Refuse a request of a connection over the limits, see :mod:`.connection_limits`."""
        if not exchange.target.startswith(HEALTH):
            problem = self.factory.connection_limits.asked(self, self.peer)
            self._over_limit = problem is not None
            exchange.problem = problem or exchange.problem
        if self._over_limit:
            exchange.keep_alive = False

    def repeated_request_received(
        self, head: RequestHead, values: FieldValues, body: RequestBody | WholeBody
    ) -> None:
        ticker = self.factory.ticker
        exchange = Exchange(self, ticker.seconds(), head, values, body)
        self._deadlines.expires_at = NEVER
        if not body.complete:
            self._deadlines.start_body(ticker.now)
        # Past the queue: 0.15 us of the 11 us of a hit (bench/inside.py).
        if self._active is None and self._output is WRITABLE and not self._waiting:
            self._active = exchange
            self.factory.dispatch(exchange)
        else:
            self._waiting.append(exchange)

    def request_refused(self, head: RequestHead, problem: ProxyError) -> None:
        last = self._last_exchange
        if last is not None and not last.keep_alive and last.body.complete:
            return  # its response closes the connection
        self._deadlines.expires_at = NEVER
        began = self.factory.ticker.seconds()
        self._waiting.append(Exchange(self, began, head, (), WholeBody(b""), problem))

    def body_refused(self, problem: ProxyError) -> None:
        self._deadlines.expires_at = NEVER
        exchange = self._last_exchange
        if exchange is None:
            return
        if exchange is self._active:
            exchange.fail(problem)
        else:
            exchange.problem = problem

    @property
    def _last_exchange(self) -> Exchange | None:
        """The exchange whose request was received last, unless it has ended."""
        return self._waiting[-1] if self._waiting else self._active

    # Exchanges, in order.

    def _dispatch_waiting(self) -> None:
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._active is None and self._waiting and self._output is WRITABLE:
                exchange = self._active = self._waiting.popleft()
                self.factory.dispatch(exchange)
        finally:
            self._dispatching = False
        if self._waiting:
            self.pause_reading()

    # Called by exchanges and bodies.

    def send(self, data: bytes) -> None:
        if self._output is not CLOSED:
            self._deadlines.bytes_written += len(data)
            self.factory.writer.write(self.transport, data)

    def set_producer(self, producer: IPushProducer | None) -> None:
        self._producer = producer
        if producer is not None and self._output is BLOCKED:
            producer.pauseProducing()

    def pause_reading(self) -> None:
        if not self.reading_paused and self._output is not CLOSED:
            self.reading_paused = True
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read again, unless requests wait or the client does not read its responses."""
        if not self.reading_paused or self._output is CLOSED:
            return
        if self._parser.state is BODY or not (self._waiting or self._output is BLOCKED):
            self.reading_paused = False
            self.transport.resumeProducing()

    def exchange_done(self, exchange: Exchange, keep_alive: bool) -> None:
        if exchange is not self._active:
            return
        self._active = self._producer = None
        if not keep_alive:
            self._close()
        elif self._waiting:
            self._dispatch_waiting()
        else:
            state = self._parser.state
            if state is not HEAD:
                self._deadlines.expires_at = self.factory.ticker.now + KEEP_ALIVE_SECONDS
            if state is ENDED or (self._draining and state is not HEAD):
                self._close()
            elif self.reading_paused:
                self.resume_reading()

    def abort(self) -> None:
        """Reset the connection."""
        if self._output is not CLOSED and self.transport is not None:
            self.factory.writer.flush()
            self.transport.abortConnection()

    def _close(self, client_is_idle: bool = False) -> None:
        """Close the connection after everything is written.

        :param client_is_idle: the client is not sending, so that its input need not be discarded.
        """
        transport = self.transport
        if self._output is CLOSED or transport is None:
            return
        self._parser.end()
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.connection_lost()
        self.factory.writer.flush()
        transport.unregisterProducer()
        self._output = CLOSING
        self._deadlines.expires_at = self.factory.ticker.now + LINGER_SECONDS
        self.resume_reading()
        if client_is_idle or not can_half_close(transport):
            transport.loseConnection()
        else:
            transport.loseWriteConnection()

    # Deadlines.

    def tick(self, now: float) -> None:
        """Act on the deadlines that are due; called by the ticker."""
        deadlines = self._deadlines
        passed = deadlines.tick(now)
        if self.reading_paused:
            if peer_closed(self.transport):
                self.abort()
                return
            if self._output is not CLOSING:
                deadlines.expires_at += passed
        body = self._parser.body
        if body is not None:
            if self.reading_paused or body.awaits_continue:
                deadlines.postpone_body(passed)
            elif deadlines.body_is_too_slow(body.received, now):
                self._refuse("The request body was received at less than 500 bytes per second.")
        if now >= deadlines.expires_at:
            self._expire(now)
        unsent = unsent_bytes(self.transport)
        if deadlines.reader_is_stalled(unsent, now):
            self.abort()
        if not unsent and deadlines.has_changed():
            self._report_idle(now)

    def _report_idle(self, now: float) -> None:
        """Tell the limits whether this connection may be closed in favour of a new one."""
        slots = self.factory.connection_limits.slots
        if self.idle and self._output is not CLOSING and self._parser.state is not HEAD:
            slots.rests(self, now)
        else:
            slots.works(self)

    def _expire(self, now: float) -> None:
        deadlines = self._deadlines
        deadlines.expires_at = NEVER
        if self._output is CLOSING:
            if unsent_bytes(
                self.transport
            ):  # the response first; a stalled reader has its own deadline
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
        active = self._active
        if active is not None:
            if not (active.response_started or self._waiting):
                active.keep_alive = False
        elif not (
            self._waiting
            or self._parser.state in (HEAD, BODY)
            or self._output is CLOSING
            or (patient and self._fresh)
        ):
            self._close()

    def shut(self, problem: ProxyError | None = None) -> None:
        """Close an idle connection, and reset any other.

        :param problem: the response to a request that has none yet; it closes the connection.
        """
        active, answered = self._active, False
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
    def fresh(self) -> bool:
        """Whether no request has been received."""
        return self._fresh

    @property
    def idle(self) -> bool:
        """Whether no request is being received, handled or answered."""
        return (
            self._active is None
            and not self._waiting
            and self._parser.body is None
            and not unsent_bytes(self.transport)
        )

    @property
    def resting(self) -> bool:
        """Whether the connection is idle, and the kernel holds no input from the client."""
        return (
            self._output not in (CLOSING, CLOSED)
            and self._parser.state is not HEAD
            and self.idle
            and not input_poll(self.transport).poll(0)
        )


@implementer(IProtocolNegotiationFactory)
class ServerFactory(Factory[ServerConnection]):
    """Makes a :class:`ServerConnection` for each client.

    :param writer: shared by all connections; without one, connections write at once.
    :param connection_limits: without them every connection is accepted.
    :ivar dispatch: is called with every exchange, and must end it.
    :ivar max_body_bytes: of a request body.
    :ivar connections: the open ones.
    :ivar heads: the heads that clients repeat.
    """

    noisy = False

    def __init__(
        self,
        ticker: Ticker,
        dispatch: Callable[[Exchange], None],
        max_body_bytes: int,
        writer: Writer | None = None,
        connection_limits: ConnectionLimits | None = None,
    ) -> None:
        self.ticker = ticker
        self.dispatch = dispatch
        self.max_body_bytes = max_body_bytes
        self.writer: Writer = writer or ImmediateWriter()
        self.connection_limits = connection_limits or ConnectionLimits(ticker)
        self.heads = RepeatedHeadCache()
        self.connections: set[ServerConnection] = set()

    def acceptableProtocols(self) -> list[bytes]:
        """Return what ALPN offers on a TLS listener (RFC 7301)."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> ServerConnection:
        host = getattr(addr, "host", "") or LOCAL_PEER
        return ServerConnection(self, canonical_address(host) or host)
