"""Periodic removal of expired, cleared and surplus cache entries."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall

from goproxyai.cache.store import Store

EVICTION_INTERVAL_SECONDS = 1.0
"""Interval between two searches for expired cache entries."""

EVICTION_TURN_SECONDS = 0.001
"""Time in one turn of the reactor after which eviction goes on in the next turn."""

MAX_EVICTIONS_PER_SLICE = 50
"""Cache entries that are dropped between two reads of the clock."""


class Eviction:
    """Removes entries of *store*, for a bounded time in each turn of the reactor."""

    def __init__(self, clock: Any, store: Store) -> None:
        self._clock = clock
        self._store = store
        self._rounds = LoopingCall(self._evict)
        self._rounds.clock = clock
        self._more: IDelayedCall | None = None

    def start(self) -> None:
        self._rounds.start(EVICTION_INTERVAL_SECONDS, now=False)

    def stop(self) -> None:
        if self._rounds.running:
            self._rounds.stop()
        if self._more is not None:
            self._more.cancel()
            self._more = None

    def _evict(self) -> None:
        if self._more is not None:
            return
        now, store = self._clock.seconds(), self._store
        more = True
        while more and self._clock.seconds() < now + EVICTION_TURN_SECONDS:
            more = store.remove_expired(now, MAX_EVICTIONS_PER_SLICE)
            more |= store.free_cleared(MAX_EVICTIONS_PER_SLICE)
            more |= store.evict_excess(MAX_EVICTIONS_PER_SLICE)
        if more:
            self._more = self._clock.callLater(0, self._continue)

    def _continue(self) -> None:
        self._more = None
        self._evict()
