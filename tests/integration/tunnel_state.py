"""What a daemon holds for its tunnels."""

from __future__ import annotations

from goproxyai.telemetry.counters import Counters
from tests.integration.proxied_connections import client_sides
from tests.support.harness import ProxyHarness, eventually
from tests.support.prompt import PROMPT_SECONDS
from tests.support.websocket import TunnelStand


def counters(harness: ProxyHarness) -> Counters:
    assert harness.daemon is not None
    return harness.daemon.context.counters


def memory_used(harness: ProxyHarness) -> int:
    assert harness.daemon is not None
    return harness.daemon.context.memory.used


async def assert_nothing_open(stand: TunnelStand) -> None:
    """Wait for the end of all connections of the daemon."""
    harness = stand.harness
    await eventually(
        harness.reactor,
        lambda: not client_sides(harness) and not len(harness.pool),
        timeout=PROMPT_SECONDS,
    )
    assert counters(harness).open_tunnels == 0
    assert harness.daemon is not None
    assert len(harness.daemon.context.tunnels) == 0
    assert memory_used(harness) == 0
    watched = harness.daemon.listeners.factory.ticker.watched
    assert not [each for each in watched if type(each).__name__ == "TunnelEnd"]
