"""Periodic work outside of the requests."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall

from goproxyai.admin.events import EventStream
from goproxyai.cache.store import Store
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.health_probe import HealthProbe
from goproxyai.proxy.upstreams import Upstreams
from goproxyai.reactor.deadlines import Ticker

EVICTION_INTERVAL_SECONDS = 1.0
"""Interval between two searches for expired cache entries."""

EVICTION_TURN_SECONDS = 0.001
"""Time in one turn of the reactor after which eviction goes on in the next turn."""

MAX_EVICTIONS_PER_SLICE = 50
"""Cache entries that are dropped between two reads of the clock."""

BREAKER_INTERVAL_SECONDS = 1.0
"""Interval between two steps of the circuit breakers' windows."""


@attrs.define(eq=False)
class Maintenance(Service):
    """Runs deadlines, token refills, eviction, breaker steps, the event stream and health probes.

    :param health_probe: ``None`` where health probes are turned off.
    """

    clock: Any
    ticker: Ticker
    admission: Admission
    store: Store
    upstreams: Upstreams
    health_probe: HealthProbe | None
    event_stream: EventStream
    _eviction: LoopingCall = attrs.field(init=False)
    _breaker_steps: LoopingCall = attrs.field(init=False)
    _more_eviction: IDelayedCall | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._eviction = LoopingCall(self._evict)
        self._breaker_steps = LoopingCall(self._step_breakers)
        self._eviction.clock = self._breaker_steps.clock = self.clock

    def startService(self) -> None:
        super().startService()
        self.ticker.start()
        self.admission.start()
        self._eviction.start(EVICTION_INTERVAL_SECONDS, now=False)
        self._breaker_steps.start(BREAKER_INTERVAL_SECONDS)
        self.event_stream.start()
        if self.health_probe is not None:
            self.health_probe.start()

    def stopService(self) -> None:
        super().stopService()
        self.ticker.stop()
        self.admission.stop()
        self.event_stream.stop()
        for call in (self._eviction, self._breaker_steps):
            if call.running:
                call.stop()
        if self.health_probe is not None:
            self.health_probe.stop()
        if self._more_eviction is not None:
            self._more_eviction.cancel()
            self._more_eviction = None

    def _step_breakers(self) -> None:
        now = self.clock.seconds()
        for upstream in self.upstreams.all:
            upstream.breaker.advance(now)

    def _evict(self) -> None:
        """Drop expired, cleared and surplus cache entries, for a bounded time in each turn."""
        if self._more_eviction is not None:
            return
        now, store = self.clock.seconds(), self.store
        more = True
        while more and self.clock.seconds() < now + EVICTION_TURN_SECONDS:
            more = store.remove_expired(now, MAX_EVICTIONS_PER_SLICE)
            more |= store.free_cleared(MAX_EVICTIONS_PER_SLICE)
            more |= store.evict_excess(MAX_EVICTIONS_PER_SLICE)
        if more:
            self._more_eviction = self.clock.callLater(0, self._continue_eviction)

    def _continue_eviction(self) -> None:
        self._more_eviction = None
        self._evict()
