"""One of the two connections of a tunnel, after the switch of protocols (RFC 9110 §7.8).

A connection that is no longer HTTP gives its transport to a :class:`TunnelEnd`, and passes on what
Twisted reports. The end knows nothing of the other one: :mod:`goproxyai.proxy.tunnel` joins them.

1. The peer's FIN ends the input, and leaves the output open. TLS has no half-close here: its
   layer answers the peer's ``close_notify`` with a close, so that the whole connection is lost.
2. While the transport holds more than 64 KiB of unsent bytes, the listener is asked to stop
   writing. What the peer does not read is counted in the budget of memory, and may be a reason to
   reset the connection, as for any client that reads slowly.
3. A peer that takes nothing of what was written for :data:`.READER_STALL_SECONDS` is reset.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.errors import ProxyError, out_of_memory
from goproxyai.http11.connection_deadlines import LINGER_SECONDS, READER_STALL_SECONDS
from goproxyai.http11.connection_states import TunnelState
from goproxyai.limits.request_memory import Holding
from goproxyai.reactor.deadlines import NEVER, Ticker, postponed
from goproxyai.reactor.socket_state import can_half_close, is_reset
from goproxyai.reactor.socket_write import undelivered_bytes, unsent_bytes
from goproxyai.reactor.write_batch import Writer

OPEN, FINISHED, CLOSING, ABORTED, CLOSED = TunnelState


class TunnelListener(Protocol):
    """Is told what one end receives, and how its connection ends."""

    def received(self, data: bytes) -> None:
        """The peer sent *data*."""

    def input_ended(self) -> None:
        """The peer sent its FIN; it may still be reading."""

    def output_blocked(self) -> None:
        """The transport holds too many unsent bytes."""

    def output_writable(self) -> None:
        """The transport has sent them."""

    def lost(self, orderly: bool) -> None:
        """The connection is lost; *orderly*: the peer closed it, or it was closed here."""

    def failed(self, problem: ProxyError) -> None:
        """The connection is reset for a reason of the proxy's own."""


@implementer(IPushProducer)
class TunnelEnd:
    """The connection of a tunnel to one peer. For its transport, it is the producer.

    The connection is not read before :meth:`start`.

    :param transport: paused, and without a producer.
    :param holding: what the connection holds of the memory budget.
    :param early: what the peer has sent after its handshake.
    :ivar state: of the output.
    :ivar input_ended: whether the peer has sent its FIN.
    """

    __slots__ = (
        "_bytes_taken", "_bytes_written", "_early", "_expires_at", "_half_closes", "_holding",
        "_listener", "_reading_paused", "_stalls_at", "_ticker", "_transport", "_writer",
        "input_ended", "state",
    )  # fmt: skip

    def __init__(
        self, transport: Any, writer: Writer, ticker: Ticker, holding: Holding, early: bytes
    ) -> None:
        self.state = OPEN
        self.input_ended = False
        self._transport = transport
        self._half_closes = can_half_close(transport)
        self._writer = writer
        self._ticker = ticker
        self._holding = holding
        self._early = early
        self._listener: TunnelListener | None = None
        self._reading_paused = True
        self._bytes_written = 0
        self._bytes_taken = -1
        self._stalls_at = NEVER
        self._expires_at = NEVER
        transport.registerProducer(self, True)
        ticker.watched.add(self)

    # Called by the tunnel.

    @property
    def is_delivering(self) -> bool:
        """Whether the peer has yet to take bytes that would be lost if the tunnel ended."""
        return self.state is not CLOSED and self._undelivered(unsent_bytes(self._transport)) > 0

    def start(self, listener: TunnelListener) -> None:
        """Deliver what was received to *listener*, from the bytes after the handshake on."""
        self._listener = listener
        early, self._early = self._early, b""
        self.resume_reading()  # before the listener may pause it again
        if early:
            listener.received(early)

    def write(self, data: bytes) -> None:
        """Write *data*, unless the output has ended."""
        if self.state is OPEN:
            self._bytes_written += len(data)
            self._writer.write(self._transport, data)

    def pause_reading(self) -> None:
        """Stop reading, while the other end cannot write."""
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pauseProducing()

    def resume_reading(self) -> None:
        if self._reading_paused and not self.input_ended and self.state is not CLOSED:
            self._reading_paused = False
            self._transport.resumeProducing()

    def finish(self) -> None:
        """Send a FIN after everything is written; the input stays open."""
        if self.state is OPEN:
            self.state = FINISHED
            self._writer.flush()
            self._transport.unregisterProducer()
            if self._half_closes:
                self._transport.loseWriteConnection()
            else:
                self._transport.loseConnection()  # below TLS: reads until the peer closes as well

    def close(self) -> None:
        """Close the connection after everything is written, and discard all further input.

        The wait for the peer's close ends :data:`.LINGER_SECONDS` after everything is delivered.
        """
        self.finish()
        if self.state is FINISHED:
            self.state = CLOSING
            self._expires_at = self._ticker.now + LINGER_SECONDS
            if self.input_ended:
                self._transport.loseConnection()
            else:
                self.resume_reading()

    def abort(self) -> None:
        """Reset the connection."""
        if self.state is not ABORTED and self.state is not CLOSED:
            self.state = ABORTED
            self._writer.flush()
            self._transport.abortConnection()

    def fail(self, problem: ProxyError) -> None:
        """Reset the connection for a reason of the proxy's own."""
        if self._listener is not None:
            self._listener.failed(problem)
        self.abort()

    # Called by the connection.

    def receive(self, data: bytes) -> None:
        """Take the bytes of one read."""
        if self._listener is not None and self.state is not CLOSING:
            self._listener.received(data)

    def end_input(self) -> None:
        """Take note of the peer's FIN."""
        if self.input_ended:
            return
        self.input_ended = True
        if self.state is CLOSING:
            self._transport.loseConnection()
        elif self._listener is not None:
            self._listener.input_ended()

    def connection_lost(self, reason: Failure) -> None:
        """Take note of the end of the connection, and tell the listener.

        Below TLS, Twisted reports an end without ``close_notify`` as a lost connection, and many
        peers end that way: a close frame that precedes it must reach the other peer.
        """
        orderly = self.state is not ABORTED and (
            reason.check(ConnectionDone) is not None
            or (not self._half_closes and reason.check(ConnectionLost) is not None)
        )
        self.state = CLOSED
        self._early = b""
        self._ticker.watched.discard(self)
        self._holding.memory.mark_reader(self, is_slow=False)
        self._holding.hold(0)
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.lost(orderly)

    # Called by the transport.

    def pauseProducing(self) -> None:
        self._holding.memory.mark_reader(self, is_slow=True)
        self._holding.hold(unsent_bytes(self._transport))
        if self._listener is not None:
            self._listener.output_blocked()

    def resumeProducing(self) -> None:
        self._holding.memory.mark_reader(self, is_slow=False)
        if self._listener is not None:
            self._listener.output_writable()

    def stopProducing(self) -> None:
        """Do nothing: Twisted reports the end of the connection next."""

    # Called by the budget of memory and the ticker.

    def break_off(self) -> None:
        """Reset the connection, whose peer reads too slowly, and release what it holds."""
        self._holding.hold(0)
        self.fail(out_of_memory())

    def tick(self, now: float) -> None:
        """Count the memory, and act on the deadlines and on a reset that no read reports."""
        if self.state is ABORTED:
            return
        unsent = unsent_bytes(self._transport)
        if unsent or self._holding.held:
            self._holding.hold(unsent)
            self._holding.memory.mark_reader(self, is_slow=unsent > 0)
            self._holding.memory.make_room()
        undelivered = self._undelivered(unsent)
        if self._reader_is_stalled(undelivered, now) or self._is_reset():
            self.abort()
        elif undelivered and self._expires_at is not NEVER:
            self._expires_at = now + LINGER_SECONDS
        elif now >= self._expires_at:
            if self._half_closes:
                self._transport.loseConnection()
            else:
                self.abort()  # TLS would wait for the peer's ``close_notify``

    def postpone(self, lost: float, now: float) -> None:
        self._stalls_at = postponed(self._stalls_at, lost, now)
        self._expires_at = postponed(self._expires_at, lost, now)

    def _is_reset(self) -> bool:
        """Return whether the peer has reset a connection that is not read."""
        return (self._reading_paused or self.input_ended) and is_reset(self._transport)

    def _undelivered(self, unsent: int) -> int:
        """Return how many written bytes the peer has yet to take; *unsent* of them are ours.

        The bytes in the kernel matter while the peer slows the tunnel down, and after the FIN: the
        end of the connection might drop them.
        """
        if not unsent and self.state is OPEN:
            return 0
        return undelivered_bytes(self._transport)

    def _reader_is_stalled(self, undelivered: int, now: float) -> bool:
        if not undelivered:
            self._stalls_at = NEVER
            return False
        taken = self._bytes_written - undelivered
        if taken != self._bytes_taken or self._stalls_at is NEVER:
            self._bytes_taken = taken
            self._stalls_at = now + READER_STALL_SECONDS
            return False
        return now >= self._stalls_at
