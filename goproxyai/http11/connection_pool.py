"""Connections between requests, by where they lead.

The most recently used connection is taken first, so that a pool that grew in a burst shrinks
again as the others run out of their idle time. At most :data:`MOST_IDLE` wait for each place;
each costs about 10 KiB.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from goproxyai.http11.client_connection import ClientConnection

MOST_IDLE = 512
"""Unused connections kept for one place."""


class ConnectionPool:
    """Unused connections, and a count of all."""

    def __init__(self) -> None:
        self._idle: dict[Hashable, list[ClientConnection]] = {}
        self._open: set[ClientConnection] = set()
        self._closed = False

    def __len__(self) -> int:
        """Connections that are open, used or not."""
        return len(self._open)

    def __iter__(self) -> Iterator[ClientConnection]:
        """Connections that are open, used or not."""
        return iter(tuple(self._open))

    def opened(self, connection: ClientConnection) -> None:
        """A new connection is up."""
        self._open.add(connection)

    def take(self, place: Hashable) -> ClientConnection | None:
        """An unused connection to *place*, if there is one that still holds."""
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if connection.doomed:  # broken off, but the reactor has not told us so yet
                continue
            if connection.quiet:
                return connection
            connection.abort()  # closed, or said what must not meet the next request
        return None

    def free(self, place: Hashable, connection: ClientConnection) -> None:
        """*connection* can be used again."""
        idle = self._idle.setdefault(place, [])
        if self._closed or len(idle) >= MOST_IDLE:
            connection.abort()
        else:
            idle.append(connection)

    def lost(self, place: Hashable, connection: ClientConnection) -> None:
        """*connection* is gone."""
        self._open.discard(connection)
        idle = self._idle.get(place, [])
        if connection in idle:
            idle.remove(connection)
        if not idle:
            self._idle.pop(place, None)

    def close(self) -> None:
        """Break off every connection, and keep none from now on."""
        self._closed = True
        for connection in tuple(self._open):
            connection.abort()
