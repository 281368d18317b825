"""A pool of connections to upstreams.

The connection that was used last is taken first, so that a pool that grew in a burst shrinks again
when the others reach the end of their idle time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.connection_states import ClientState

MAX_IDLE_CONNECTIONS = 512
"""Idle connections of one origin; each takes about 10 KiB."""

IDLE = ClientState.IDLE


class ConnectionPool:
    """The open connections, and which of them are idle, by origin."""

    def __init__(self) -> None:
        self._idle: dict[Hashable, list[ClientConnection]] = {}
        self._open: set[ClientConnection] = set()
        self._closed = False

    def __len__(self) -> int:
        """Return the number of open connections, idle or not."""
        return len(self._open)

    def __iter__(self) -> Iterator[ClientConnection]:
        """Iterate over the open connections, idle or not."""
        return iter(tuple(self._open))

    def add(self, connection: ClientConnection) -> None:
        """Count a connection that was established."""
        self._open.add(connection)

    def take(self, origin: Hashable) -> ClientConnection | None:
        """Return an idle connection to *origin* that can be used, if there is one."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.state is not IDLE:
                continue  # aborted, and Twisted has not reported its end yet
            if connection.is_usable():
                return connection
            connection.abort()
        return None

    def release(self, origin: Hashable, connection: ClientConnection) -> None:
        """Keep *connection*, which has become idle, or abort it if there are too many."""
        idle = self._idle.setdefault(origin, [])
        if self._closed or len(idle) >= MAX_IDLE_CONNECTIONS:
            connection.abort()
        else:
            idle.append(connection)

    def remove(self, origin: Hashable, connection: ClientConnection) -> None:
        """Forget *connection*, which was lost."""
        self._open.discard(connection)
        idle = self._idle.get(origin, [])
        if connection in idle:
            idle.remove(connection)
        if not idle:
            self._idle.pop(origin, None)

    def close(self) -> None:
        """Abort every connection, and keep none from now on."""
        self._closed = True
        for connection in tuple(self._open):
            connection.abort()
