"""The requests of one connection, in turn: received, parsed, handled.

1. :class:`~.request_parser.RequestParser` turns bytes into requests, and each request becomes an
   exchange. Input that is refused becomes an exchange with a ``problem``, which is handled in its
   turn and is the last one.
2. Exchanges are dispatched one at a time, in order. What is received while an exchange is handled
   stays unparsed, since parsed requests take fifty times the memory of their bytes.
3. A connection parses and dispatches for at most :data:`TURN_SECONDS` of a reactor turn. The rest
   waits for the next turn, so that a connection with many requests does not delay the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from goproxyai.errors import ProxyError
from goproxyai.http11.connection_deadlines import HEAD_TIMEOUT_SECONDS, ServerDeadlines
from goproxyai.http11.connection_limits import ConnectionLimits, LimitedConnection
from goproxyai.http11.exchange import Exchange, ExchangeConnection
from goproxyai.http11.request_body import (
    MAX_UNREAD_BODY_BYTES,
    BodyConnection,
    RequestBody,
    WholeBody,
    whole_body,
)
from goproxyai.http11.request_head import FieldValues, RequestHead
from goproxyai.http11.request_parser import BODY, HEAD, RequestParser
from goproxyai.http11.request_receiver import ParserOptions
from goproxyai.http11.response_output import WRITABLE, ResponseOutput
from goproxyai.reactor.deadlines import NEVER, Ticker

MAX_READ_AHEAD_BYTES = 64 * 1024
"""Unparsed bytes above which nothing more is read ahead."""

TURN_SECONDS = 0.0005
"""Share of one connection in a reactor turn. The step that exceeds it is completed."""


class PipelineContext(ParserOptions, Protocol):
    """What the pipelines of all connections share.

    :ivar dispatch: is called with every exchange, and must end it.
    """

    ticker: Ticker
    dispatch: Callable[[Exchange], None]
    connection_limits: ConnectionLimits


class PipelineConnection(ExchangeConnection, BodyConnection, LimitedConnection, Protocol):
    """The connection, as its pipeline sees it."""

    output: ResponseOutput


class RequestPipeline:
    """The requests of one connection whose exchanges have not ended.

    :ivar parser: of the connection.
    :ivar active: the exchange that is handled.
    :ivar waiting: exchanges that have not been dispatched, in order: those of one step of the
        parser.
    :ivar unparsed: what was received after them.
    :ivar fresh: whether no request has been received.
    :ivar body_paused: the body of the present request cannot take more.
    :ivar reads_ahead: the connection is read although the input is not accepted yet.
    :ivar over_limit: the connection is not admitted yet.
    """

    __slots__ = (
        "_connection", "_context", "_deadlines", "_dropped_input", "_running", "active",
        "body_paused", "fresh", "over_limit", "parser", "reads_ahead", "unparsed", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        connection: PipelineConnection,
        context: PipelineContext,
        deadlines: ServerDeadlines,
    ) -> None:
        self._connection = connection
        self._context = context
        self._deadlines = deadlines
        self._running = False
        self._dropped_input = False
        self.parser = RequestParser(self, connection, context)
        self.active: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.unparsed = b""
        self.fresh = True
        self.body_paused = False
        self.reads_ahead = False
        self.over_limit = False

    @property
    def pending(self) -> bool:
        """Whether requests, or parts of requests, wait."""
        return bool(self.waiting or self.unparsed)

    @property
    def has_more_input(self) -> bool:
        """Whether anything was received after the request that is handled."""
        return self.pending or self.parser.has_excess

    @property
    def held_bytes(self) -> int:
        """Memory of the input and of the exchanges, as far as it is counted."""
        held = self.parser.held_bytes + len(self.unparsed)
        if self.active is not None:
            held += self.active.held_bytes
        for exchange in self.waiting:
            held += exchange.held_bytes
        return held

    def accepts_input(self, output_is_blocked: bool) -> bool:
        """Return whether the connection should be read."""
        if self.body_paused or self.unparsed:
            return False
        if self.parser.state is BODY:
            return True
        return not (self.waiting or (output_is_blocked and self.active is None))

    @property
    def can_read_ahead(self) -> bool:
        """Whether more input may be kept until it is accepted."""
        return len(self.unparsed) < MAX_READ_AHEAD_BYTES

    # Called by the connection.

    def run(self) -> bool | None:
        """Parse and dispatch until a request is being handled, or the connection's share is used.

        Requests wait while the output is blocked. A call from within a dispatch does nothing, so
        that many short exchanges do not nest.

        :returns: whether the rest must be continued in the next turn; ``None`` for a nested call.
        """
        if self._running:
            return None
        self._running = True
        parser, output, context = self.parser, self._connection.output, self._context
        seconds = context.ticker.seconds
        ends_at = seconds() + TURN_SECONDS
        try:
            while True:
                share_is_used = False
                if self._can_parse(output):
                    self.unparsed = parser.feed(self.unparsed)
                    share_is_used = seconds() >= ends_at
                    if self.unparsed and parser.state is BODY and not share_is_used:
                        continue  # a body that was received with its head is complete at dispatch
                parser.deliver_body()
                while self.active is None and self.waiting and output.state is WRITABLE:
                    exchange = self.active = self.waiting.popleft()
                    context.dispatch(exchange)
                can_parse = self._can_parse(output)
                if share_is_used or not can_parse:
                    return can_parse
        finally:
            self._running = False

    def _can_parse(self, output: ResponseOutput) -> bool:
        """Return whether the unparsed bytes belong to the request whose turn it is."""
        if not self.unparsed:
            return False
        is_free = self.active is None and not self.waiting and output.state is WRITABLE
        if is_free or self.parser.state is not BODY:
            return is_free
        return not (self.reads_ahead and self.body_paused)

    def stop_collecting(self) -> None:
        """Have a body that is being received into memory streamed instead.

        Does nothing for a body that is no larger than what is buffered of a streamed one.
        """
        body = self.parser.body
        if body is not None and body.is_collected and body.received > MAX_UNREAD_BODY_BYTES:
            body.stop_collecting()

    def drop_unfinished(self) -> bool:
        """Drop unparsed input; return whether a part of a request was dropped or is expected."""
        dropped, self.unparsed = bool(self.unparsed), b""
        self._dropped_input = self._dropped_input or dropped
        return dropped or self.parser.state is HEAD or self.parser.state is BODY

    @property
    def can_hand_over(self) -> bool:
        """Whether all that was received after the request that is handled is still here."""
        return not self._dropped_input

    def hand_over(self) -> bytes:
        """End the use of HTTP; return what was received after the request that is handled."""
        received = self.unparsed
        self.end()
        return received

    def end(self) -> None:
        """Drop all input, and end the exchanges that have not been dispatched."""
        self.parser.end()
        self.body_paused = False
        self.unparsed = b""
        waiting, self.waiting = self.waiting, deque()
        for exchange in waiting:
            exchange.connection_lost()

    def connection_lost(self) -> None:
        """End all exchanges, and release the connection."""
        active, self.active = self.active, None
        if active is not None:
            active.connection_lost()
        self.end()
        self.parser.close()
        del self._connection

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
        context, connection = self._context, self._connection
        now = context.ticker.seconds()
        exchange = Exchange(connection, now, head, values, body, problem)
        self._deadlines.expires_at = NEVER
        self._deadlines.start_body(context.ticker.now)
        if self.fresh:
            self._begin(exchange)
        if problem is not None:
            self.parser.end()
        self.waiting.append(exchange)

    def _begin(self, exchange: Exchange) -> None:
        """Mark the first request, and admit the connection with it or refuse the request."""
        exchange.is_first, self.fresh = True, False
        if self.over_limit:  # the response to the first request closes such a connection
            limits = self._context.connection_limits
            self.over_limit = not limits.admit_late(self._connection, exchange)
            if exchange.problem is not None:
                self.parser.end()

    def repeated_request_received(
        self, head: RequestHead, values: FieldValues, body: RequestBody | WholeBody
    ) -> None:
        context, connection = self._context, self._connection
        exchange = Exchange(connection, context.ticker.seconds(), head, values, body)
        self._deadlines.expires_at = NEVER
        if not body.complete:
            self._deadlines.start_body(context.ticker.now)
        if self.fresh:
            self._begin(exchange)
        # The way through the queue costs 2 % of a hit (bench/inside.py).
        if self.active is None and not self.waiting and connection.output.state is WRITABLE:
            self.active = exchange
            context.dispatch(exchange)
        else:
            self.waiting.append(exchange)

    def request_refused(self, head: RequestHead, values: FieldValues, problem: ProxyError) -> None:
        last = self._last
        if last is not None and not last.keep_alive and last.body.complete:
            return  # its response closes the connection
        self._deadlines.expires_at = NEVER
        now = self._context.ticker.seconds()
        self.waiting.append(Exchange(self._connection, now, head, values, whole_body(b""), problem))

    def body_refused(self, problem: ProxyError) -> None:
        self._deadlines.expires_at = NEVER
        exchange = self._last
        if exchange is not None and exchange is self.active:
            exchange.fail(problem)
        elif exchange is not None:
            exchange.problem = problem

    @property
    def _last(self) -> Exchange | None:
        """The exchange whose request was parsed last."""
        return self.waiting[-1] if self.waiting else self.active
