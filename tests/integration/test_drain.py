"""Draining: how the daemon stops."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import deferLater

from goproxyai.daemon import service
from goproxyai.http11.connection_states import InputState
from tests.integration.admin_requests import error_of
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, RawClient, eventually, request
from tests.support.steps import Pause

CHUNKED = head(200, [(b"Transfer-Encoding", b"chunked")])


async def used_connections(harness: ProxyHarness, count: int) -> list[RawClient]:
    """Return connections on which the daemon has answered a request."""
    clients = [await harness.connect() for _ in range(count)]
    for client in clients:
        client.send(request("/health"))
        assert (await client.answer()).status == 200
    return clients


async def stopped_early(harness: ProxyHarness) -> None:
    """Stop the daemon in less than the default of ``DRAIN_TIMEOUT``, 30 seconds."""
    assert harness.daemon is not None
    await harness.daemon.stopService().addTimeout(20.0, harness.reactor)


async def connect_to(harness: ProxyHarness, port: int) -> None:
    endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port)
    client = await connectProtocol(endpoint, RawClient(harness.reactor))
    client.abort()
    await client.wait_closed()


@pytest_twisted.ensureDeferred
async def test_drain_finishes_stream_and_refuses_new_requests(harness: ProxyHarness) -> None:
    await harness.start()
    pause = Pause()
    harness.upstream.script(
        "/v1/stream", [CHUNKED, chunk(b"one"), pause, chunk(b"two"), chunk(b"")]
    )
    streaming, idle, *others = await used_connections(harness, 7)
    port, new = harness.port, await harness.connect()
    streaming.send(request("/v1/stream"))
    await streaming.until(lambda: b"one" in streaming.received)
    expected = [
        ("/health", 200),
        ("/health/live", 200),
        ("/health/ready", 503),
        ("/v1/models", 503),
        ("/stats", 503),
        ("/v1/models", 503),
    ]
    assert harness.daemon is not None
    stopping = harness.daemon.stopService()
    stats = harness.daemon.admin.stats
    await eventually(harness.reactor, lambda: stats.draining and not stats.serves_new_connections)
    for client, (target, status) in zip((*others, new), expected, strict=True):
        client.send(request(target))
        answer = await client.answer()
        assert (answer.status, answer.get("Connection")) == (status, b"close"), target
        if status == 503:
            assert error_of(answer)["code"] == "draining"
        await client.wait_closed()
    with pytest.raises(error.ConnectionRefusedError):
        await connect_to(harness, port)
    assert not stopping.called
    assert not any(client.closed for client in (streaming, idle))

    pause.release()
    answer = await streaming.answer()
    assert (answer.status, answer.body, answer.cut) == (200, b"onetwo", False)
    await stopping
    for client in (streaming, idle):
        await client.wait_closed()
    assert [one.target for one in harness.upstream.requests] == [b"/v1/stream"]


@pytest.fixture
def delay(monkeypatch: pytest.MonkeyPatch) -> Deferred[None]:
    """The wait of an hour, which the test ends."""
    ended: Deferred[None] = Deferred()

    def wait(clock: Any, seconds: float) -> Deferred[None]:
        return ended if seconds == 3600.0 else deferLater(clock, seconds)

    monkeypatch.setattr(service, "deferLater", wait)
    return ended


@pytest_twisted.ensureDeferred
async def test_requests_are_served_during_drain_delay(
    harness: ProxyHarness, delay: Deferred[None]
) -> None:
    await harness.start(DRAIN_DELAY="1h")
    used, idle = await used_connections(harness, 2)
    assert harness.daemon is not None
    stopping, port = harness.daemon.stopService(), harness.port

    async def ask(client: RawClient, target: str) -> tuple[int, bytes | None]:
        client.send(request(target))
        answer = await client.answer()
        return answer.status, answer.get("Connection")

    new = await harness.connect()
    for client in (used, new):
        assert await ask(client, "/health/ready") == (503, None)
        assert await ask(client, "/v1/models") == (200, None)
        assert await ask(client, "/stats") == (200, None)
        assert await ask(client, "/health/live") == (200, None)
    assert not idle.closed
    assert not stopping.called

    delay.callback(None)
    await stopping
    with pytest.raises(error.ConnectionRefusedError):
        await connect_to(harness, port)
    for client in (used, idle, new):
        await client.wait_closed()


@pytest_twisted.ensureDeferred
async def test_readiness_is_503_as_soon_as_the_stop_begins(harness: ProxyHarness) -> None:
    await harness.start()
    assert harness.daemon is not None
    stopping = harness.daemon.stopService()
    assert not harness.daemon.admin.stats.ready
    await stopping


@pytest_twisted.ensureDeferred
async def test_requests_sent_before_drain_are_served(harness: ProxyHarness) -> None:
    await harness.start()
    (used,) = await used_connections(harness, 1)
    fresh, silent = await harness.connect(), await harness.connect()
    assert harness.daemon is not None
    connections = harness.daemon.listeners.factory.connections
    await eventually(harness.reactor, lambda: len(connections) == 3)
    # Written to the socket now, so that the kernel has the request when the drain begins.
    used.transport.socket.send(request("/v1/models"))
    stopping = harness.daemon.stopService()
    assert (await used.answer()).status == 200
    await eventually(harness.reactor, lambda: harness.daemon.admin.stats.draining)
    fresh.send(request("/v1/models/gpt-4o"))
    answer = await fresh.answer()
    assert (answer.status, answer.get("Connection")) == (200, b"close")
    await stopping
    for client in (used, fresh, silent):
        await client.wait_closed()


@pytest_twisted.ensureDeferred
async def test_answer_during_drain_says_connection_close(harness: ProxyHarness) -> None:
    await harness.start()
    pause = Pause()
    harness.upstream.script("/v1/slow", [pause, response(b"{}")])
    (client,) = await used_connections(harness, 1)
    client.send(request("/v1/slow"))
    await harness.upstream.wait_for(lambda one: one.paused)
    assert harness.daemon is not None
    stopping = harness.daemon.stopService()
    await eventually(harness.reactor, lambda: harness.daemon.admin.stats.draining)
    pause.release()
    answer = await client.answer()
    assert (answer.status, answer.get("Connection")) == (200, b"close")
    await client.wait_closed()
    await stopping


@pytest.mark.parametrize("drain_timeout", ["0", "100ms"])
@pytest_twisted.ensureDeferred
async def test_stream_longer_than_drain_timeout_is_aborted(
    harness: ProxyHarness, drain_timeout: str
) -> None:
    await harness.start(DRAIN_TIMEOUT=drain_timeout)
    harness.upstream.script("/v1/stream", [CHUNKED, chunk(b"one"), Pause()])
    client = await harness.connect()
    client.send(request("/v1/stream"))
    await client.until(lambda: b"one" in client.received)
    assert harness.daemon is not None
    await stopped_early(harness)
    answer = await client.answer()
    assert (answer.body, answer.cut) == (b"one", True)
    await harness.upstream.wait_for(lambda one: one.lost)
    await harness.upstream.wait_closed()
    assert (await harness.logged())[0]["status"] == 200


@pytest_twisted.ensureDeferred
async def test_drain_finishes_upload(harness: ProxyHarness) -> None:
    await harness.start()
    (client,) = await used_connections(harness, 1)
    client.send(request("/v1/files", "POST", [("Content-Length", "10")]) + b"01234")
    await harness.upstream.wait_for(lambda one: one.body_length == 5)
    assert harness.daemon is not None
    stopping = harness.daemon.stopService()
    client.send(b"56789")
    answer = await client.answer()
    assert (answer.status, json.loads(answer.body)["bytes"]) == (200, 10)
    await stopping
    await client.wait_closed()


@pytest_twisted.ensureDeferred
async def test_drain_of_idle_daemon_ends_at_once(harness: ProxyHarness) -> None:
    await harness.start()
    idle, with_upstream = await used_connections(harness, 2)
    with_upstream.send(request())  # leaves an idle connection to the upstream
    assert (await with_upstream.answer()).status == 200
    assert harness.daemon is not None
    await stopped_early(harness)
    await idle.wait_closed()
    await with_upstream.wait_closed()
    await harness.upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_incomplete_request_head_does_not_delay_drain(harness: ProxyHarness) -> None:
    await harness.start()
    (client,) = await used_connections(harness, 1)
    client.send(request("/v1/models")[:20])
    assert harness.daemon is not None
    connections = harness.daemon.listeners.factory.connections
    await eventually(
        harness.reactor, lambda: any(c.input_state is InputState.HEAD for c in connections)
    )
    await stopped_early(harness)
    await client.wait_closed()


@pytest_twisted.ensureDeferred
async def test_pipelined_request_is_refused_during_drain(harness: ProxyHarness) -> None:
    await harness.start()
    pause = Pause()
    harness.upstream.script("/v1/first", [pause, response(b"{}")])
    (client,) = await used_connections(harness, 1)
    client.send(request("/v1/first") + request("/v1/second"))
    await harness.upstream.wait_for(lambda one: one.paused)
    assert harness.daemon is not None
    stopping = harness.daemon.stopService()
    pause.release()
    assert (await client.answer()).status == 200
    refused = await client.answer()
    assert (refused.status, error_of(refused)["code"]) == (503, "draining")
    await stopping
    assert len(harness.upstream.requests) == 1
