"""The daemon with a shared state in Redis: pages, readiness, strictness."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from tests.integration.redis_states import OWNER, SECRET, WAIT_SECONDS, patient_redis
from tests.support.harness import ProxyHarness, request
from tests.support.redis_server import RedisServer, needs_redis, redis_server

__all__ = ["patient_redis"]  # the fixture

pytestmark = [needs_redis, pytest.mark.usefixtures("patient_redis")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


async def start(harness: ProxyHarness, server: RedisServer, **settings: str) -> None:
    settings = {"STATE_URL": server.url, "STATE_SECRET": SECRET, "RATE_LIMIT": "600", **settings}
    await harness.start(**settings)
    await until_ready(harness, "ok")


async def until_ready(harness: ProxyHarness, state: str) -> None:
    """Return when ``/health/ready`` has *state*."""
    deadline = harness.reactor.seconds() + WAIT_SECONDS
    while True:
        answer = await harness.ask(request("/health/ready"))
        assert answer.status == 200
        if json.loads(answer.body) == {"status": "ready", "state": state}:
            return
        assert harness.reactor.seconds() < deadline, "the state did not change in time"
        await deferLater(harness.reactor, 0.01)


async def state_of(harness: ProxyHarness) -> Any:
    return json.loads((await harness.ask(request("/stats"))).body)["state"]


async def until_stored(harness: ProxyHarness) -> Any:
    """Return the shared state when a response has been stored in Redis."""
    deadline = harness.reactor.seconds() + WAIT_SECONDS
    while True:
        state = await state_of(harness)
        if "store" in state["commands"]:
            return state
        assert harness.reactor.seconds() < deadline, "no response was stored in time"


@pytest_twisted.ensureDeferred
async def test_pages_show_the_shared_state(harness: ProxyHarness, server: RedisServer) -> None:
    await start(harness, server)
    assert (await harness.ask(request("/v1/models"))).status == 200
    state = await until_stored(harness)
    assert state["url"] == server.url
    assert (state["state"], state["circuit"]) == ("ok", "closed")
    assert (state["processes"], state["connected"], state["lease"]) == (1, 1, 75)
    assert state["commands"]["lease"]["ok"] >= 1
    assert state["commands"]["store"] == {"ok": 1}
    assert state["time"]["mean_ms"] > 0
    metrics = (await harness.ask(request("/metrics"))).body
    for line in (
        b"goproxyai_state_up 1.0",
        b"goproxyai_state_circuit_open 0.0",
        b"goproxyai_state_circuit_opened_total 0.0",
        b'goproxyai_state_commands_total{kind="store",result="ok"} 1.0',
        b'goproxyai_state_overdue_total{kind="look_up"} 0.0',
        b"goproxyai_state_command_seconds_count",
    ):
        assert line in metrics


@pytest.mark.parametrize("socket", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_write_is_in_redis_before_its_answer_can_be_sent(
    harness: ProxyHarness, server: RedisServer, socket: str
) -> None:
    url = server.url if socket == "tcp" else f"unix://{server.socket}"
    await start(harness, server, STATE_URL=url)
    assert harness.daemon is not None
    harness.daemon.context.shared.announce_write(OWNER)
    # The reactor has not run since.
    assert server.command("GET", "goproxyai:announcements") == b"1"


@pytest_twisted.ensureDeferred
async def test_pages_show_that_redis_is_away(harness: ProxyHarness, server: RedisServer) -> None:
    await start(harness, server, STATE_URL=f"unix://{server.socket}")
    server.kill()
    await until_ready(harness, "degraded")
    assert (await harness.ask(request("/v1/models"))).status == 200
    state = await state_of(harness)
    assert (state["state"], state["connected"], state["opened"]) == ("degraded", 0, 1)
    assert state["circuit"] in ("open", "half-open")
    metrics = (await harness.ask(request("/metrics"))).body
    assert b"goproxyai_state_up 0.0" in metrics
    assert b"goproxyai_state_circuit_open 0.0" not in metrics


@pytest.mark.parametrize("limit", ["600", "0"])
@pytest_twisted.ensureDeferred
async def test_strict_service_refuses_while_redis_is_away(
    harness: ProxyHarness, server: RedisServer, limit: str
) -> None:
    await start(harness, server, STATE_STRICT="1", RATE_LIMIT=limit)
    assert (await harness.ask(request("/v1/models"))).status == 200
    server.kill()
    await until_ready(harness, "degraded")
    for target in ("/v1/models", "/nowhere"):
        answer = await harness.ask(request(target))
        assert answer.status == 503
        error = json.loads(answer.body)["error"]
        assert error["code"] == "overloaded"
        assert "STATE_STRICT" in error["message"]


@pytest_twisted.ensureDeferred
async def test_response_in_redis_outlives_the_memory(
    harness: ProxyHarness, server: RedisServer
) -> None:
    await start(harness, server)
    first = await harness.ask(request("/v1/models"))
    assert first.all("X-Cache") == [b"MISS"]
    assert harness.daemon is not None
    await until_stored(harness)
    harness.daemon.context.store.clear()
    second = await harness.ask(request("/v1/models"))
    assert second.all("X-Cache") == [b"HIT"]
    assert second.body == first.body
    assert await harness.ask(request("/cache", method="DELETE"), b"DELETE")
    third = await harness.ask(request("/v1/models"))
    assert third.all("X-Cache") == [b"MISS"]


@pytest_twisted.ensureDeferred
async def test_no_state_is_shown_without_a_url(harness: ProxyHarness) -> None:
    await harness.start()
    ready = await harness.ask(request("/health/ready"))
    assert json.loads(ready.body) == {"status": "ready"}
    assert "state" not in json.loads((await harness.ask(request("/stats"))).body)
    assert b"goproxyai_state_up" not in (await harness.ask(request("/metrics"))).body
