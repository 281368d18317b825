"""How many round trips to Redis a request waits for, counted by a relay in front of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted

from tests.integration.redis_states import SECRET, WAIT_SECONDS, patient_redis
from tests.integration.test_shared_state import until_ready
from tests.support.answers import response
from tests.support.counting_relay import CountingRelay
from tests.support.harness import ProxyHarness, eventually, post
from tests.support.redis_server import RedisServer, needs_redis, running, server
from tests.support.steps import Pause

__all__ = ["patient_redis", "running", "server"]  # the fixtures

pytestmark = [needs_redis, pytest.mark.usefixtures("patient_redis")]

CHAT = "/v1/chat/completions"
SHARED, ALONE = b'{"temperature":0,"n":%d}', b'{"temperature":1,"n":%d}'
"""Bodies of requests that may share an upstream request, and that do not."""


@pytest_twisted.async_yield_fixture
async def relay(harness: ProxyHarness, server: RedisServer) -> AsyncIterator[CountingRelay]:
    """The relay of a daemon that has tokens, and whose scripts the server knows."""
    relay = CountingRelay(harness.reactor, server.port)
    port = await relay.listen()
    await harness.start(
        STATE_URL=f"redis://127.0.0.1:{port}/0",
        STATE_SECRET=SECRET,
        RATE_LIMIT="600",
        TRUSTED_PROXIES="127.0.0.1",
    )
    await until_ready(harness, "ok")
    assert (await harness.ask(post(CHAT, SHARED % 0), b"POST")).status == 200
    await stored(relay)
    relay.events.clear()
    yield relay
    await relay.close()


async def stored(relay: CountingRelay) -> None:
    """Return when a response has been stored."""
    await eventually(
        relay.reactor,
        lambda: "store" in relay.scripts and relay.events.count("reply") == len(relay.scripts),
        WAIT_SECONDS,
    )


@pytest.mark.parametrize("body", [SHARED, ALONE], ids=["shared", "alone"])
@pytest_twisted.ensureDeferred
async def test_miss_waits_for_one_round_trip(
    harness: ProxyHarness, relay: CountingRelay, body: bytes
) -> None:
    gate = Pause()
    harness.upstream.script(CHAT, [gate, response(b"{}")])
    client = await harness.connect()
    client.send(post(CHAT, body % 1))
    await eventually(harness.reactor, lambda: len(harness.upstream.requests) == 2)
    assert (relay.events, relay.round_trips) == (["look_up", "reply"], 1)
    gate.release()
    assert (await client.answer(b"POST")).get("X-Cache") == b"MISS"


@pytest_twisted.ensureDeferred
async def test_response_does_not_wait_until_it_is_stored(
    harness: ProxyHarness, relay: CountingRelay
) -> None:
    gate = Pause()
    harness.upstream.script(CHAT, [gate, response(b"{}")])
    client = await harness.connect()
    client.send(post(CHAT, SHARED % 1))
    await eventually(harness.reactor, lambda: len(harness.upstream.requests) == 2)
    relay.hold()
    gate.release()
    assert (await client.answer(b"POST")).get("X-Cache") == b"MISS"


@pytest_twisted.ensureDeferred
async def test_hit_in_memory_asks_nothing(harness: ProxyHarness, relay: CountingRelay) -> None:
    answer = await harness.ask(post(CHAT, SHARED % 0), b"POST")
    assert (answer.get("X-Cache"), relay.events) == (b"HIT", [])


@pytest_twisted.ensureDeferred
async def test_hit_in_redis_waits_for_one_round_trip(
    harness: ProxyHarness, relay: CountingRelay
) -> None:
    assert harness.daemon is not None
    harness.daemon.context.store.clear()
    answer = await harness.ask(post(CHAT, SHARED % 0), b"POST")
    assert (answer.get("X-Cache"), relay.scripts, relay.round_trips) == (b"HIT", ["look_up"], 1)


@pytest_twisted.ensureDeferred
async def test_request_without_a_token_waits_for_its_lease_first(
    harness: ProxyHarness, relay: CountingRelay
) -> None:
    other = post(CHAT, SHARED % 1, headers=[("X-Forwarded-For", "198.51.100.9")])
    assert (await harness.ask(other, b"POST")).status == 200
    assert relay.scripts[:2] == ["lease", "look_up"]
