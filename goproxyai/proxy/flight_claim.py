"""The exclusive claim of a single flight, for which other processes wait."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from goproxyai.proxy.cache_lookup import CacheMiss
from goproxyai.proxy.context import ProxyContext
from goproxyai.state.second_level import Claim

MAX_PAUSED_SECONDS: Final = 2.0
"""For which the clients of a flight may accept no data before the claim is given up: clients of
other processes must not wait for slow ones here."""


class NoClaim:
    """No process waits for the flight."""

    __slots__ = ()

    def response_began(self, is_storable: bool, length: object) -> None:
        """The head of the response has arrived.

        :param length: of the body in bytes, if it is known.
        """

    def upstream_paused(self) -> None:
        """No client accepts data for now."""

    def upstream_resumed(self) -> None:
        """A client accepts data again."""

    def abandon(self) -> None:
        """The clients have left."""

    def end(self) -> None:
        """The response is stored, or will not be."""


_NO_CLAIM: Final = NoClaim()


class FlightClaim(NoClaim):
    """Ends a claim with its flight, whatever the end is.

    :param max_bytes: of a body that the second level stores.
    """

    __slots__ = ("_claim", "_clock", "_max_bytes", "_timer")

    def __init__(self, claim: Claim, clock: IReactorTime, max_bytes: int) -> None:
        self._claim = claim
        self._clock = clock
        self._max_bytes = max_bytes
        self._timer: IDelayedCall | None = None

    def response_began(self, is_storable: bool, length: object) -> None:
        if not is_storable or (isinstance(length, int) and length > self._max_bytes):
            self.end()

    def upstream_paused(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(MAX_PAUSED_SECONDS, self._paused_too_long)

    def upstream_resumed(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def abandon(self) -> None:
        self.upstream_resumed()
        self._claim.give_up()

    def end(self) -> None:
        self.upstream_resumed()
        self._claim.fail()

    def _paused_too_long(self) -> None:
        self._timer = None
        self._claim.give_up()


def flight_claim(context: ProxyContext, miss: CacheMiss) -> NoClaim:
    """Return the claim of the flight that *miss* leads."""
    claim, second_level = miss.claim, context.shared.second_level
    if claim is None or second_level is None:
        return _NO_CLAIM
    return FlightClaim(claim, context.clock, second_level.max_record_bytes)
