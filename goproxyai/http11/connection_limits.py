"""Where connections come in: what :mod:`goproxyai.limits.connection_slots` decides is done here.

Who has no place may still ask. ``/health`` is answered, so that a balancer does not take a proxy
that is full for one that is broken, and send its clients on to the next; anything else is 503
``overloaded``. The connection ends with that answer.
"""

from __future__ import annotations

from typing import Protocol

from goproxyai.errors import ProxyError
from goproxyai.limits.addresses import Networks, bucket_key, canonical_address
from goproxyai.limits.connection_slots import Bound, ConnectionSlots
from goproxyai.reactor.deadlines import Ticker

UNBOUNDED = 1 << 30
"""More connections than there are."""

HEALTH = b"/health"
"""What is answered even so begins with this."""


REFUSALS = ("full", "per_client", "dropped", "no_descriptor")
"""Reasons for refusing a connection: the first two are answered, the others closed unheard."""


class ConnectionCounts:
    """Counts of client connections.

    :ivar opened: accepted. :ivar closed: of these, those that ended.
    :ivar refused: by reason, see :data:`REFUSALS`.
    :ivar idle_closed: closed while idle to make room for another.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.refused = dict.fromkeys(REFUSALS, 0)
        self.idle_closed = 0


class LimitedConnection(Protocol):
    """A connection, as seen from here."""

    def __hash__(self) -> int: ...

    @property
    def resting(self) -> bool:
        """Whether it has no request, and none on its way as far as the kernel knows."""

    def shut(self) -> None:
        """Close it, orderly."""

    def abort(self) -> None:
        """Break it off."""


class ConnectionLimits:
    """Lets connections in; one for all listening sockets.

    :param most: connections in all.
    :param each: connections of one client; 0 is no bound of its own.
    :param trusted: peers that speak for many, and so are no one client.
    """

    def __init__(
        self,
        ticker: Ticker,
        counts: ConnectionCounts | None = None,
        most: int = UNBOUNDED,
        each: int = 0,
        trusted: Networks | None = None,
    ) -> None:
        self.counts = counts or ConnectionCounts()
        self.slots: ConnectionSlots[LimitedConnection] = ConnectionSlots(most, each, _rests)
        self._ticker = ticker
        self._each = each
        self._trusted = trusted or Networks()

    def trust(self, trusted: Networks) -> None:
        """Let other peers speak for many, from the next connection on."""
        self._trusted = trusted

    def came(self, guest: LimitedConnection, peer: str) -> bool:
        """*guest* is connected; whether there is a place for it."""
        self.counts.opened += 1
        if self._enter(guest, peer):
            return True
        first = self.slots.wait(guest)
        if first is not None:
            self.counts.refused["dropped"] += 1
            first.abort()
        return False

    def asked(self, guest: LimitedConnection, peer: str) -> ProxyError | None:
        """*guest*, which had no place, asks: it gets one by now, or what to answer."""
        if self._enter(guest, peer):
            return None
        bound = self.slots.reached(self._client(peer))
        self.counts.refused[bound] += 1
        return overloaded(bound)

    def left(self, guest: LimitedConnection) -> None:
        """*guest* is no longer connected."""
        self.counts.closed += 1
        self.slots.leave(guest)

    def _enter(self, guest: LimitedConnection, peer: str) -> bool:
        inside, goes = self.slots.enter(guest, self._client(peer), self._ticker.now)
        if goes is not None:
            self.counts.idle_closed += 1
            goes.shut()
        return inside

    def _client(self, peer: str) -> str | None:
        """Whose connections count together: nobody's where it cannot be told whose they are."""
        if not self._each or canonical_address(peer) is None or self._trusted.contains(peer):
            return None
        return bucket_key(peer)


def _rests(guest: LimitedConnection) -> bool:
    return guest.resting


def overloaded(bound: Bound) -> ProxyError:
    """The 503 of who has no place."""
    if bound == "per_client":
        message = (
            "This client has as many connections as it may (MAX_CONNECTIONS_PER_CLIENT); close "
            "some, or try again in a second."
        )
    else:
        message = (
            "The proxy has as many connections as it may (MAX_CONNECTIONS); try again in a second."
        )
    return ProxyError("overloaded", message, ((b"Retry-After", b"1"),))
