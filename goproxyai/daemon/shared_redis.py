"""Builds the shared state of ``STATE_URL``."""

from __future__ import annotations

import time
from itertools import count
from secrets import token_bytes, token_hex
from typing import Any

from goproxyai.cache.store import Store
from goproxyai.config.settings import Settings
from goproxyai.egress.state_server import login_of, state_server
from goproxyai.reactor.socket_write import send_buffered
from goproxyai.state.redis.announcements import Announcements
from goproxyai.state.redis.client import RedisClient
from goproxyai.state.redis.limiter import RedisLimiter
from goproxyai.state.redis.names import Names
from goproxyai.state.redis.places import Places
from goproxyai.state.redis.second_level import RedisSecondLevel
from goproxyai.state.redis.secret_check import SecretCheck
from goproxyai.state.redis.shared import RedisState
from goproxyai.state.shared_state import RateLimiter, SharedState
from goproxyai.telemetry.counters import Counters


def make_redis_state(
    reactor: Any,
    settings: Settings,
    counters: Counters,
    store: Store,
    fallback: RateLimiter,
    others: SharedState,
) -> RedisState | None:
    """Return the shared state, or ``None`` without ``STATE_URL``.

    :param store: follows the announcements of other processes.
    :param fallback: limits the rate while Redis is away, unless ``STATE_STRICT`` is set.
    :param others: the processes of this machine.
    """
    url, secret = settings.state_url, settings.state_secret
    if url is None or secret is None:
        return None
    names = Names(secret, settings.state_prefix, token_bytes)
    channel = names.plain(b"events:%d" % url.database)
    client = RedisClient(
        reactor,
        state_server(reactor, url),
        login_of(url),
        names.plain(b"probe"),
        channel,
        counters.state,
        counters.durations.state.add,
        counters.durations.add_state_wait,
        send_buffered,
    )
    limit = None if settings.state_strict else fallback
    places = Places(names)
    instance, numbers = token_hex(8).encode("ascii"), count(1)

    def new_token() -> bytes:
        return b"%b-%x" % (instance, next(numbers))

    announcements = Announcements(client, names, places, store, instance, new_token, channel)
    second_level = RedisSecondLevel(
        reactor, client, names, places, new_token, time.time, channel,
        lambda: not announcements.owes, announcements.replaced,
    )  # fmt: skip
    return RedisState(
        reactor,
        client,
        RedisLimiter(reactor, settings.rate_limit, client, names, limit),
        announcements,
        second_level,
        SecretCheck(client, names),
        others,
    )
