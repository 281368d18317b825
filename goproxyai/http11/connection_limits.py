"""Apply the limits of :mod:`goproxyai.limits.connection_slots` to the connections of clients.

A connection over the limit can still send one request. ``/health`` is answered, so that a load
balancer does not mistake a full proxy for a broken one and move all clients to the next; any other
request gets 503 ``overloaded``. The connection is closed after the response.
"""

from __future__ import annotations

from typing import Protocol

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.limits.addresses import TrustedProxies, bucket_key, canonical_address
from goproxyai.limits.connection_slots import ConnectionSlots, Limit
from goproxyai.reactor.deadlines import Ticker

UNLIMITED = 1 << 30
"""More connections than a process can have."""

HEALTH_PREFIX = b"/health"
"""Of the targets that are served on a connection over the limit."""

REFUSALS = ("full", "per_client", "dropped", "no_descriptor", "untrusted_sender", "proxy_header")
"""Reasons for refusing a connection: the first two are answered, the others closed. The last two
are those of :mod:`.announced_peer`."""


class ConnectionCounts:
    """Counts of client connections.

    :ivar opened: accepted. :ivar closed: of these, those that have ended.
    :ivar refused: by reason, see :data:`REFUSALS`.
    :ivar idle_closed: evicted while idle.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.refused = dict.fromkeys(REFUSALS, 0)
        self.idle_closed = 0


class LimitedConnection(Protocol):
    """A connection, as its limits see it."""

    def __hash__(self) -> int: ...

    @property
    def peer(self) -> str:
        """The address of the client, as text."""

    @property
    def evictable(self) -> bool:
        """Whether it has no request, and the kernel holds no input from the client."""

    def shut_down(self) -> None:
        """Close it in an orderly way."""

    def abort(self) -> None:
        """Reset it."""


class ConnectionLimits:
    """Admits connections; one object for all listeners.

    :param max_connections: in all.
    :param max_per_client: of one client; 0 for no such limit.
    :param trusted: peers that connect for many clients, to which *max_per_client* does not apply.
    """

    def __init__(
        self,
        ticker: Ticker,
        counts: ConnectionCounts | None = None,
        max_connections: int = UNLIMITED,
        max_per_client: int = 0,
        trusted: TrustedProxies | None = None,
    ) -> None:
        self.counts = counts or ConnectionCounts()
        self.slots: ConnectionSlots[LimitedConnection] = ConnectionSlots(
            max_connections, max_per_client, _is_evictable
        )
        self._ticker = ticker
        self._max_per_client = max_per_client
        self._trusted = trusted or TrustedProxies()

    def trust(self, trusted: TrustedProxies) -> None:
        """Replace the trusted peers, for new connections."""
        self._trusted = trusted

    def trusts(self, peer: str) -> bool:
        """Return whether *peer* is a trusted proxy."""
        return self._trusted.contains(peer)

    def connection_made(self, connection: LimitedConnection) -> bool:
        """Count a new connection; return whether it is admitted, or else over the limit."""
        self.counts.opened += 1
        if self._admit(connection):
            return True
        dropped = self.slots.add_over_limit(connection)
        if dropped is not None:
            self.counts.refused["dropped"] += 1
            dropped.abort()
        return False

    def admit_late(self, connection: LimitedConnection, exchange: Exchange) -> bool:
        """Admit a connection over the limit with its first request, or refuse the request.

        :returns: whether the connection is admitted.
        """
        if not exchange.target.startswith(HEALTH_PREFIX):
            if self._admit(connection):
                return True
            limit = self.slots.reached_limit(self._client(connection))
            self.counts.refused[limit] += 1
            exchange.problem = overloaded(limit)
        exchange.keep_alive = False
        return False

    def connection_lost(self, connection: LimitedConnection) -> None:
        """Count a connection that has ended."""
        self.counts.closed += 1
        self.slots.remove(connection)

    def connection_replaced(self, connection: LimitedConnection) -> None:
        """Count a connection no longer, which another object goes on to serve.

        That object calls :meth:`connection_made` in the same turn of the reactor.
        """
        self.counts.opened -= 1
        self.slots.remove(connection)

    def _admit(self, connection: LimitedConnection) -> bool:
        client = self._client(connection)
        admitted, evicted = self.slots.admit(connection, client, self._ticker.now)
        if evicted is not None:
            self.counts.idle_closed += 1
            evicted.shut_down()
        return admitted

    def _client(self, connection: LimitedConnection) -> str | None:
        """Return whose connections are counted together; ``None`` for an unknown client."""
        peer = connection.peer
        if (
            not self._max_per_client
            or canonical_address(peer) is None
            or self._trusted.contains(peer)
        ):
            return None
        return bucket_key(peer)


def _is_evictable(connection: LimitedConnection) -> bool:
    return connection.evictable


def overloaded(limit: Limit) -> ProxyError:
    """Return the 503 for a connection over *limit*."""
    if limit == "per_client":
        message = (
            "This client has reached its limit of connections (MAX_CONNECTIONS_PER_CLIENT); close "
            "some, or try again in a second."
        )
    else:
        message = (
            "The proxy has reached its limit of connections (MAX_CONNECTIONS); try again in a "
            "second."
        )
    return ProxyError("overloaded", message, ((b"Retry-After", b"1"),))
