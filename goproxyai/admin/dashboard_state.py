"""The ``state`` document that the dashboard shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs

from goproxyai import __version__
from goproxyai.admin.failure_texts import describe
from goproxyai.admin.history import CurrentIntervals, Interval
from goproxyai.admin.process_numbers import ProcessNumbers
from goproxyai.admin.sources import PageSources
from goproxyai.admin.stats import Stats
from goproxyai.admin.thresholds import (
    failures_level,
    fill_level,
    limited_level,
    overhead_level,
)
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.failure_cause import INCIDENTS, PARTY, FailureCause

MAX_ROUTES: Final = 10
"""Rows of the table of the busiest routes."""

MAX_CLIENTS: Final = 10
"""Rows of the table of clients."""

MAX_PATHS: Final = 8
"""Rows of the table of cached paths."""

_LIVE_FIELDS = ("age", "method", "path", "client", "model", "phase", "first_byte")

Rows = list[dict[str, Any]]


def state_document(
    stats: Stats,
    sources: PageSources,
    current: CurrentIntervals,
    subscriptions: int,
    process: ProcessNumbers,
    cpu_share: float | None,
) -> dict[str, Any]:
    """Return the current state of the daemon.

    :param subscriptions: open event streams of the dashboard; not counted as requests in flight.
    :param cpu_share: CPU seconds a second, ``None`` if it is unknown.
    """
    counters, finished = sources.counters, sources.counters.finished
    groups = {FailureCause(group["cause"]): group for group in sources.failure_groups()}
    has_egress = stats.settings.proxy_url is not None
    return {
        "now": current.slot.end.wall,
        "version": __version__,
        "uptime_seconds": stats.uptime,
        "readiness": stats.readiness,
        "verdict": attrs.asdict(stats.verdict(current)),
        "requests": {
            "total": finished.count - finished.own_pages,
            "own_pages": finished.own_pages,
            "in_flight": max(0, counters.in_flight - subscriptions),
            "open_streams": counters.open_streams,
            "open_tunnels": counters.open_tunnels,
            "limited": counters.limited,
            "slow": finished.slow,
        },
        "ranges": {
            name: _range(interval, groups, has_egress) for name, interval in current.ranges.items()
        },
        "cache": {**stats.cache(), "paths": sources.cached_paths()[:MAX_PATHS]},
        "clients": _clients(sources),
        "live": [dict(zip(_LIVE_FIELDS, row, strict=True)) for row in sources.live()],
        "tokens": _tokens(counters),
        "upstreams": stats.upstreams(),
        "recent_errors": sources.recent_errors(),
        "resources": _resources(sources, process, cpu_share),
        "reload": stats.reload(),
        "slot": current.slot.slot(),
    }


def _range(
    interval: Interval, groups: dict[FailureCause, dict[str, Any]], has_egress: bool
) -> dict[str, Any]:
    """Return the requests of one time range."""
    total, causes = interval.total(), interval.causes()
    incidents = sum([number for cause, number in causes.items() if cause in INCIDENTS])
    latency = {
        name: interval.percentiles(name) for name in ("total", "upstream", "overhead", "hits")
    }
    return {
        **total._asdict(),
        "incidents": incidents,
        "latency": latency,
        "levels": {
            "errors": failures_level(
                incidents, total.errors - incidents, total.requests - total.limited
            ),
            "limited": limited_level(total.limited, total.requests),
            "overhead": overhead_level(latency["overhead"][1]),
        },
        "causes": _causes(causes, groups, has_egress),
        "bypasses": _bypasses(interval),
        "routes": [
            {
                "route": route,
                "requests": row.requests,
                "hits": row.hits,
                "limited": row.limited,
                "errors": row.errors,
            }
            for route, row in interval.routes()[:MAX_ROUTES]
        ],
    }


def _causes(
    causes: dict[FailureCause, int],
    groups: dict[FailureCause, dict[str, Any]],
    has_egress: bool,
) -> Rows:
    """Return the failures by cause: incidents first, then by number.

    An open circuit is a consequence of the other incidents, and follows them.
    """
    rows = []

    def rank(cause: FailureCause) -> tuple[bool, bool, int]:
        return cause not in INCIDENTS, cause is FailureCause.CIRCUIT_OPEN, -causes[cause]

    for cause in sorted(causes, key=rank):
        group = groups.get(cause)
        if group is None:  # the process that has it has not reported it yet
            continue
        text = describe(cause, group["status"], group["detail"], has_egress)
        rows.append(
            {
                **group,
                "text": text[0].upper() + text[1:],
                "party": PARTY[cause],
                "incident": cause in INCIDENTS,
                "count": causes[cause],
            }
        )
    return rows


def _bypasses(interval: Interval) -> Sequence[tuple[str, int]]:
    return sorted(interval.bypasses().items(), key=lambda row: -row[1])


def _clients(sources: PageSources) -> Rows:
    return [
        {"client": client, "requests": requests, "limited": limited, "errors": failed}
        for client, requests, limited, failed in sources.clients()[:MAX_CLIENTS]
    ]


def _resources(
    sources: PageSources, process: ProcessNumbers, cpu_share: float | None
) -> dict[str, Any]:
    connections = sources.counters.connections
    opened, most = connections.opened - connections.closed, sources.slots.max_connections
    used, limit = sources.memory.used, sources.memory.limit
    return {
        "connections": opened,
        "max_connections": most,
        "request_bytes": used,
        "max_request_bytes": limit,
        "resident_bytes": process.resident_bytes,
        "descriptors": process.descriptors,
        "max_descriptors": process.max_descriptors,
        "cpu_share": cpu_share,
        "processes": process.processes,
        "upstream_connections": len(sources.pool),
        "levels": {
            "connections": fill_level(opened, most),
            "request_bytes": fill_level(used, limit),
            "descriptors": fill_level(process.descriptors, process.max_descriptors),
            "cpu": fill_level(cpu_share or 0.0, process.processes),
        },
    }


def _tokens(counters: Counters) -> dict[str, Any]:
    tokens = counters.tokens
    models: Rows = [
        {
            "model": model,
            "upstream": sum(tally.used[:2]),  # prompt and completion
            "cache": sum(tally.saved[:2]),
            "spent": round(tally.used_cost, 9),
            "saved": round(tally.saved_cost, 9),
            "priced": tokens.is_priced(model),
        }
        for model, tally in tokens.models.items()
    ]
    models.sort(key=lambda row: (-row["spent"], -row["upstream"] - row["cache"]))
    return {
        "upstream": tokens.total("used"),
        "cache": tokens.total("saved"),
        "unknown": sum(tokens.unknown.values()),
        "models": models,
        "money": tokens.money(),
    }
