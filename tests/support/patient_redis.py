"""Deadlines of the shared state in Redis that a busy machine keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from goproxyai.state.redis import client, limiter, look_up, second_level

PATIENCE_SECONDS: Final = 20.0

DEADLINES: Final = (
    (client, "CHECK_SECONDS"),
    (client, "COMMAND_SECONDS"),
    (client, "REQUEST_SECONDS"),
    (limiter, "REQUEST_SECONDS"),
    (look_up, "REQUEST_SECONDS"),
    (second_level, "TOTAL_SECONDS"),
)


def wait_long_for_redis(assign: Callable[[object, str, object], None] = setattr) -> None:
    """Let requests wait for Redis until it replies, for tests of something else.

    Otherwise a request goes on without Redis after 50 ms, and the breaker opens after 100 ms.
    """
    for module, name in DEADLINES:
        assert hasattr(module, name), name
        assign(module, name, PATIENCE_SECONDS)
