"""How long an idle client connection is kept."""

from __future__ import annotations

import pytest_twisted

from goproxyai.reactor.deadlines import TICK_SECONDS
from tests.support.harness import ProxyHarness, RawClient, request


async def used_connection(harness: ProxyHarness) -> RawClient:
    client = await harness.connect()
    client.send(request("/health"))
    assert (await client.answer()).status == 200
    return client


@pytest_twisted.ensureDeferred
async def test_idle_connection_is_closed_after_keepalive_timeout(
    skewed_harness: ProxyHarness,
) -> None:
    await skewed_harness.start(KEEPALIVE_TIMEOUT="10m")
    client = await used_connection(skewed_harness)
    skewed_harness.advance(600.0 - 5.0)
    skewed_harness.check_deadlines()
    client.send(request("/health"))
    assert (await client.answer()).status == 200
    skewed_harness.advance(600.0 + TICK_SECONDS)
    skewed_harness.check_deadlines()
    await client.wait_closed()


@pytest_twisted.ensureDeferred
async def test_new_connection_may_wait_longer_than_keepalive_timeout(
    skewed_harness: ProxyHarness,
) -> None:
    await skewed_harness.start(KEEPALIVE_TIMEOUT="1s")
    fresh, used = await skewed_harness.connect(), await used_connection(skewed_harness)
    skewed_harness.advance(10.0)
    skewed_harness.check_deadlines()
    await used.wait_closed()
    fresh.send(request("/health"))
    assert (await fresh.answer()).status == 200
