"""The connection to a client.

1. :class:`~.request_pipeline.RequestPipeline` parses, queues and dispatches requests. While
   requests wait, the connection is not read, so that at most one read (64 KiB) waits. While the
   client does not read its responses, nothing more is dispatched or read.
2. What the connection holds is counted in the budget (:mod:`goproxyai.limits.request_memory`).
3. Deadlines (:mod:`.connection_deadlines`) are checked by the ticker.
4. When the daemon drains, a response that has not started announces the close of the connection.
5. A connection is closed while the client may still be sending: the output is shut, and input is
   discarded until :data:`.LINGER_SECONDS` after the client has acknowledged the response, which a
   reset would destroy. A client that has announced the close must send nothing more (RFC 9112
   §9.6). So after a short response to such a client, the connection is closed at once, unless more
   was received.
6. A client over TLS may leave by ``close_notify`` alone, which only a read finds. While the input
   of such a connection must wait, up to two reads of it are kept, among which the end may be.
7. After a switch of protocols, the connection belongs to a :class:`~.tunnel_end.TunnelEnd`. Its
   exchange stays active until the connection is lost.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.errors import ProxyError, out_of_memory
from goproxyai.http11.connection_deadlines import LINGER_SECONDS, ServerDeadlines
from goproxyai.http11.connection_states import InputState
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.framing import CONTINUE
from goproxyai.http11.open_connection import OpenConnection
from goproxyai.http11.request_body import RequestBody
from goproxyai.http11.request_parser import ENDED, HEAD, IDLE
from goproxyai.http11.request_pipeline import PipelineContext, RequestPipeline
from goproxyai.http11.response_output import BLOCKED, CLOSED, CLOSING, ResponseOutput
from goproxyai.http11.tls_peer import certificate_subject, log_tls_failure
from goproxyai.http11.tunnel_end import TunnelEnd
from goproxyai.http11.turn_scheduler import LARGE_READ_BYTES, TurnScheduler
from goproxyai.limits.request_memory import Holding, RequestMemory
from goproxyai.reactor.deadlines import NEVER
from goproxyai.reactor.socket_state import (
    hides_close,
    input_poll,
    peer_closed,
    report_half_close,
    set_tcp_options,
)
from goproxyai.reactor.write_batch import Writer

FIRST_FLIGHT_BYTES = 14_000
"""Written bytes that the kernel sends without waiting for the client: ten segments (RFC 6928)."""


class ServerContext(PipelineContext, Protocol):
    """What all connections to clients share.

    :ivar memory: the budget of all connections.
    :ivar turns: continues connections that have used up their share of a turn.
    :ivar connections: the open ones.
    """

    keep_alive_seconds: float
    writer: Writer
    memory: RequestMemory
    turns: TurnScheduler
    connections: set[OpenConnection]


@implementer(IHandshakeListener)
class ServerConnection(TwistedProtocol):
    """One client's connection.

    :ivar peer: the address of the client, as text.
    :ivar reading_paused: whether the input is not accepted. The transport is paused then, unless
        the connection reads ahead.
    :ivar subject: of the client's TLS certificate; empty without one.
    """

    __slots__ = (
        "_context", "_deadlines", "_holding", "_pipeline", "_tunnel", "output", "peer",
        "reading_paused", "subject",
    )  # fmt: skip

    transport: Any  # ITransport declares only a part of what transports have
    output: ResponseOutput

    def __init__(self, context: ServerContext, peer: str) -> None:
        self.peer = peer
        self.subject = ""
        self.reading_paused = False
        self._context = context
        self._deadlines = ServerDeadlines(context.ticker.now)
        self._pipeline = RequestPipeline(self, context, self._deadlines)
        self._holding = Holding(context.memory)
        self._tunnel: TunnelEnd | None = None

    # Called by the transport.

    def connectionMade(self) -> None:
        context = self._context
        set_tcp_options(self.transport)
        self.output = ResponseOutput(self.transport, context.writer, self)
        context.ticker.watched.add(self)
        context.connections.add(self)
        self._pipeline.over_limit = not context.connection_limits.connection_made(self)

    def dataReceived(self, data: bytes) -> None:
        pipeline = self._pipeline
        if pipeline.active is None and not pipeline.unparsed:
            if len(data) > LARGE_READ_BYTES and not self._context.turns.admits(len(data)):
                self._parse_later(data)
                return
            # A request that repeats the previous one is dispatched at once. The way through
            # the pipeline costs 5 % of a hit (bench/inside.py).
            data = pipeline.parser.feed(data)
            state = pipeline.parser.state
            if not data and (state is IDLE or state is ENDED) and not pipeline.waiting:
                return
        elif self._tunnel is not None:
            self._tunnel.receive(data)
            return
        pipeline.unparsed += data
        self._run()
        self._limit_memory()

    def _parse_later(self, data: bytes) -> None:
        self._pipeline.unparsed = data
        self._context.turns.add(self)
        self.memory_changed()
        self._update_reading()
        self._limit_memory()

    def handshakeCompleted(self) -> None:
        self.subject = certificate_subject(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        context = self._context
        if reason.type is not ConnectionDone:
            log_tls_failure(self.peer, reason)
        if self._tunnel is not None:
            self._tunnel.connection_lost(reason)
        self.output.connection_lost()
        context.ticker.watched.discard(self)
        context.connections.discard(self)
        context.connection_limits.connection_lost(self)
        self._pipeline.connection_lost()
        context.turns.discard(self)
        context.memory.mark_reader(self, is_slow=False)
        self._holding.hold(0)

    def readConnectionLost(self) -> None:
        """Take note of the client's FIN; without a tunnel, Twisted calls connectionLost."""
        if self._tunnel is not None:
            self._tunnel.end_input()

    def writeConnectionLost(self) -> None:
        """Do nothing: the FIN to the client is sent."""

    # Called by the output.

    def output_blocked(self) -> None:
        context = self._context
        context.memory.mark_reader(self, is_slow=True)
        self.memory_changed()
        if context.memory.is_exceeded:
            context.turns.add(self)
        self._update_reading()

    def output_writable(self) -> None:
        self._context.memory.mark_reader(self, is_slow=False)
        self._run()

    # Called by exchanges and bodies.

    def send_continue(self) -> None:
        active = self._pipeline.active
        if active is not None:
            active.send_interim(CONTINUE)

    def pause_reading(self) -> None:
        self._pipeline.body_paused = True
        self._update_reading()

    def resume_reading(self) -> None:
        pipeline = self._pipeline
        pipeline.body_paused = False
        if pipeline.reads_ahead and pipeline.unparsed:
            self._context.turns.add(self)  # not now: the body may be in the middle of a write
        elif self.reading_paused:
            self._update_reading()

    def continue_later(self, body: RequestBody) -> None:
        self._context.turns.add(body)

    def exchange_done(self, exchange: Exchange, keep_alive: bool) -> None:
        pipeline = self._pipeline
        if exchange is not pipeline.active:
            return
        pipeline.active = None
        pipeline.body_paused = False
        self.output.producer = None
        state = pipeline.parser.state
        if state is not HEAD:
            context = self._context
            self._deadlines.expires_at = context.ticker.now + context.keep_alive_seconds
        if not keep_alive:
            self._close(client_is_idle=self._is_delivered(exchange))
        elif pipeline.waiting or pipeline.unparsed:
            self._run()
        elif self.reading_paused or state is ENDED:
            self._update_reading()
        if self._holding.held:
            self.memory_changed()

    def _is_delivered(self, exchange: Exchange) -> bool:
        """Return whether the last response needs no protection from a reset.

        Some clients send a line end after a body (RFC 9112 §2.2). Bytes that arrive after the close
        make the kernel reset the connection, and drop what it has not sent.
        """
        return (
            exchange.is_announced_last
            and self.output.bytes_written <= FIRST_FLIGHT_BYTES
            and not self._pipeline.has_more_input
        )

    @property
    def can_start_tunnel(self) -> bool:
        """Whether all that was received after the handshake can be given to the tunnel."""
        return self._pipeline.can_hand_over

    def start_tunnel(self) -> TunnelEnd:
        """End the use of HTTP; what is received after the handshake goes to the tunnel."""
        context = self._context
        self.reading_paused = True
        self.transport.pauseProducing()
        context.turns.discard(self)
        context.ticker.watched.discard(self)
        context.connection_limits.slots.mark_busy(self)
        context.memory.mark_reader(self, is_slow=False)
        self.output.hand_over()
        early = self._pipeline.hand_over()
        report_half_close(self.transport, self)
        self._tunnel = TunnelEnd(
            self.transport, context.writer, context.ticker, self._holding, early
        )
        return self._tunnel

    def abort(self) -> None:
        self.output.abort()

    # The flow of requests.

    def _run(self) -> None:
        """Handle what was received, for at most this connection's share of a turn."""
        continues = self._pipeline.run()
        if continues is None or self.output.state is CLOSED:
            return
        if continues:
            self._context.turns.add(self)
        self.memory_changed()
        self._update_reading()

    def continue_input(self) -> None:
        self._run()
        self._limit_memory()

    def _update_reading(self) -> None:
        """Pause or resume the transport, or close the connection if no request can follow."""
        pipeline, output = self._pipeline, self.output
        if output.state is CLOSING or output.state is CLOSED:
            return
        state = pipeline.parser.state
        if state is ENDED and pipeline.active is None and not pipeline.pending:
            self._close()
            return
        pauses = not pipeline.accepts_input(output.state is BLOCKED)
        if pauses is not self.reading_paused:
            self.reading_paused = pauses
            pipeline.reads_ahead = False
            if pauses:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()
        elif pipeline.reads_ahead and not pipeline.can_read_ahead:
            self.transport.pauseProducing()

    def _find_end(self) -> bool:
        """Look for the end of a connection that is not read; return whether it has ended."""
        if peer_closed(self.transport):
            self.abort()
            return True
        pipeline = self._pipeline
        if hides_close(self.transport) and pipeline.can_read_ahead:
            if not self._context.memory.is_tight:
                pipeline.reads_ahead = True
                self.transport.resumeProducing()
        return False

    def _close(self, client_is_idle: bool = False) -> None:
        """Close the connection after everything is written.

        :param client_is_idle: the client is not sending, so that its input need not be discarded.
        """
        if self.output.state is CLOSED:
            return
        self._pipeline.end()
        self._deadlines.expires_at = self._context.ticker.now + LINGER_SECONDS
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resumeProducing()
        self.output.close(linger=not client_is_idle)

    def _refuse(self, problem: ProxyError) -> None:
        self._pipeline.parser.refuse(problem)
        self._run()

    # The budget of memory.

    def memory_changed(self) -> None:
        """Count what the connection holds. A lost connection holds nothing."""
        if self.output.state is not CLOSED:
            self._holding.hold(self._pipeline.held_bytes + self.output.unsent())

    def _limit_memory(self) -> None:
        """Act where the budget does not suffice.

        An exchange may end by this, so the caller is not an exchange, nor what writes to one.
        """
        memory, pipeline = self._context.memory, self._pipeline
        if memory.is_tight and self.output.state is not CLOSED:
            pipeline.stop_collecting()
            if not memory.make_room() and pipeline.drop_unfinished():
                self._refuse(out_of_memory())

    def break_off(self) -> None:
        """Reset the connection, whose client reads too slowly, and release what it holds."""
        active = self._pipeline.active
        if active is not None:
            active.fail(out_of_memory())
        self._holding.hold(0)
        self.output.abort()

    # Deadlines.

    def postpone(self, lost: float, now: float) -> None:
        self._deadlines.postpone(lost, now)

    def tick(self, now: float) -> None:
        deadlines, memory = self._deadlines, self._context.memory
        passed = deadlines.tick(now)
        if self.reading_paused:
            if self._find_end():
                return
            if self.output.state is not CLOSING:
                deadlines.expires_at += passed
        self._check_body(passed, now)
        unsent = self.output.unsent()
        is_awaited = unsent > 0 or self.output.state is CLOSING  # to read what was written
        undelivered = self.output.undelivered() if is_awaited else 0
        if deadlines.reader_is_stalled(self.output.bytes_written, undelivered, now):
            self.abort()
        elif undelivered and self.output.state is CLOSING:
            deadlines.expires_at = now + LINGER_SECONDS  # a stalled reader has its own deadline
        elif now >= deadlines.expires_at:
            self._expire()
        memory.mark_reader(self, is_slow=unsent > 0)
        if not unsent and deadlines.has_changed():
            self._report_idle(now)
        if unsent or self._holding.held:
            self.memory_changed()
            self._limit_memory()

    def _check_body(self, passed: float, now: float) -> None:
        """Refuse a request body that is received too slowly."""
        body = self._pipeline.parser.body
        if body is None:
            return
        if self.reading_paused or body.awaits_continue:
            self._deadlines.postpone_body(passed)
        elif self._deadlines.body_is_too_slow(body.received, now):
            message = "The request body was received at less than 500 bytes per second."
            self._refuse(ProxyError("bad_request", message))

    def _report_idle(self, now: float) -> None:
        """Tell the limits whether this connection may be closed in favour of a new one."""
        slots = self._context.connection_limits.slots
        if self.idle and self.output.state is not CLOSING and self.input_state is not HEAD:
            slots.mark_idle(self, now)
        else:
            slots.mark_busy(self)

    def _expire(self) -> None:
        self._deadlines.expires_at = NEVER
        if self.output.state is CLOSING:
            self.output.end()
        elif self.input_state is HEAD:
            message = "The request header was not complete within 20 seconds."
            self._refuse(ProxyError("bad_request", message))
        else:
            self._close(client_is_idle=True)

    # Called by the daemon and the limits.

    def drain(self) -> None:
        """Close the connection after the current exchange, if its response has not started.

        The response announces the close. Later requests are refused by the router.
        """
        active = self._pipeline.active
        if active is not None and not (active.response_started or self._pipeline.pending):
            active.keep_alive = False

    def shut_down(self, problem: ProxyError | None = None) -> None:
        """Close an idle connection, and reset any other.

        :param problem: the response to a request that has none yet; it closes the connection.
        """
        active, answered = self._pipeline.active, False
        if problem is not None and active is not None and not active.response_started:
            active.fail(problem)
            answered = True
        if self.idle:
            self._close(client_is_idle=True)
        elif problem is not None and self._tunnel is not None:
            self._tunnel.fail(problem)
        elif not answered:
            self.abort()

    @property
    def active(self) -> Exchange | None:
        """The exchange that is handled."""
        return self._pipeline.active

    @property
    def fresh(self) -> bool:
        """Whether no request has been received."""
        return self._pipeline.fresh

    @property
    def input_state(self) -> InputState:
        """What the next byte from the client belongs to."""
        return self._pipeline.parser.state

    @property
    def idle(self) -> bool:
        """Whether no request is being received, handled or answered."""
        return (
            self._pipeline.active is None
            and not self._pipeline.pending
            and self._pipeline.parser.body is None
            and not self.output.unsent()
        )

    @property
    def finished(self) -> bool:
        """Whether the connection is idle, and the client has all that was written."""
        return self.idle and not self.output.undelivered()

    @property
    def evictable(self) -> bool:
        """Whether the connection is idle, and the kernel holds no input from the client."""
        return (
            self.output.state not in (CLOSING, CLOSED)
            and self.input_state is not HEAD
            and self.idle
            and not input_poll(self.transport).poll(0)
        )
