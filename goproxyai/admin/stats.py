"""The document of ``GET /stats``; the dashboard shows parts of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from goproxyai.admin.history import CounterHistory, CurrentIntervals
from goproxyai.admin.situation import LastFailure, Situation, all_open
from goproxyai.admin.sources import PageSources, circuit_of, state_of
from goproxyai.admin.verdict import Verdict, verdict
from goproxyai.config.settings import Settings
from goproxyai.config.shown_settings import ShownSetting, settings_document
from goproxyai.durations import format_duration
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.failure_cause import FailureCause
from goproxyai.upstream.breaker import CircuitState


@attrs.define(eq=False)
class Stats:
    """Reports the daemon's settings and counters.

    :ivar settings: the current settings; a reload replaces them.
    :ivar config: the settings as they are shown, by the names of their variables.
    :ivar ready: false once stopping has begun.
    :ivar draining: whether new requests are refused, which begins ``DRAIN_DELAY`` later.
    :ivar serves_new_connections: whether the first request of a connection is served nevertheless.
    :ivar wall: returns Unix seconds.
    :ivar workers: returns the state of the worker processes, if there are any.
    :ivar reloaded_at: when the configuration was last reloaded, in Unix seconds; ``None`` if it was
        not.
    :ivar reload_failed_at: when a reload last failed.
    :ivar history: the counters of the last hour.
    """

    settings: Settings
    sources: PageSources
    config: Mapping[str, ShownSetting] = attrs.field(factory=dict)
    ready: bool = True
    draining: bool = False
    serves_new_connections: bool = True
    wall: Callable[[], float] = time.time
    workers: Callable[[], dict[str, Any]] | None = None
    reloaded_at: float | None = attrs.field(init=False, default=None)
    reload_failed_at: float | None = attrs.field(init=False, default=None)
    history: CounterHistory = attrs.field(init=False)
    _started: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._started = self.wall()
        self.history = CounterHistory(self.sources.counters, self._started)

    @property
    def counters(self) -> Counters:
        return self.sources.counters

    @property
    def uptime(self) -> int:
        """Seconds since the daemon was built."""
        return int(self.wall() - self._started)

    def document(self) -> dict[str, Any]:
        """Return the whole document of ``GET /stats``."""
        settings, sources = self.settings, self.sources
        sources.refresh()
        summary = sources.counters.summary()
        summary["connections"]["most"] = sources.slots.max_connections
        return {
            "verdict": attrs.asdict(self.verdict(self.history.current(self.wall()))),
            "cache": self.cache(),
            "rate_limit": settings.rate_limit,
            "clients": len(sources.admission.buckets),
            "proxy_url": "" if settings.proxy_url is None else settings.proxy_url.masked,
            "openai_url": settings.openai_url,
            "upstreams": self.upstreams(),
            "request_memory": {
                "bytes": sources.memory.used,
                "max_bytes": sources.memory.limit,
                "slow_readers_broken_off": sources.memory.broken_off,
            },
            "process": attrs.asdict(sources.process()),
            "uptime_seconds": self.uptime,
            "ready": self.ready,
            "reload": self.reload(),
            "log": {"lines_dropped": sources.dropped_log_lines()},
            "config": settings_document(self.config),
            **summary,
            **self.state(),
            **({} if self.workers is None else {"workers": self.workers()}),
        }

    def verdict(self, current: CurrentIntervals) -> Verdict:
        """Return the verdict on the present traffic.

        :param current: of :attr:`history`.
        """
        sources = self.sources
        clients = sources.clients()
        limited = clients[0][0] if clients and clients[0][2] else ""
        return verdict(
            Situation(
                current.traffic,
                last={
                    FailureCause(group["cause"]): LastFailure(group["status"], group["detail"])
                    for group in sources.failure_groups()
                },
                circuits=self._circuits(),
                stopping=not self.ready,
                has_egress=self.settings.proxy_url is not None,
                limited_client=limited,
            )
        )

    @property
    def readiness(self) -> str:
        """What ``/health/ready`` answers, in words: ``ready``, or why it is not."""
        if not self.ready:
            return "draining"
        return "no upstream" if all_open(self._circuits()) else "ready"

    def _circuits(self) -> list[CircuitState]:
        """Return the circuits of the upstreams, in order of preference."""
        now = self.sources.clock.seconds()
        return [each.breaker.state(now) for each in self.sources.upstreams.all]

    def reload(self) -> dict[str, float | None]:
        """Return when the configuration was reloaded, in Unix seconds."""
        return {"succeeded_at": self.reloaded_at, "failed_at": self.reload_failed_at}

    def cache(self) -> dict[str, Any]:
        """Return the size of the cache and the outcomes of its lookups."""
        store, counters = self.sources.store, self.sources.counters
        return {
            "item_count": len(store),
            "ttl": format_duration(self.settings.cache_ttl),
            "bytes": store.bytes,
            "max_bytes": self.settings.max_cache_size,
            "reserved": store.reserved,
            "hits": counters.hits,
            "misses": counters.misses,
            "bypasses": counters.bypasses,
            "bypass_reasons": {
                reason: number for reason, number in counters.bypass_reasons.items() if number
            },
            "coalesced": counters.coalesced,
            "stale_if_error": counters.stale_served,
            "flights": len(self.sources.flights),
            "stores": store.stores,
            "evictions": store.evictions,
            "expirations": store.expirations,
        }

    def state(self) -> dict[str, Any]:
        """Return the member ``state``: the shared state, if there is one."""
        numbers, url = self.sources.state, self.settings.state_url
        if numbers is None or url is None:
            return {}
        counters = self.sources.counters
        commands: dict[str, dict[str, int]] = {}
        for (kind, result), number in counters.state.commands.items():
            if number:
                commands.setdefault(kind, {})[result] = number
        return {
            "state": {
                "url": url.masked,
                "state": state_of(numbers),
                "processes": numbers.processes,
                "connected": numbers.up,
                "circuit": circuit_of(numbers).value,
                "opened": counters.state.opened,
                "lease": numbers.lease,
                "commands": commands,
                "overdue": dict(counters.state.overdue),
                "time": counters.durations.state.summary(),
                "wait": {
                    kind: histogram.summary()
                    for kind, histogram in counters.durations.state_wait.items()
                },
            }
        }

    def upstreams(self) -> list[dict[str, Any]]:
        """Return the circuit of each upstream, in order of preference."""
        now = self.sources.clock.seconds()
        return [
            {
                "url": upstream.url,
                "circuit": upstream.breaker.state(now).value,
                "opened": upstream.breaker.times_opened,
            }
            for upstream in self.sources.upstreams.all
        ]
