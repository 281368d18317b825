"""Single flight: identical requests that are under way share one upstream request.

:mod:`goproxyai.cache.coalescing` decides which requests may share; a :class:`.Flight` is one shared
upstream request.
"""

from __future__ import annotations

from collections.abc import Iterator

from goproxyai.http11.exchange import Exchange
from goproxyai.proxy.cache_lookup import CacheMiss
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.flight import Flight


class SingleFlight:
    """The flights that further requests may join, by cache key.

    Each has at least one subscriber, so there are at most as many as client connections.
    """

    def __init__(self, context: ProxyContext) -> None:
        self._context = context
        self._flights: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(tuple(self._flights.values()))

    def joinable(self, miss: CacheMiss) -> Flight | None:
        """Return the flight that *miss* may join.

        A flight that a write or a clearing of the cache has overtaken accepts no more subscribers.
        """
        flight = self._flights.get(miss.key)
        return flight if flight is not None and flight.accepts(miss) else None

    def start(self, exchange: Exchange, client: str, miss: CacheMiss) -> None:
        """Send the request of *exchange* upstream, for itself and for those that join."""
        flight = Flight(self._context, exchange, client, miss, self._close)
        self._flights[miss.key] = flight
        flight.start()

    def _close(self, flight: Flight) -> None:
        """Let no more requests join *flight*."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
