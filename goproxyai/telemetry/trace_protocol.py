"""What the access log and the proxy need of a tracer."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from goproxyai.http11.exchange import Exchange, Trace
from goproxyai.telemetry.events import Batch, Event


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
