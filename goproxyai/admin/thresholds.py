"""The colours of the dashboard's tiles: which figures are noticeable, and which are serious."""

from __future__ import annotations

from goproxyai.admin.situation import Level
from goproxyai.admin.verdict import (
    MIN_FAILURES,
    SERIOUS_FAILURES,
    WARNED_FAILURES,
    WARNED_INVALID,
    WARNED_LIMITED,
)

WARNED_OVERHEAD_MS = 50.0
SERIOUS_OVERHEAD_MS = 250.0
WARNED_FILL = 0.8
SERIOUS_FILL = 0.95


def failures_level(incidents: int, by_clients: int, requests: int) -> Level:
    """Return the level of an error rate.

    :param incidents: failed requests that are part of an incident.
    :param by_clients: refused requests that are a matter of single clients.
    """
    if not requests:
        return Level.IDLE
    if incidents >= max(MIN_FAILURES, SERIOUS_FAILURES * requests):
        return Level.BAD
    if incidents >= max(1, WARNED_FAILURES * requests):
        return Level.WARNING
    if by_clients >= max(MIN_FAILURES, WARNED_INVALID * requests):
        return Level.WARNING
    return Level.GOOD


def limited_level(limited: int, requests: int) -> Level:
    """Return the level of the requests that the rate limit refuses."""
    if not requests:
        return Level.IDLE
    return Level.WARNING if limited >= max(1, WARNED_LIMITED * requests) else Level.GOOD


def overhead_level(milliseconds: float | None) -> Level:
    """Return the level of the time that the proxy adds, at the 95th percentile."""
    return _level(milliseconds, WARNED_OVERHEAD_MS, SERIOUS_OVERHEAD_MS)


def fill_level(used: float, limit: float) -> Level:
    """Return the level of a resource with a limit; 0 is no limit."""
    return _level(used / limit if limit else None, WARNED_FILL, SERIOUS_FILL)


def _level(value: float | None, warned: float, serious: float) -> Level:
    if value is None:
        return Level.IDLE
    if value >= serious:
        return Level.BAD
    return Level.WARNING if value >= warned else Level.GOOD
