"""The relay agent's connections: reuse, bounds, and cancellation."""

from __future__ import annotations

import io
import socket
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.web.client import FileBodyProducer

from goproxyai.config.urls import ProxyURL
from goproxyai.egress import name_endpoint
from goproxyai.egress.agent import RelayAgent
from goproxyai.http11 import connection_pool as pool
from goproxyai.http11.client_connection import ClientConnection
from tests.support.agents import AgentHarness, Body
from tests.support.answers import response
from tests.support.harness import ProxyHarness, eventually, request
from tests.support.prompt import PROMPT_SECONDS
from tests.support.serving import loopback
from tests.support.steps import Pause

pytestmark = pytest.mark.usefixtures("collect_garbage")


async def get(agent: RelayAgent, url: bytes) -> bytes:
    return bytes(await treq.content(await agent.request(b"GET", url)))


async def cancel(pending: Deferred[Any]) -> None:
    pending.cancel()
    with pytest.raises(CancelledError):
        await pending


# Reuse and bounds.


@pytest_twisted.ensureDeferred
async def test_sequential_requests_share_a_connection(agents: AgentHarness) -> None:
    origin = await agents.listen()
    agent = agents.agent()
    for _ in range(5):
        await get(agent, origin + b"/v1/models")
    assert agents.upstream.connections_made == 1
    assert len(agent.pool) == 1


@pytest_twisted.ensureDeferred
async def test_concurrent_requests_use_separate_connections(agents: AgentHarness) -> None:
    origin = await agents.listen()
    agent, gate = agents.agent(), Pause()
    agents.upstream.script("/v1/a", [gate, response(b"a")])
    pending = [Deferred.fromCoroutine(get(agent, origin + b"/v1/a")) for _ in range(7)]
    await agents.upstream.wait_until(lambda: len(agents.upstream.requests) == 7)
    gate.release()
    assert await gatherResults(pending) == [b"a"] * 7
    assert agents.upstream.connections_made == 7
    await get(agent, origin + b"/v1/a")
    assert agents.upstream.connections_made == 7


@pytest_twisted.ensureDeferred
async def test_idle_connections_are_bounded(
    agents: AgentHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_IDLE_CONNECTIONS", 2)
    origin = await agents.listen()
    agent, gate = agents.agent(), Pause()
    agents.upstream.script("/v1/a", [gate, response(b"a")])
    pending = [Deferred.fromCoroutine(get(agent, origin + b"/v1/a")) for _ in range(5)]
    await agents.upstream.wait_until(lambda: len(agents.upstream.requests) == 5)
    gate.release()
    await gatherResults(pending)
    await agents.upstream.wait_until(lambda: len(agents.upstream.connections) == 2)
    await eventually(agents.reactor, lambda: len(agent.pool) == 2)


@pytest_twisted.ensureDeferred
async def test_origins_do_not_share_connections(agents: AgentHarness) -> None:
    origins = [await agents.listen(), await agents.listen()]
    agent = agents.agent()
    for origin in origins * 2:
        await get(agent, origin + b"/v1/models")
    assert [each.connection for each in agents.upstream.requests] == [1, 2, 1, 2]
    assert [each.all(b"host")[0] for each in agents.upstream.requests] == [
        origin.removeprefix(b"http://") for origin in origins * 2
    ]


@pytest.mark.parametrize("reason", ["unsolicited_response", "idle_timeout"])
@pytest_twisted.ensureDeferred
async def test_closing_connection_is_not_reused(agents: AgentHarness, reason: str) -> None:
    origin = await agents.listen()
    agent = agents.agent()
    await get(agent, origin + b"/v1/models")
    (connection,) = agent.pool
    if reason == "unsolicited_response":
        connection.dataReceived(b"HTTP/1.1 200 OK\r\n")
    else:
        connection.tick(agents.ticker.now + 56.0)
    await get(agent, origin + b"/v1/models")
    assert [each.connection for each in agents.upstream.requests] == [1, 2]
    assert len(agent.pool) == 1


@pytest_twisted.ensureDeferred
async def test_closed_pool_keeps_no_connection(agents: AgentHarness) -> None:
    origin = await agents.listen()
    agent, gate = agents.agent(), Pause()
    await get(agent, origin + b"/v1/models")
    agent.pool.close()
    await agents.upstream.wait_closed()
    agents.upstream.script("/v1/a", [gate, response(b"a")])
    pending = Deferred.fromCoroutine(get(agent, origin + b"/v1/a"))
    await agents.upstream.wait_for(lambda one: one.paused)
    gate.release()
    assert await pending == b"a"
    await agents.upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_refused_address_costs_no_delay(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_endpoint, "ATTEMPT_DELAY_SECONDS", 1000.0)
    harness.upstream_port = await harness.upstream.listen(harness.loopback())
    harness.names(upstream_test="127.0.0.2 127.0.0.1")  # the upstream listens on the second one
    await harness.start(f"http://upstream.test:{harness.upstream_port}")
    assert (await harness.ask(request())).status == 200


@pytest_twisted.ensureDeferred
async def test_keep_alive_is_on_towards_client_and_upstream(harness: ProxyHarness) -> None:
    await harness.start()
    assert (await harness.ask(request())).status == 200
    daemon = harness.daemon
    assert daemon is not None
    (to_client,), (to_upstream,) = daemon.listeners.factory.connections, daemon.agent.pool
    for transport in (to_client.transport, to_upstream.transport):
        assert transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


# Cancellation.


@pytest_twisted.ensureDeferred
async def test_cancel_during_connect_closes_socket(agents: AgentHarness) -> None:
    port = await agents.proxy.listen(loopback(agents.reactor))
    agents.proxy.script("target.test:443", [Pause()])
    agent = agents.agent(ProxyURL("http", "127.0.0.1", port))
    pending = agent.request(b"GET", b"https://target.test/v1/models")
    await agents.proxy.wait_for(lambda one: one.paused)
    await cancel(pending)
    await agents.proxy.wait_for(lambda one: one.lost, timeout=PROMPT_SECONDS)
    assert len(agent.pool) == 0


@pytest.mark.parametrize("proxied", [False, True])
@pytest_twisted.ensureDeferred
async def test_cancel_during_tls_handshake_closes_socket(
    agents: AgentHarness, proxied: bool
) -> None:
    agents.upstream.pause_reading()
    origin = await agents.listen()
    port = await agents.proxy.listen(loopback(agents.reactor))
    agent = agents.agent(ProxyURL("http", "127.0.0.1", port) if proxied else None)
    pending = agent.request(b"GET", origin.replace(b"http", b"https") + b"/v1/models")
    await agents.upstream.wait_until(lambda: agents.upstream.connections_made == 1)
    if proxied:
        await agents.proxy.wait_until(lambda: len(agents.proxy.tunnels) == 1)
    await eventually(agents.reactor, lambda: len(agent.pool) == 1)
    await cancel(pending)
    agents.upstream.resume_reading()
    await agents.upstream.wait_closed(timeout=PROMPT_SECONDS)
    await eventually(agents.reactor, lambda: len(agent.pool) == 0)


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_cancel_while_waiting_for_response_closes_socket(
    agents: AgentHarness, tls: bool
) -> None:
    origin = await agents.listen(tls)
    agents.upstream.script("/v1/a", [Pause()])
    agent = agents.agent()
    pending = agent.request(b"GET", origin + b"/v1/a")
    await agents.upstream.wait_for(lambda one: one.paused)
    await cancel(pending)
    await agents.upstream.wait_for(lambda one: one.lost, timeout=PROMPT_SECONDS)
    await eventually(agents.reactor, lambda: len(agent.pool) == 0)


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_abort_of_body_closes_socket(agents: AgentHarness, tls: bool) -> None:
    origin = await agents.listen(tls)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"
    agents.upstream.script("/v1/a", [head, Pause()])
    agent = agents.agent()
    answer = await agent.request(b"GET", origin + b"/v1/a")
    body = Body()
    answer.deliverBody(body)
    await agents.upstream.wait_for(lambda one: one.paused)
    body.transport.abortConnection()
    await agents.upstream.wait_for(lambda one: one.lost, timeout=PROMPT_SECONDS)
    await eventually(agents.reactor, lambda: len(agent.pool) == 0)


@pytest_twisted.ensureDeferred
async def test_cancel_of_upload_closes_socket_and_stops_producer(agents: AgentHarness) -> None:
    origin = await agents.listen()
    agents.upstream.pause_reading()
    agent = agents.agent()
    data = io.BytesIO(bytes(16 * 1024 * 1024))
    pending = agent.request(b"POST", origin + b"/v1/files", None, FileBodyProducer(data))
    await eventually(agents.reactor, lambda: data.tell() > 1024 * 1024)
    await cancel(pending)
    assert data.closed
    await eventually(agents.reactor, lambda: len(agent.pool) == 0)
    agents.upstream.resume_reading()
    await agents.upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_exception_in_send_is_answered(
    harness: ProxyHarness, failures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.start()
    monkeypatch.setattr(ClientConnection, "send", lambda *_: 1 // 0)
    answer = await harness.ask(request())
    assert answer.status == 500
    assert failures.pop()["log_failure"].check(ZeroDivisionError)
