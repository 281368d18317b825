"""Limits on the number of connections, in all and of each client.

1. A connection below the limits is *admitted*. Both limits hold at any time.
2. At a limit, the connection that has been idle longest is evicted in favour of a new one: of the
   same client at the limit of a client, of all at the other. Idle means open without a request, for
   :data:`MIN_IDLE_SECONDS` at least, so that a client is not cut off between two requests and a new
   connection has time to send its first.
3. If no connection is idle, the new one is *over the limit*. It is admitted with its first request
   if that is possible by then. At most :data:`MAX_OVER_LIMIT` connections are over the limit, and
   the oldest of them is dropped for a new one, so that a health check is answered however many
   connections are silent.
4. The cost of each step does not depend on the number of connections. A connection is not marked
   busy at each request: whether it is still idle is checked when it is to be evicted, for at most
   :data:`MAX_IDLE_CHECKS` connections.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Literal, TypeVar

import attrs

MAX_OVER_LIMIT = 64
"""Connections that are over the limit at a time."""

MIN_IDLE_SECONDS = 1.0
"""Time without a request before a connection may be evicted."""

MAX_IDLE_CHECKS = 8
"""Connections whose idleness is checked for one new connection."""

OTHER_DESCRIPTORS = 100
"""Descriptors for other purposes: listening sockets, the log, the reactor, name look-ups."""

C = TypeVar("C", bound=Hashable)
"""A connection."""

Limit = Literal["", "full", "per_client"]
"""A limit that is reached; empty for none."""


@attrs.define(eq=False)
class _Client(Generic[C]):
    """One client: the number of its admitted connections, and the idle ones of them."""

    admitted: int = 0
    idle: OrderedDict[C, float] = attrs.field(factory=OrderedDict)


class ConnectionSlots(Generic[C]):
    """Admits connections.

    The memory is bounded by ``max_connections + MAX_OVER_LIMIT`` connections.

    :ivar max_connections: admitted in all; may be lowered while none is.
    :param max_per_client: admitted of one client; 0 for no such limit.
    :param is_idle: whether a connection that was marked idle still is.
    """

    def __init__(
        self, max_connections: int, max_per_client: int, is_idle: Callable[[C], bool]
    ) -> None:
        self.max_connections = max_connections
        self._max_per_client = max_per_client
        self._is_idle = is_idle
        self._admitted: dict[C, str | None] = {}  # the client of each
        self._over_limit: OrderedDict[C, None] = OrderedDict()
        self._idle: OrderedDict[C, float] = OrderedDict()  # since when, in that order
        self._clients: dict[str, _Client[C]] = {}  # empty without a limit for each client

    @property
    def admitted(self) -> int:
        """The number of admitted connections."""
        return len(self._admitted)

    @property
    def over_limit(self) -> int:
        """The number of connections over the limit."""
        return len(self._over_limit)

    @property
    def clients(self) -> int:
        """The number of clients whose admitted connections are counted."""
        return len(self._clients)

    @property
    def idle(self) -> list[C]:
        """The connections that are marked idle, the longest idle first."""
        return list(self._idle)

    def reached_limit(self, client: str | None) -> Limit:
        """Return the limit that keeps *client* from another connection."""
        if client is not None and client in self._clients:
            if self._clients[client].admitted >= self._max_per_client:
                return "per_client"
        return "full" if len(self._admitted) >= self.max_connections else ""

    def admit(self, connection: C, client: str | None, now: float) -> tuple[bool, C | None]:
        """Admit *connection*, new or over the limit, if that is possible.

        :param client: ``None`` if the limit of a client does not apply.
        :param now: seconds, of the same clock as in :meth:`mark_idle`.
        :returns: whether it is admitted, and the connection that is evicted for it. The caller
            closes the evicted connection, which is counted no longer.
        """
        limit, evicted = self.reached_limit(client), None
        if limit:
            evicted = self._find_idle(client if limit == "per_client" else None, now)
            if evicted is None:
                return False, None
            self.remove(evicted)
        self._over_limit.pop(connection, None)
        if not self._max_per_client:
            client = None
        self._admitted[connection] = client
        if client is not None:
            self._clients.setdefault(client, _Client()).admitted += 1
        return True, evicted

    def add_over_limit(self, connection: C) -> C | None:
        """Count *connection*, which cannot be admitted, as over the limit.

        :returns: the connection that is dropped for it; the caller closes that one.
        """
        dropped = None
        if len(self._over_limit) >= MAX_OVER_LIMIT:
            dropped, _ = self._over_limit.popitem(last=False)
        self._over_limit[connection] = None
        return dropped

    def remove(self, connection: C) -> None:
        """Count *connection*, in whatever state, no longer; may be repeated."""
        self.mark_busy(connection)
        self._over_limit.pop(connection, None)
        client = self._admitted.pop(connection, None)
        if client is not None:
            row = self._clients[client]
            row.admitted -= 1
            if not row.admitted:
                del self._clients[client]

    def mark_idle(self, connection: C, now: float) -> None:
        """Mark *connection* as idle since *now*, which never decreases, if it is admitted."""
        if connection not in self._admitted:
            return
        self.mark_busy(connection)
        self._idle[connection] = now
        client = self._admitted[connection]
        if client is not None:
            self._clients[client].idle[connection] = now

    def mark_busy(self, connection: C) -> None:
        """Mark *connection* as not idle."""
        if self._idle.pop(connection, None) is not None:
            client = self._admitted[connection]
            if client is not None:
                del self._clients[client].idle[connection]

    def _find_idle(self, client: str | None, now: float) -> C | None:
        idle = self._idle if client is None else self._clients[client].idle
        for _ in range(MAX_IDLE_CHECKS):
            connection, since = next(iter(idle.items()), (None, now))
            if connection is None or now - since < MIN_IDLE_SECONDS:
                return None
            if self._is_idle(connection):
                return connection
            self.mark_busy(connection)  # until it is marked idle again
        return None


def connections_for(descriptors: int, wanted: int) -> int:
    """Return how many of *wanted* connections *descriptors* are enough for, at least 1."""
    return max(1, min(wanted, (descriptors - MAX_OVER_LIMIT - OTHER_DESCRIPTORS) * 2 // 3))


def descriptors_for(connections: int) -> int:
    """Return the descriptors for *connections* if every other one has one to an upstream.

    Idle connections have none. If more are active, connecting to the upstream fails.
    """
    return connections + -(-connections // 2) + MAX_OVER_LIMIT + OTHER_DESCRIPTORS
