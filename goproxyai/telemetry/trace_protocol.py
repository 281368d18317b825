"""What the access log and the proxy need of a tracer."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred

from goproxyai.http11.exchange import Exchange
from goproxyai.telemetry.events import Batch, Event


class Trace(Protocol):
    """The trace of one request; it holds no reference to the exchange."""

    def read(self, now: float, body: bytes | None) -> None:
        """Note that a body that did not arrive with the head is read.

        :param body: ``None`` if it is too large to keep.
        """

    def forwarded(self, now: float, url: str, body: object) -> bytes:
        """Note that the request is sent upstream, for the first time or again.

        :param url: of the upstream. :param body: bytes, if it is complete.
        :returns: header lines to add to the upstream request.
        """

    def coalesced(self, leader: Any) -> None:
        """Note that the request waits for the answer to another.

        :param leader: the other request's trace.
        """


class Tracer(Protocol):
    """Traces requests across systems."""

    def start(self) -> None:
        """Start; no thread may run before."""

    def begin(self, exchange: Exchange) -> Trace:
        """Return the trace of a new request."""

    def ended(self, events: list[Event], batch: Batch) -> None:
        """Receive finished requests, oldest first."""

    def stop(self) -> Deferred[None]:
        """Stop; fires when the last spans are sent, or after some seconds."""
