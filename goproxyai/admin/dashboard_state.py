"""The ``state`` document that the dashboard shows."""

from __future__ import annotations

from typing import Any, Final

from goproxyai import __version__
from goproxyai.admin.history import Interval
from goproxyai.admin.sources import PageSources
from goproxyai.admin.stats import Stats
from goproxyai.telemetry.counters import Counters

MAX_ROUTES: Final = 10
"""Rows of the table of the busiest routes."""


def state_document(
    stats: Stats, sources: PageSources, slot: Interval, hour: Interval, subscriptions: int
) -> dict[str, Any]:
    """Return the current state of the daemon.

    :param slot: the open slot.
    :param hour: the last hour, the open slot included.
    :param subscriptions: open event streams of the dashboard; not counted as requests in flight.
    """
    counters = sources.counters
    return {
        "now": slot.end.wall,
        "version": __version__,
        "uptime_seconds": stats.uptime,
        "ready": stats.ready,
        "requests": {
            "total": counters.requests,
            "in_flight": counters.in_flight - subscriptions,
            "open_streams": counters.open_streams,
            "limited": counters.limited,
            "errors": sum(counters.finished.errors.values()),
            "slow": counters.finished.slow,
        },
        "cache": stats.cache(),
        "tokens": _tokens(counters),
        "connections": {
            "open": counters.connections.opened - counters.connections.closed,
            "most": sources.slots.max_connections,
        },
        "upstreams": stats.upstreams(),
        "hour": _hour(hour),
        "routes": [
            {
                "route": route,
                "requests": counts.requests,
                "hits": counts.hits,
                "errors": counts.errors,
            }
            for route, counts in hour.routes()[:MAX_ROUTES]
        ],
        "recent_errors": sources.recent_errors(),
        "slot": slot.slot(),
    }


def _hour(hour: Interval) -> dict[str, Any]:
    p50, p95, p99 = hour.percentiles()
    return {**hour.total()._asdict(), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def _tokens(counters: Counters) -> dict[str, Any]:
    tokens = counters.tokens
    models = [
        (model, sum(tally.used[:2]), sum(tally.saved[:2]))  # prompt and completion
        for model, tally in tokens.models.items()
    ]
    models.sort(key=lambda row: -(row[1] + row[2]))
    return {
        "upstream": tokens.total("used"),
        "cache": tokens.total("saved"),
        "unknown": sum(tokens.unknown.values()),
        "models": [
            {"model": model, "upstream": used, "cache": saved} for model, used, saved in models
        ],
        "money": tokens.money(),
    }
