"""Limits on the number of connections, over loopback, with streams in progress."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    TCP6ServerEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.ssl import optionsForClientTLS

from goproxyai.http11.connection_limits import REFUSALS
from goproxyai.http11.connection_states import InputState
from goproxyai.limits.connection_slots import MAX_OVER_LIMIT, MIN_IDLE_SECONDS
from tests.support.answers import chunk, head
from tests.support.harness import (
    Answer,
    ProxyHarness,
    RawClient,
    eventually,
    request,
)
from tests.support.serving import loopback
from tests.support.steps import Pause


def pass_time(harness: ProxyHarness, seconds: float) -> None:
    """Move the clock ahead, and run the deadlines of all connections."""
    harness.advance(seconds)
    harness.check_deadlines()


def connection_stats(harness: ProxyHarness) -> Any:
    """The statistics of connections, without a request that would change them."""
    assert harness.daemon is not None
    return harness.daemon.admin.stats.document()["connections"]


async def wait_for_connections(harness: ProxyHarness, count: int) -> None:
    """Wait until the daemon has accepted *count* connections."""
    await eventually(harness.reactor, lambda: connection_stats(harness)["opened"] == count)


class Stream:
    """A stream through the daemon: its first event is received, its second needs :meth:`finish`."""

    def __init__(self, harness: ProxyHarness, name: str) -> None:
        self._harness = harness
        self._target = f"/v1/{name}"
        self._pause = Pause()
        harness.upstream.script(
            self._target,
            [
                head(200, [(b"Transfer-Encoding", b"chunked")]),
                chunk(b"data: one\n\n"),
                self._pause,
                chunk(b"data: two\n\n"),
                chunk(b""),
            ],
        )
        self.client: RawClient

    async def start(self) -> Stream:
        self.client = await self._harness.connect()
        self.client.send(request(self._target))
        await self.client.until(lambda: b"one" in self.client.received)
        return self

    async def finish(self) -> None:
        """Receive the rest, and check that the stream is complete."""
        self._pause.release()
        answer = await self.client.answer()
        assert (answer.status, answer.cut) == (200, False)
        assert answer.body == b"data: one\n\ndata: two\n\n"


def assert_is_overloaded(answer: Answer, variable: str = "MAX_CONNECTIONS") -> None:
    assert (answer.status, answer.reason) == (503, b"Service Unavailable")
    assert answer.all("Content-Type") == [b"application/json"]
    assert answer.all("Retry-After") == [b"1"]
    assert answer.all("Connection") == [b"close"]
    assert answer.all("X-Cache") == [b"MISS"]
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"]) == ("proxy_error", "overloaded")
    assert f"({variable})" in error["message"]


# The limit of all connections.


@pytest_twisted.ensureDeferred
async def test_connection_over_the_limit_gets_503_and_streams_continue(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_CONNECTIONS="2")
    streams = [await Stream(harness, "a").start(), await Stream(harness, "b").start()]
    for _ in range(3):
        client = await harness.connect()
        client.send(request())
        assert_is_overloaded(await client.answer())
        await client.wait_closed()
    assert len(harness.upstream.requests) == 2
    for stream in streams:
        await stream.finish()
    assert connection_stats(harness)["refused"] == dict.fromkeys(REFUSALS, 0) | {"full": 3}
    events = await harness.logged(3)
    assert [event.get("code") for event in events] == ["overloaded"] * 3 + [None] * 2


@pytest.mark.parametrize("target", ["/health", "/health/live", "/health/ready"])
@pytest_twisted.ensureDeferred
async def test_health_is_served_over_the_limit(harness: ProxyHarness, target: str) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").start()
    client = await harness.connect()
    client.send(request(target) + request())
    answer = await client.answer()
    assert (answer.status, answer.all("Connection")) == (200, [b"close"])
    await client.wait_closed()
    assert client.received == b""
    await stream.finish()


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/stats"), ("DELETE", "/cache"), ("GET", "/healt"), ("GET", "/")]
)
@pytest_twisted.ensureDeferred
async def test_other_targets_get_503_over_the_limit(
    harness: ProxyHarness, method: str, target: str
) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").start()
    assert_is_overloaded(await harness.ask(request(target, method)))
    await stream.finish()


@pytest_twisted.ensureDeferred
async def test_upload_over_the_limit_is_refused_before_its_body(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").start()
    client = await harness.connect()
    client.send(
        b"POST /v1/files HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
        b"Content-Length: 5000\r\n\r\n"
    )
    assert_is_overloaded(await client.answer())
    uploader = await harness.connect()
    uploader.send(request("/v1/files", "POST", body=b"x" * 2_000_000))
    assert_is_overloaded(await uploader.answer())
    await uploader.wait_closed()
    await stream.finish()


@pytest_twisted.ensureDeferred
async def test_request_pipelined_after_a_refusal_is_ignored(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").start()
    client = await harness.connect()
    client.send(request() + request("/health") + request())
    assert_is_overloaded(await client.answer())
    await client.wait_closed()
    assert client.received == b""
    assert connection_stats(harness)["refused"]["full"] == 1
    await stream.finish()


@pytest_twisted.ensureDeferred
async def test_connection_over_the_limit_is_admitted_when_a_slot_is_free(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").start()
    client = await harness.connect()
    await wait_for_connections(harness, 2)
    stream.client.abort()
    await eventually(harness.reactor, lambda: connection_stats(harness)["open"] == 1)
    for _ in range(2):
        client.send(request())
        answer = await client.answer()
        assert (answer.status, answer.get("Connection")) == (200, None)


@pytest_twisted.ensureDeferred
async def test_health_is_served_despite_silent_connections(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").start()
    silent = []
    for number in range(MAX_OVER_LIMIT + 3):
        silent.append(await harness.connect())
        await wait_for_connections(harness, number + 2)
    await silent[2].wait_closed()
    assert [client.closed for client in silent] == [True] * 3 + [False] * MAX_OVER_LIMIT
    assert (await harness.ask(request("/health"))).status == 200
    await silent[3].wait_closed()
    assert connection_stats(harness)["refused"]["dropped"] == 4
    await stream.finish()


@pytest_twisted.ensureDeferred
async def test_tls_listener_has_the_same_limit(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    assert harness.daemon is not None
    tls = harness.authority.good().options(())
    port = await loopback(harness.reactor, tls).listen(harness.daemon.listeners.factory)
    stream = await Stream(harness, "a").start()
    creator = optionsForClientTLS("localhost", trustRoot=harness.authority.trust_root())
    tcp = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port.getHost().port)
    for data in (request(), request("/health")):
        client = await connectProtocol(wrapClientTLS(creator, tcp), RawClient(harness.reactor))
        client.send(data)
        answer = await client.answer()
        assert answer.status == (200 if b"/health" in data else 503)
        client.abort()
        await client.wait_closed()
    await port.stopListening()
    await stream.finish()


# Eviction of idle connections.


async def connect_idle(harness: ProxyHarness) -> RawClient:
    """A connection that has had one response."""
    client = await harness.connect()
    client.send(request("/health"))
    assert (await client.answer()).status == 200
    return client


@pytest_twisted.ensureDeferred
async def test_longest_idle_connection_is_evicted(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="3")
    first, second, third = [await connect_idle(skewed_harness) for _ in range(3)]
    pass_time(skewed_harness, 0.5)
    first.send(request("/health"))
    await first.answer()
    pass_time(skewed_harness, 0.5)
    second.send(request("/health"))
    await second.answer()
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    newer = [await connect_idle(skewed_harness), await connect_idle(skewed_harness)]
    await third.wait_closed()
    await first.wait_closed()
    assert not second.closed
    assert connection_stats(skewed_harness)["idle_closed"] == 2
    assert connection_stats(skewed_harness)["refused"]["full"] == 0
    for client in (second, *newer):
        client.send(request("/health"))
        assert (await client.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_stream_is_not_evicted(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="2")
    stream = await Stream(skewed_harness, "a").start()
    idle = await connect_idle(skewed_harness)
    pass_time(skewed_harness, 0.0)
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    newer = await connect_idle(skewed_harness)
    await idle.wait_closed()
    assert_is_overloaded(await skewed_harness.ask(request()))
    assert not newer.closed
    await stream.finish()


@pytest_twisted.ensureDeferred
async def test_recently_used_connection_is_not_evicted(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="1")
    client = await connect_idle(skewed_harness)
    pass_time(skewed_harness, 0.0)
    assert_is_overloaded(await skewed_harness.ask(request()))
    client.send(request("/health"))
    assert (await client.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_connection_with_unread_input_is_not_evicted(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="2")
    active, other = await connect_idle(skewed_harness), await connect_idle(skewed_harness)
    pass_time(skewed_harness, 0.0)
    active.send(request("/health"))
    await active.answer()
    other.send(request("/health"))
    await other.answer()
    pass_time(skewed_harness, 0.0)
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    assert skewed_harness.daemon is not None
    order = skewed_harness.daemon.listeners.factory.connection_limits.slots.idle
    peers = {client.transport.getHost().port: client for client in (active, other)}
    longest = peers[order[0].transport.getPeer().port]  # type: ignore[attr-defined]
    with socket.socket() as newer:  # both events are due in one turn of the reactor
        newer.connect(("127.0.0.1", skewed_harness.port))
        longest.transport.socket.send(request("/health"))
        assert (await longest.answer()).status == 200
        await (other if longest is active else active).wait_closed()
    assert not longest.closed


@pytest_twisted.ensureDeferred
async def test_silent_connection_is_evicted(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="1")
    silent = await skewed_harness.connect()
    await wait_for_connections(skewed_harness, 1)
    pass_time(skewed_harness, 0.0)
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    assert (await skewed_harness.ask(request())).status == 200
    await silent.wait_closed()


@pytest_twisted.ensureDeferred
async def test_connection_with_a_partial_head_is_not_evicted(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="1")
    slow = await skewed_harness.connect()
    slow.send(request("/health")[:20])
    await wait_for_connections(skewed_harness, 1)
    await eventually(
        skewed_harness.reactor, lambda: _first(skewed_harness).input_state is InputState.HEAD
    )
    pass_time(skewed_harness, 0.0)
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    assert_is_overloaded(await skewed_harness.ask(request()))
    slow.send(request("/health")[20:])
    assert (await slow.answer()).status == 200


def _first(harness: ProxyHarness) -> Any:
    assert harness.daemon is not None
    return next(iter(harness.daemon.listeners.factory.connections))


# The limit of one client.


async def connect_from(harness: ProxyHarness, address: str) -> RawClient:
    endpoint = TCP4ClientEndpoint(
        harness.reactor, "127.0.0.1", harness.port, bindAddress=(address, 0)
    )
    client = await connectProtocol(endpoint, RawClient(harness.reactor))
    harness.clients.append(client)
    return client


@pytest_twisted.ensureDeferred
async def test_client_at_its_limit_gets_503_and_others_are_served(
    skewed_harness: ProxyHarness,
) -> None:
    await skewed_harness.start(MAX_CONNECTIONS_PER_CLIENT="2", TRUSTED_PROXIES="")
    stream, idle = await Stream(skewed_harness, "a").start(), await connect_idle(skewed_harness)
    assert_is_overloaded(await skewed_harness.ask(request()), "MAX_CONNECTIONS_PER_CLIENT")
    assert (await skewed_harness.ask(request("/health"))).status == 200
    other = await connect_from(skewed_harness, "127.0.0.2")
    other.send(request())
    assert (await other.answer()).status == 200
    assert connection_stats(skewed_harness)["refused"] == dict.fromkeys(REFUSALS, 0) | {
        "per_client": 1
    }
    pass_time(skewed_harness, 0.0)
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    assert (await skewed_harness.ask(request())).status == 200
    await idle.wait_closed()
    assert not other.closed
    await stream.finish()


@pytest_twisted.ensureDeferred
async def test_trusted_proxy_has_no_limit_of_its_own(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS_PER_CLIENT="1")
    streams = [await Stream(harness, name).start() for name in "abc"]
    for stream in streams:
        await stream.finish()
    assert connection_stats(harness)["refused"]["per_client"] == 0


@pytest_twisted.ensureDeferred
async def test_one_client_may_use_all_connections_by_default(harness: ProxyHarness) -> None:
    await harness.start(TRUSTED_PROXIES="")
    clients = [await harness.connect() for _ in range(100)]
    for client in clients:
        client.send(request("/health"))
    assert [(await client.answer()).status for client in clients] == [200] * 100
    assert connection_stats(harness)["open"] == 100


@pytest_twisted.ensureDeferred
async def test_ipv6_client_is_counted(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS_PER_CLIENT="1", TRUSTED_PROXIES="")
    assert harness.daemon is not None
    endpoint = TCP6ServerEndpoint(harness.reactor, 0, interface="::1")
    port = await endpoint.listen(harness.daemon.listeners.factory)
    there = TCP6ClientEndpoint(harness.reactor, "::1", port.getHost().port)
    clients = [await connectProtocol(there, RawClient(harness.reactor)) for _ in range(2)]
    for client in clients:
        client.send(request())
    assert sorted([(await client.answer()).status for client in clients]) == [200, 503]
    assert (await harness.ask(request())).status == 200  # from 127.0.0.1
    for client in clients:
        client.abort()
        await client.wait_closed()
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_counts_return_to_zero(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS="2", MAX_CONNECTIONS_PER_CLIENT="2", TRUSTED_PROXIES="")
    assert harness.daemon is not None
    slots = harness.daemon.listeners.factory.connection_limits.slots
    streams = [await Stream(harness, "a").start(), await Stream(harness, "b").start()]
    for number in range(10):
        await harness.connect()
        await wait_for_connections(harness, number + 3)
    assert_is_overloaded(await harness.ask(request()), "MAX_CONNECTIONS_PER_CLIENT")
    assert connection_stats(harness)["most"] == 2
    assert (slots.admitted, slots.over_limit) == (2, connection_stats(harness)["open"] - 2)
    for stream in streams:
        await stream.finish()
    for client in harness.clients:
        client.abort()
    await eventually(harness.reactor, lambda: connection_stats(harness)["open"] == 0)
    assert (slots.admitted, slots.over_limit) == (0, 0)
    assert (slots.idle, slots.clients) == ([], 0)
    assert (await harness.ask(request())).status == 200
