"""What the daemon says of itself: the document of ``/stats``, and parts that others show, too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs

from goproxyai.config.settings import Settings
from goproxyai.durations import format_duration
from goproxyai.limits.connection_slots import ConnectionSlots
from goproxyai.proxy.handler import ProxyHandler
from goproxyai.telemetry.counters import Counters


@attrs.define(eq=False)
class Stats:
    """Says it.

    :ivar settings: that hold; others may be put in their place.
    :ivar slots: the connections, of which there are so many at the most.
    :ivar ready: whether new work is taken.
    :ivar wall: gives unix seconds.
    """

    settings: Settings
    relay: ProxyHandler
    counters: Counters
    slots: ConnectionSlots[Any]
    ready: bool = True
    wall: Callable[[], float] = time.time
    _started: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._started = self.wall()

    @property
    def uptime(self) -> int:
        """Whole seconds."""
        return int(self.wall() - self._started)

    def document(self) -> dict[str, Any]:
        """All of it."""
        settings = self.settings
        self.relay.log.flush()  # which counts what has ended
        counted = self.counters.summary()
        counted["connections"]["most"] = self.slots.max_connections
        return {
            "cache": self.cache(),
            "rate_limit": settings.rate_limit,
            "clients": len(self.relay.admission.buckets),
            "proxy_url": "" if settings.proxy_url is None else settings.proxy_url.masked,
            "openai_url": settings.openai_url,
            "upstreams": self.upstreams(),
            "uptime_seconds": self.uptime,
            "ready": self.ready,
            **counted,
        }

    def cache(self) -> dict[str, Any]:
        """What is stored, and what it was good for."""
        store, counters = self.relay.store, self.counters
        return {
            "item_count": len(store),
            "ttl": format_duration(self.settings.cache_ttl),
            "bytes": store.bytes,
            "max_bytes": self.settings.max_cache_size,
            "reserved": store.reserved,
            "hits": counters.hits,
            "misses": counters.misses,
            "bypasses": counters.bypasses,
            "coalesced": counters.coalesced,
            "stale_if_error": counters.rescues,
            "flights": len(self.relay.flights),
            "stores": store.stores,
            "evictions": store.evictions,
            "expirations": store.expirations,
        }

    def upstreams(self) -> list[dict[str, Any]]:
        """Each, and how its circuit is."""
        now = self.relay.seconds()
        return [
            {
                "url": upstream.url,
                "circuit": upstream.breaker.state(now).value,
                "opened": upstream.breaker.opened,
            }
            for upstream in self.relay.upstreams.each
        ]
