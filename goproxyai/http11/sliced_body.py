"""A complete request body that is written to the upstream in slices."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IDelayedCall, IReactorTime
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

SLICE_BYTES = 64 * 1024
"""Of one write."""

MIN_SLICED_BYTES = 256 * 1024
"""Size from which a body is written in slices. A body in one write is copied twice: after its head,
and into the buffer of the transport."""

TURN_BYTES = 1024 * 1024
"""Bytes that are written in one reactor turn: 10 MB take 4 to 8 ms."""


@implementer(IBodyProducer)
class SlicedBody:
    """Writes a body as fast as its consumer takes it. At most two slices exist besides the body.

    :param clock: continues in the next turn.
    """

    def __init__(self, body: bytes, clock: IReactorTime) -> None:
        self._clock = clock
        self._call: IDelayedCall | None = None
        self.length = len(body)
        self._body = memoryview(body)
        self._offset = 0
        self._paused = False
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] = Deferred()

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write the body to *consumer*.

        :returns: fires when the last byte was written.
        """
        self._consumer = consumer
        self._write()
        return self._done

    def _write(self) -> None:
        self._call = None
        consumer, turn_ends_at = self._consumer, self._offset + TURN_BYTES
        while consumer is not None and not self._paused and self._offset < self.length:
            end = self._offset + SLICE_BYTES
            piece = bytes(self._body[self._offset : end])
            self._offset = end
            consumer.write(piece)
            if end >= self.length:
                self._consumer = None
                self._done.callback(None)
            elif end >= turn_ends_at:
                self._call = self._clock.callLater(0, self._write)
                return

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if self._call is None:
            self._write()

    def stopProducing(self) -> None:
        """Write nothing more; the Deferred does not fire."""
        self._consumer = None
        if self._call is not None:
            self._call.cancel()
            self._call = None
