"""The connections to Redis, a *lane* for each purpose: where they lead, and how they begin."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from goproxyai.state.redis.connection import Argument, RedisConnection


class Lane(Enum):
    """What a connection is for."""

    LIMITS = "limits"
    CACHE = "cache"
    EVENTS = "events"


class Server(Protocol):
    """Knows where the server is."""

    def find(self) -> Deferred[IStreamClientEndpoint]:
        """Return the endpoint of the server, or of the present master."""

    def start(self, moved: Callable[[str], None]) -> None:
        """Call *moved*, with a reason, when connections should be opened anew."""

    def stop(self) -> None: ...


@attrs.frozen
class Login:
    """How a connection begins.

    :ivar username: empty for the default user. :ivar password: ``None``: no authentication.
    """

    username: str = attrs.field(repr=False)
    password: str | None = attrs.field(repr=False)
    database: int

    def commands(self) -> list[tuple[Argument, ...]]:
        found: list[tuple[Argument, ...]] = []
        if self.password is not None:
            user = (self.username,) if self.username else ()
            found.append(("AUTH", *user, self.password))
        if self.database:
            found.append(("SELECT", self.database))
        return found


class _Connections(Factory):
    """Makes the connections of one attempt, and knows them."""

    noisy = False

    def __init__(self, make: Callable[[], RedisConnection]) -> None:
        self._make = make
        self.made: list[RedisConnection] = []

    def buildProtocol(self, _: object) -> RedisConnection:
        self.made.append(self._make())
        return self.made[-1]


async def open_lanes(
    endpoint: IStreamClientEndpoint, make: Callable[[], RedisConnection]
) -> dict[Lane, RedisConnection]:
    """Open a connection for each lane; if one of them fails or is cancelled, close all.

    :param make: makes a connection.
    """
    factory = _Connections(make)
    opening: list[Deferred[Any]] = [endpoint.connect(factory) for _ in Lane]
    try:
        connections: list[RedisConnection] = await gatherResults(opening, consumeErrors=True)
    except BaseException:
        for each in opening:
            each.cancel()
        for connection in factory.made:
            connection.close()
        raise
    return dict(zip(Lane, connections, strict=True))
