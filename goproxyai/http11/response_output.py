"""Write responses to one client, and pause what makes them while the client reads too slowly."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from goproxyai.http11.connection_states import OutputState
from goproxyai.reactor.socket_state import can_half_close
from goproxyai.reactor.socket_write import undelivered_bytes, unsent_bytes
from goproxyai.reactor.write_batch import Writer

WRITABLE, BLOCKED, CLOSING, CLOSED = OutputState


class OutputListener(Protocol):
    """The connection, as its output sees it."""

    def output_blocked(self) -> None:
        """The transport holds too many unsent bytes."""

    def output_writable(self) -> None:
        """The transport has sent them."""


@implementer(IPushProducer)
class ResponseOutput:
    """The output of a connection to a client. For its transport, it is the producer.

    :ivar state: whether responses can be written.
    :ivar bytes_written: to the transport.
    :ivar producer: makes the present response; set by :meth:`set_producer`.
    """

    __slots__ = ("_listener", "_transport", "_writer", "bytes_written", "producer", "state")

    def __init__(self, transport: Any, writer: Writer, listener: OutputListener) -> None:
        self._transport = transport
        self._writer = writer
        self._listener: OutputListener | None = listener
        self.producer: IPushProducer | None = None
        self.state = WRITABLE
        self.bytes_written = 0
        transport.registerProducer(self, True)

    def send(self, data: bytes) -> None:
        """Write *data*, unless the connection is lost."""
        if self.state is not CLOSED:
            self.bytes_written += len(data)
            self._writer.write(self._transport, data)

    def unsent(self) -> int:
        """Return the number of written bytes that the kernel has not taken."""
        return unsent_bytes(self._transport)

    def undelivered(self) -> int:
        """Return the number of written bytes that the client has not acknowledged."""
        return undelivered_bytes(self._transport)

    def set_producer(self, producer: IPushProducer | None) -> None:
        """Pause and resume *producer*, which makes the present response, with the client."""
        self.producer = producer
        if producer is not None and self.state is BLOCKED:
            producer.pauseProducing()

    def close(self, linger: bool) -> None:
        """Close the connection after everything is written.

        :param linger: the client may still be sending: shut the output alone, so that the input can
            be read and discarded.
        """
        self._writer.flush()
        transport = self._transport
        transport.unregisterProducer()
        self.state = CLOSING
        if linger and can_half_close(transport):
            transport.loseWriteConnection()
        else:
            transport.loseConnection()

    def end(self) -> None:
        """Stop waiting for the client to close, after :meth:`close`.

        Not by a reset, which would follow the response; but TLS would wait for ``close_notify``.
        """
        if can_half_close(self._transport):
            self._transport.loseConnection()
        else:
            self.abort()

    def hand_over(self) -> None:
        """Leave the transport, whose producer is another one from now on."""
        self.producer = None
        self._transport.unregisterProducer()

    def abort(self) -> None:
        """Reset the connection, after what waits in the writer is written."""
        if self.state is not CLOSED:
            self._writer.flush()
            self._transport.abortConnection()

    def connection_lost(self) -> None:
        """Release the listener and the producer."""
        self.state = CLOSED
        self._listener = self.producer = None

    # Called by the transport.

    def pauseProducing(self) -> None:
        if self.state is WRITABLE and self._listener is not None:
            self.state = BLOCKED
            if self.producer is not None:
                self.producer.pauseProducing()
            self._listener.output_blocked()

    def resumeProducing(self) -> None:
        if self.state is BLOCKED and self._listener is not None:
            self.state = WRITABLE
            if self.producer is not None:
                self.producer.resumeProducing()
            self._listener.output_writable()

    def stopProducing(self) -> None:
        """Do nothing: Twisted calls ``connectionLost`` next."""
