"""The tunnel between a client and an upstream after a WebSocket handshake.

1. Bytes are relayed as they are received. No frame is parsed, so that extensions and subprotocols
   are a matter between client and upstream.
2. A peer that does not read pauses the other one. A direction then holds at most two reads and what
   the transport had accepted: less than 256 KiB, counted in the budget of memory.
3. The FIN of a peer ends the other connection's output, after all bytes before it. The other peer
   may go on sending; when it is silent for :data:`.HALF_CLOSED_SECONDS`, the tunnel ends. When both
   peers have sent a FIN, both connections are closed. A reset resets the other connection.
4. A tunnel ends exactly once, in :meth:`Tunnel._end`, with one event in the access log.
"""

from __future__ import annotations

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import Response
from goproxyai.http11.tunnel_end import TunnelEnd
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.open_tunnels import HALF_CLOSED_SECONDS
from goproxyai.proxy.progress import Progress
from goproxyai.telemetry.outcome import Ending, RequestOutcome

IDLE_DETAIL = "silent for TUNNEL_IDLE_TIMEOUT"
HALF_CLOSED_DETAIL = f"silent for {HALF_CLOSED_SECONDS:.0f} s after the FIN of one side"


class Direction:
    """Relays what one end receives to the other; the :class:`.TunnelListener` of the first.

    :param name: ``in`` from the client, ``out`` to it.
    :ivar source: the end that is read.
    :ivar sink: the end that is written to.
    :ivar bytes: that were relayed.
    """

    __slots__ = ("_counted", "_name", "_tunnel", "bytes", "sink", "source")

    def __init__(self, tunnel: Tunnel, name: str, source: TunnelEnd, sink: TunnelEnd) -> None:
        self._tunnel = tunnel
        self._name = name
        self._counted = tunnel.context.counters.tunnel_bytes
        self.source = source
        self.sink = sink
        self.bytes = 0

    def received(self, data: bytes) -> None:
        size = len(data)
        self.bytes += size
        self._counted[self._name] += size
        self._tunnel.is_active = True
        self.sink.write(data)

    def input_ended(self) -> None:
        tunnel = self._tunnel
        tunnel.is_active = tunnel.is_half_closed = True
        self.sink.finish()
        if self.sink.input_ended:
            tunnel.closed()

    def output_blocked(self) -> None:
        """The source does not read: do not read what the sink would write to it."""
        self.sink.pause_reading()

    def output_writable(self) -> None:
        self.sink.resume_reading()

    def lost(self, orderly: bool) -> None:
        self._tunnel.lost(self, orderly)

    def failed(self, problem: ProxyError) -> None:
        self._tunnel.request_failed(problem)


class Tunnel:
    """One WebSocket. It listens to the client's exchange.

    :param outcome: of the handshake; the end of the tunnel completes it.
    :ivar is_active: see :class:`~.open_tunnels.IdleTunnel`.
    :ivar is_half_closed: see :class:`~.open_tunnels.IdleTunnel`.
    :ivar expires_at: see :class:`~.open_tunnels.IdleTunnel`.
    """

    __slots__ = (
        "__weakref__", "_client", "_exchange", "_from_client", "_from_upstream", "_outcome",
        "context", "ended", "expires_at", "is_active", "is_half_closed",
    )  # fmt: skip

    _from_client: Direction
    _from_upstream: Direction

    def __init__(
        self, context: ProxyContext, exchange: Exchange, client: str, outcome: RequestOutcome
    ) -> None:
        self.context = context
        self._exchange = exchange
        self._client = client
        self._outcome = outcome
        self.ended = False
        self.is_active = True
        self.is_half_closed = False
        self.expires_at = 0.0

    def open(self, response: Response, head: bytes) -> None:
        """Answer the client, and join the two connections.

        :param response: of upstream, with status 101. :param head: of the response to the client.
        """
        context, exchange = self.context, self._exchange
        upstream = response.switch_protocols()
        client = exchange.switch_protocols(head, self)
        exchange.release_fields()
        self._from_client = Direction(self, "in", client, upstream)
        self._from_upstream = Direction(self, "out", upstream, client)
        context.counters.open_tunnels += 1
        context.tunnels.add(self)
        client.start(self._from_client)
        upstream.start(self._from_upstream)

    # Called by the directions.

    def closed(self) -> None:
        """Both peers have sent a FIN, and both have been passed on."""
        self._end(Ending.COMPLETE)

    def lost(self, direction: Direction, orderly: bool) -> None:
        """The source of *direction* is lost."""
        if not orderly:
            direction.sink.abort()
        if self.ended:
            return
        if orderly:
            self._end(Ending.COMPLETE)
        else:
            by_client = direction is self._from_client
            self._end(Ending.CLIENT_GONE if by_client else Ending.CUT)

    # Called by the idle timeout.

    def is_delivering(self) -> bool:
        return self._from_client.sink.is_delivering or self._from_upstream.sink.is_delivering

    def expire(self) -> None:
        self._end(Ending.COMPLETE, HALF_CLOSED_DETAIL if self.is_half_closed else IDLE_DETAIL)

    # Called by the exchange.

    def client_gone(self) -> None:
        """Do nothing: the end of the tunnel at the client was told before."""

    def progress(self) -> Progress:
        return Progress(self._outcome.first_byte_seconds)

    def request_failed(self, problem: ProxyError) -> None:
        """Reset both connections, and record why."""
        if self.ended:
            return
        self._from_client.source.abort()
        self._from_client.sink.abort()
        self._end(Ending.CUT, problem.detail, problem.code)

    def _end(self, ending: Ending, detail: str = "", code: str = "") -> None:
        """Close both connections, and record the outcome, once."""
        if self.ended:
            return
        self.ended = True
        context, exchange = self.context, self._exchange
        from_client, from_upstream = self._from_client, self._from_upstream
        del self._from_client, self._from_upstream  # they refer to this tunnel: a cycle
        from_client.source.close()
        from_client.sink.close()
        context.tunnels.discard(self)
        context.counters.open_tunnels -= 1
        exchange.tunnel_ended(from_client.bytes, from_upstream.bytes)
        outcome = self._outcome._replace(ending=ending, detail=detail, code=code)
        context.access_log.record(exchange, self._client, outcome)
