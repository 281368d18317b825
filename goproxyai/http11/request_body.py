"""The body of a request while it is received.

A body is buffered, up to :data:`MAX_UNREAD_BODY_BYTES` and one read, until a consumer is chosen by
:meth:`RequestBody.collect`, :meth:`RequestBody.startProducing` or :meth:`RequestBody.discard`.
A full buffer pauses reading from the client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from goproxyai.http11.errors import ClientGone
from goproxyai.http11.sliced_body import SLICE_BYTES, TURN_BYTES

MAX_UNREAD_BODY_BYTES = 64 * 1024
"""Bytes of a body without a consumer that are buffered before reading pauses."""

LARGE_BODY_BYTES = 1024 * 1024
"""Size from which a collected body is handed over in a turn of its own: 10 MB take 4 to 8 ms."""

SMALL_BODY_BYTES = 2 * 1024
"""Size of a body that is small enough not to be counted, nor released early."""


class BodyConnection(Protocol):
    """The connection that a request body is received from."""

    def send_continue(self) -> None:
        """Send ``100 Continue``, unless the response has begun."""

    def pause_reading(self) -> None:
        """Stop reading from the client."""

    def resume_reading(self) -> None:
        """Read from the client again, unless something else keeps the connection from it."""

    def continue_later(self, body: RequestBody) -> None:
        """Call :meth:`RequestBody.continue_input` in a later reactor turn."""


class WholeBody(msgspec.Struct, gc=False, eq=False):
    """A body that was received with its head, or no body; :func:`whole_body` makes one.

    :ivar length: bytes. :ivar received: the same number.
    """

    # A struct is made in half the time of an object with ``__init__``, for each request.
    _data: bytes
    length: int
    received: int

    complete: ClassVar[bool] = True
    awaits_continue: ClassVar[bool] = False
    is_collected: ClassVar[bool] = False

    @property
    def buffered(self) -> int:
        """The number of bytes in memory."""
        return len(self._data)

    def whole(self) -> bytes:
        """Return the bytes."""
        return self._data

    def collect(
        self,
        limit: int,
        done: Callable[[bytes | None], None],
        received: Callable[[Any], object] | None = None,
    ) -> None:
        """Call *received* and *done* as :meth:`RequestBody.collect` does; *limit* is ignored."""
        if received is not None:
            received(self._data)
        done(self._data)

    def discard(self) -> None:
        """Release the bytes."""
        self._data = b""

    release = connection_lost = discard


def whole_body(data: bytes) -> WholeBody:
    """Return a body of *data*."""
    size = len(data)
    return WholeBody(data, size, size)


@implementer(IBodyProducer)
class RequestBody:
    """The body of a request while it is received.

    :ivar length: bytes, or ``UNKNOWN_LENGTH`` for a chunked body.
    :ivar received: bytes so far.
    :ivar complete: whether the last byte has been received.
    :ivar awaits_continue: whether the client still waits for ``100 Continue``.
    :ivar streamed: whether :meth:`startProducing` was called; these bytes are not kept.
    """

    __slots__ = (
        "_buffer", "_collected", "_connection", "_consumer", "_discarding", "_done", "_limit",
        "_paused", "_received", "awaits_continue", "complete", "length", "received", "streamed",
    )  # fmt: skip

    def __init__(
        self, connection: BodyConnection, length: int | None, awaits_continue: bool
    ) -> None:
        # IBodyProducer declares a union of int and a constant.
        self.length: Any = UNKNOWN_LENGTH if length is None else length
        self.received = 0
        self.complete = length == 0
        self.awaits_continue = awaits_continue
        self.streamed = False
        self._connection = connection
        self._buffer: bytes | bytearray = b""  # bytes while it is a single piece
        self._limit = MAX_UNREAD_BODY_BYTES
        self._collected: Callable[[bytes | None], None] | None = None
        self._received: Callable[[Any], object] | None = None
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] | None = None
        self._paused = False
        self._discarding = False

    @property
    def buffered(self) -> int:
        """The memory of the buffer in bytes, which exceeds its content while the body grows."""
        buffer = self._buffer
        return len(buffer) if isinstance(buffer, bytes) else buffer.__alloc__()

    @property
    def is_collected(self) -> bool:
        """Whether the body is being received into memory as a whole."""
        return self._collected is not None

    # Called by the parser and the connection.

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        self.received += len(data)
        if self._discarding:
            return
        if self._consumer is not None and not self._paused and not self._buffer:
            self._consumer.write(data)
            return
        if self._received is not None:
            self._received(data)
        if not self._buffer:
            self._buffer = data
        else:
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
        if len(self._buffer) > self._limit:
            if self._collected is not None:
                self._finish_collecting(None)
            else:
                self._connection.pause_reading()

    def end(self) -> None:
        """Mark the body as complete."""
        self.complete = True
        self.awaits_continue = False
        if self._collected is None:
            self._finish_producing()
        elif len(self._buffer) < LARGE_BODY_BYTES:
            self._finish_collecting(self.whole())
        else:
            self._connection.continue_later(self)

    def continue_input(self) -> None:
        """Hand over a large body that has been collected, or write more of the buffer."""
        if self._collected is not None:
            self._finish_collecting(self.whole())
        else:
            self._produce()

    def connection_lost(self) -> None:
        """Fail the producer's Deferred with :class:`ClientGone`, and release the bytes."""
        self._drop()
        done, self._done = self._done, None
        if done is not None:
            done.errback(Failure(ClientGone()))

    # Called by the proxy.

    def whole(self) -> bytes:
        """Return the bytes of a complete body that was not streamed."""
        if not isinstance(self._buffer, bytes):
            self._buffer = bytes(self._buffer)
        return self._buffer

    def collect(
        self,
        limit: int,
        done: Callable[[bytes | None], None],
        received: Callable[[Any], object] | None = None,
    ) -> None:
        """Receive the body into memory, up to *limit* bytes.

        :param done: called with the bytes, or with ``None`` if the body is larger. A larger body
            can then be streamed from its start. Not called if the client leaves.
        :param received: called with each piece of the body (bytes or a bytearray), so that work on
            the whole body can be spread over the time of its reception.
        """
        if received is not None and self._buffer:
            received(self._buffer)
        if self.complete:
            done(self.whole())
        elif len(self._buffer) > limit:
            done(None)
        else:
            self._limit, self._collected, self._received = limit, done, received
            self._receive()

    def stop_collecting(self) -> None:
        """Call the callback of :meth:`collect` with ``None``, as if the body were too large."""
        self._finish_collecting(None)

    def release(self) -> None:
        """Release the bytes of a complete body, unless they are still being streamed."""
        if self.complete and not self.streamed:
            self._buffer = b""

    def discard(self) -> None:
        """Receive the rest of the body and drop it."""
        self._drop()
        self._connection.resume_reading()

    def _drop(self) -> None:
        self._discarding = True
        self._buffer = b""
        self._collected = self._received = None
        self._consumer = None

    def _finish_collecting(self, whole: bytes | None) -> None:
        done, self._collected, self._limit = self._collected, None, MAX_UNREAD_BODY_BYTES
        self._received = None
        if done is not None:
            if whole is None:
                self._connection.pause_reading()
            done(whole)

    def _receive(self) -> None:
        if self.awaits_continue:
            self.awaits_continue = False
            self._connection.send_continue()
        self._connection.resume_reading()

    # IBodyProducer: the consumer is the upload to the upstream.

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Stream the body to *consumer*.

        :returns: fires when the last byte was written to *consumer*.
        """
        self._consumer = consumer
        self.streamed = True
        done: Deferred[None] = Deferred()
        self._done = done
        self._produce()
        return done

    def _produce(self) -> None:
        """Write what is buffered, then read from the client again."""
        self._write_buffer()
        if not (self.complete or self._paused or self._discarding or self._buffer):
            self._receive()

    def _write_buffer(self) -> None:
        """Write the buffer in slices, as long as the consumer takes them and the turn permits."""
        written = 0
        while self._buffer and self._consumer is not None and not self._paused:
            piece = self._take_slice()
            written += len(piece)
            self._consumer.write(piece)
            if written >= TURN_BYTES and self._buffer:
                self._connection.continue_later(self)
                return
        self._finish_producing()

    def _take_slice(self) -> bytes:
        """Take the first slice out of the buffer."""
        buffer = self._buffer
        if len(buffer) <= SLICE_BYTES:
            self._buffer = b""
            return bytes(buffer)
        if isinstance(buffer, bytes):
            buffer = self._buffer = bytearray(buffer)
        piece = bytes(memoryview(buffer)[:SLICE_BYTES])
        del buffer[:SLICE_BYTES]
        return piece

    def _finish_producing(self) -> None:
        if not self.complete or self._buffer or self._consumer is None:
            return
        done, self._done, self._consumer = self._done, None, None
        if done is not None:
            done.callback(None)

    def pauseProducing(self) -> None:
        """Stop reading from the client."""
        self._paused = True
        if not self.complete:
            self._connection.pause_reading()

    def resumeProducing(self) -> None:
        """Write what is buffered, then read from the client again."""
        self._paused = False
        self._produce()

    def stopProducing(self) -> None:
        """Cancel the stream and drop the rest of the body."""
        if not self._discarding:
            self.discard()
        done, self._done = self._done, None
        if done is not None:
            done.cancel()
