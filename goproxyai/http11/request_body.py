"""The body of a request, on its way in.

It waits in a buffer of at most :data:`BUFFER` bytes and one read until somebody claims it, by
:meth:`RequestBody.collect`, :meth:`RequestBody.startProducing` or :meth:`RequestBody.discard`;
meanwhile the connection is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from goproxyai.http11.framing import CONTINUE

BUFFER = 64 * 1024
"""Bytes of an unclaimed request body that are kept before reading pauses."""


class ClientGone(Exception):
    """The client closed its connection while its request body was being read."""


class Inlet(Protocol):
    """What a body asks of the connection that it comes by."""

    def send(self, data: bytes) -> None:
        """Write *data* to the client."""

    def flow(self, reading: bool) -> None:
        """Read from the client, or stop reading."""


class WholeBody:
    """A body that came with its head, or no body: nothing is to be waited for.

    :ivar received: bytes. :ivar length: the same.
    """

    __slots__ = ("_data", "length", "received")

    complete = True
    waits = False

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = self.received = len(data)

    def whole(self) -> bytes:
        """The bytes."""
        return self._data

    def collect(self, limit: int, done: Callable[[bytes | None], None]) -> None:
        """As :meth:`RequestBody.collect`."""
        done(self._data)

    def discard(self) -> None:
        """Nobody will read the body."""
        self._data = b""

    def lost(self) -> None:
        """The client left."""
        self._data = b""


@implementer(IBodyProducer)
class RequestBody:
    """The body of a request, on its way in.

    :ivar length: bytes, or ``UNKNOWN_LENGTH`` for a chunked body.
    :ivar received: bytes so far.
    :ivar complete: whether the last byte is here.
    :ivar waits: whether the client waits to be told to continue.
    :ivar streamed: whether any of it was handed to a producer's consumer, and is kept no longer.
    """

    __slots__ = (
        "_buffer",
        "_collected",
        "_consumer",
        "_done",
        "_dropped",
        "_inlet",
        "_limit",
        "_paused",
        "complete",
        "length",
        "opened",
        "received",
        "streamed",
        "waits",
    )  # fmt: skip

    def __init__(self, inlet: Inlet, length: int | None, now: float, awaits_continue: bool) -> None:
        # IBodyProducer declares a union of int and a constant.
        self.length: Any = UNKNOWN_LENGTH if length is None else length
        self.received = 0
        self.complete = length == 0
        self.opened = now
        self._inlet = inlet
        self._buffer: bytes | bytearray = b""  # of one piece, or of many
        self._limit = BUFFER
        self._collected: Callable[[bytes | None], None] | None = None
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] | None = None
        self._paused = False
        self._dropped = False
        self.waits = awaits_continue
        self.streamed = False

    # What the connection calls.

    def feed(self, data: bytes) -> None:
        """More of the body."""
        self.received += len(data)
        if self._dropped:
            return
        if self._consumer is not None and not self._paused:
            self._consumer.write(data)
            return
        if not self._buffer:
            self._buffer = data
        else:
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
        if len(self._buffer) > self._limit:
            if self._collected is not None:
                self._hand_over(None)
            else:
                self._inlet.flow(False)

    def end(self) -> None:
        """The body is complete."""
        self.complete = True
        self.waits = False
        if self._collected is not None:
            self._hand_over(self.whole())
        else:
            self._finish_producing()

    def lost(self) -> None:
        """The client left: whoever reads learns that no more will come."""
        self._dropped = True
        self._buffer = b""
        self._collected = None
        self._consumer = None
        done, self._done = self._done, None
        if done is not None:
            done.errback(Failure(ClientGone()))

    # What the pipeline calls.

    def whole(self) -> bytes:
        """The whole of a complete body that was not streamed."""
        if not isinstance(self._buffer, bytes):
            self._buffer = bytes(self._buffer)
        return self._buffer

    def collect(self, limit: int, done: Callable[[bytes | None], None]) -> None:
        """Read the body whole, up to *limit* bytes.

        *done* gets the bytes, or ``None`` where they are more; the body can then still be streamed
        from its start. It is not called if the client leaves.
        """
        if self.complete:
            done(self.whole())
        elif len(self._buffer) > limit:
            done(None)
        else:
            self._limit, self._collected = limit, done
            self._let_come()

    def discard(self) -> None:
        """Nobody will read the body; what still comes is thrown away."""
        self._dropped = True
        self._buffer = b""
        self._collected = None
        self._consumer = None
        self._inlet.flow(True)

    def _hand_over(self, whole: bytes | None) -> None:
        done, self._collected, self._limit = self._collected, None, BUFFER
        if done is not None:
            if whole is None:
                self._inlet.flow(False)
            done(whole)

    def _let_come(self) -> None:
        if self.waits:
            self.waits = False
            self._inlet.send(CONTINUE)
        self._inlet.flow(True)

    # IBodyProducer, towards the upstream connection.

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Stream the body to *consumer*; fires when the last byte was handed over."""
        self._consumer = consumer
        self.streamed = True
        done: Deferred[None] = Deferred()
        self._done = done
        self._drain()
        if not self.complete and not self._paused:
            self._let_come()
        return done

    def _drain(self) -> None:
        buffer, self._buffer = self._buffer, b""
        if buffer and self._consumer is not None:
            self._consumer.write(bytes(buffer))
        self._finish_producing()

    def _finish_producing(self) -> None:
        if not self.complete or self._buffer or self._consumer is None:
            return
        done, self._done, self._consumer = self._done, None, None
        if done is not None:
            done.callback(None)

    def pauseProducing(self) -> None:
        """The upstream connection is full: stop reading from the client."""
        self._paused = True
        if not self.complete:
            self._inlet.flow(False)

    def resumeProducing(self) -> None:
        """There is room again."""
        self._paused = False
        self._drain()
        if not self.complete and not self._paused and not self._dropped:
            self._let_come()

    def stopProducing(self) -> None:
        """The upstream connection wants no more of it."""
        if not self._dropped:
            self.discard()
        done, self._done = self._done, None
        if done is not None:
            done.cancel()
