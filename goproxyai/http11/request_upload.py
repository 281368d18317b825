"""Stream the body of a request to an upstream."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from goproxyai.http11.framing import LAST_CHUNK, chunk
from goproxyai.http11.sliced_body import SlicedBody


class UploadConnection(Protocol):
    """The connection that a body is sent on."""

    def send_body(self, data: bytes) -> None:
        """Write *data*, a part of the body with its framing."""

    def upload_finished(self, failure: Failure | None) -> None:
        """The last byte was written, or none will follow because of *failure*."""


@implementer(IConsumer)
class RequestUpload:
    """Consumes a body from its producer, and frames it.

    An upload ends once: when the producer is done or fails, or by :meth:`stop`.
    """

    __slots__ = ("_active", "_body", "_chunked", "_connection")

    def __init__(self, connection: UploadConnection, body: IBodyProducer) -> None:
        self._connection = connection
        self._body = body
        self._chunked = body.length is UNKNOWN_LENGTH
        self._active = True

    def framing_line(self, has_length: bool) -> bytes:
        """Return the header line that the head lacks.

        :param has_length: whether the head contains ``Content-Length``.
        """
        if self._chunked:
            return b"Transfer-Encoding: chunked\r\n"
        return b"" if has_length else b"Content-Length: %d\r\n" % self._body.length

    @property
    def held_bytes(self) -> int:
        """Memory of a complete body; one that is being received is counted where it is."""
        return self._body.length if isinstance(self._body, SlicedBody) else 0

    def start(self) -> None:
        self._body.startProducing(self).addCallbacks(self._done, self._failed)

    def stop(self) -> None:
        """Stop the producer; the connection is told nothing."""
        if self._active:
            self._active = False
            self._body.stopProducing()

    def write(self, data: bytes) -> None:
        if self._active:
            self._connection.send_body(chunk(data) if self._chunked else data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Do nothing: the producer is the body."""

    def unregisterProducer(self) -> None:
        """Do nothing: the Deferred of the producer fires when it is done."""

    def _done(self, _: object) -> None:
        if self._active:
            self._active = False
            if self._chunked:
                self._connection.send_body(LAST_CHUNK)
            self._connection.upload_finished(None)

    def _failed(self, reason: Failure) -> None:
        if self._active and reason.check(CancelledError) is None:
            self._active = False
            self._connection.upload_finished(reason)
