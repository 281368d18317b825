"""The body of a request on its way to an upstream, from whoever produces it.

It ends once: when the producer is done, when it fails, or by :meth:`RequestUpload.stop`.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from goproxyai.http11.framing import LAST_CHUNK, chunk


class Outlet(Protocol):
    """What an upload asks of the connection that it leaves by."""

    def put(self, data: bytes) -> None:
        """Write *data* to upstream."""

    def uploaded(self, failure: Failure | None) -> None:
        """The last byte was put, or there will be none: *failure* says why."""


@implementer(IConsumer)
class RequestUpload:
    """Takes a body from its producer and frames it.

    :ivar on: whether more is to come.
    """

    __slots__ = ("_body", "_chunked", "_outlet", "on")

    def __init__(self, outlet: Outlet, body: IBodyProducer) -> None:
        self._outlet = outlet
        self._body = body
        self._chunked = body.length is UNKNOWN_LENGTH
        self.on = True

    def framing(self, framed: bool) -> bytes:
        """The header line that is still missing; *framed*: a ``Content-Length`` is there."""
        if self._chunked:
            return b"Transfer-Encoding: chunked\r\n"
        return b"" if framed else b"Content-Length: %d\r\n" % self._body.length

    def start(self) -> None:
        """Let the body come."""
        self._body.startProducing(self).addCallbacks(self._done, self._failed)

    def stop(self) -> None:
        """Nobody wants the rest."""
        if self.on:
            self.on = False
            self._body.stopProducing()

    def write(self, data: bytes) -> None:
        """More of the body, from its producer."""
        if self.on:
            self._outlet.put(chunk(data) if self._chunked else data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Part of ``IConsumer``; the body's producer is known already."""

    def unregisterProducer(self) -> None:
        """Part of ``IConsumer``; the producer's Deferred says when it is done."""

    def _done(self, _: object) -> None:
        if self.on:
            self.on = False
            if self._chunked:
                self._outlet.put(LAST_CHUNK)
            self._outlet.uploaded(None)

    def _failed(self, reason: Failure) -> None:
        if self.on and reason.check(CancelledError) is None:
            self.on = False
            self._outlet.uploaded(reason)
