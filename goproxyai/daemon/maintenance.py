"""Periodic work outside of the requests."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.task import LoopingCall

from goproxyai.admin.events import EventStream
from goproxyai.cache.store import Store
from goproxyai.daemon.eviction import Eviction
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.health_probe import HealthProbe
from goproxyai.proxy.upstreams import Upstreams
from goproxyai.reactor.deadlines import Ticker

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
    _eviction: Eviction = attrs.field(init=False)
    _breaker_steps: LoopingCall = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._eviction = Eviction(self.clock, self.store)
        self._breaker_steps = LoopingCall(self._step_breakers)
        self._breaker_steps.clock = self.clock

    def startService(self) -> None:
        super().startService()
        self.ticker.start()
        self.admission.start()
        self._eviction.start()
        self._breaker_steps.start(BREAKER_INTERVAL_SECONDS)
        self.event_stream.start()
        if self.health_probe is not None:
            self.health_probe.start()

    def stopService(self) -> None:
        super().stopService()
        self.ticker.stop()
        self.admission.stop()
        self.event_stream.stop()
        self._eviction.stop()
        if self._breaker_steps.running:
            self._breaker_steps.stop()
        if self.health_probe is not None:
            self.health_probe.stop()

    def _step_breakers(self) -> None:
        now = self.clock.seconds()
        for upstream in self.upstreams.all:
            upstream.breaker.advance(now)
