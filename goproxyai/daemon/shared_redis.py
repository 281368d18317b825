"""Builds the shared state of ``STATE_URL``."""

from __future__ import annotations

from secrets import token_bytes
from typing import Any

from goproxyai.config.settings import Settings
from goproxyai.egress.state_server import login_of, state_server
from goproxyai.state.redis.names import Names
from goproxyai.state.redis.shared import RedisState
from goproxyai.state.shared_state import RateLimiter
from goproxyai.telemetry.counters import Counters


def make_redis_state(
    reactor: Any, settings: Settings, counters: Counters, fallback: RateLimiter
) -> RedisState | None:
    """Return the shared state, or ``None`` without ``STATE_URL``.

    :param fallback: limits the rate while Redis is away, unless ``STATE_STRICT`` is set.
    """
    url, secret = settings.state_url, settings.state_secret
    if url is None or secret is None:
        return None
    return RedisState(
        reactor,
        state_server(reactor, url),
        login_of(url),
        Names(secret, settings.state_prefix, token_bytes),
        settings.rate_limit,
        None if settings.state_strict else fallback,
        counters.state,
        counters.durations.state.add,
    )
