"""One of those who wait for the answer of a flight, and its place in what has come so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.proxy.recorder import CacheMiss
from goproxyai.proxy.replay import SLICE
from goproxyai.telemetry.outcome import CacheOutcome, Ending

if TYPE_CHECKING:
    from goproxyai.proxy.single_flight import SingleFlight


@implementer(IPushProducer)
class Subscriber:
    """One of those who wait for the answer.

    :ivar at: how many of the pieces it has.
    :ivar leads: whether the request that went upstream was its own.
    :ivar awake: whether it takes more.
    :ivar noted: whether its event is in the log.
    :ivar streams: whether a stream of events is being sent to it.
    :ivar first_seconds: from its request to the first byte of its answer, negative until then.
    """

    __slots__ = (
        "_flight", "_pumping", "at", "awake", "client", "exchange", "first_seconds", "leads",
        "noted", "streams", "wanted",
    )  # fmt: skip

    def __init__(
        self, flight: SingleFlight, exchange: Exchange, client: str, wanted: CacheMiss, leads: bool
    ) -> None:
        self._flight = flight
        self.exchange = exchange
        self.client = client
        self.wanted = wanted
        self.leads = leads
        self.at = 0
        self.awake = True
        self.noted = False
        self.streams = False
        self.first_seconds = -1.0
        self._pumping = False
        exchange.listener = self

    @property
    def cache(self) -> CacheOutcome:
        """For the log."""
        return CacheOutcome.MISS if self.leads else CacheOutcome.COALESCED

    def pump(self, ended: bool) -> None:
        """Write what came and was not written yet, as long as the client takes it.

        :param ended: nothing more will come.
        """
        if self._pumping:
            return
        self._pumping = True
        exchange, pieces = self.exchange, self._flight.pieces
        while self.awake and not exchange.over:
            data = self._next(pieces)
            last = ended and self.at == len(pieces)
            if data or last:
                exchange.write(data, last)
            if self.at == len(pieces):
                break
        self._pumping = False

    def _next(self, pieces: list[bytes]) -> bytes:
        """A slice of what was not written yet."""
        first, size = self.at, 0
        while self.at < len(pieces) and (size == 0 or size + len(pieces[self.at]) <= SLICE):
            size += len(pieces[self.at])
            self.at += 1
        return pieces[first] if self.at == first + 1 else b"".join(pieces[first : self.at])

    # Backpressure: the client's connection.

    def pauseProducing(self) -> None:
        """The client does not keep up."""
        if self.awake:
            self.awake = False
            self._flight.paused()

    def resumeProducing(self) -> None:
        """It does."""
        if not self.awake:
            self.awake = True
            self._flight.resumed(self)

    def stopProducing(self) -> None:
        """It is gone, as :meth:`client_gone` is told."""

    # The exchange's Listener.

    def client_gone(self) -> None:
        """The client left."""
        self._flight.note(self, Ending.CLIENT_GONE)
        self._flight.leave(self)

    def request_failed(self, problem: ProxyError) -> None:
        """The rest of the request broke the rules."""
        self._flight.refuse(self, problem)
        self._flight.leave(self)
