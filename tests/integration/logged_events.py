"""Access to the events of the access log."""

from __future__ import annotations

from typing import Any

from tests.support.harness import ProxyHarness, eventually


async def events_of(harness: ProxyHarness, count: int) -> list[dict[str, Any]]:
    """Return the log's events once there are *count*; fail if there are more."""
    await eventually(harness.reactor, lambda: len(harness.events) >= count)
    harness.access_log.flush()
    assert len(harness.events) == count, harness.events
    return harness.events


def values(event: dict[str, Any], *names: str) -> list[Any]:
    return [event.get(name) for name in names]
