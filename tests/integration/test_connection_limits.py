"""How many may be connected: over real sockets, with streams that go on meanwhile."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    TCP6ServerEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.interfaces import IAddress
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from goproxyai.http11.connection_limits import ConnectionLimits
from goproxyai.http11.connection_states import InputState
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.limits.addresses import Networks
from goproxyai.limits.connection_slots import MAX_OVER_LIMIT, MIN_IDLE_SECONDS
from goproxyai.reactor.deadlines import TICK_SECONDS, Ticker
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
from tests.unit.http11.test_server_connection import Server, answer, get


def pass_time(harness: ProxyHarness, seconds: float) -> None:
    """Move the clock ahead, and run the deadlines of all connections."""
    harness.advance(seconds)
    harness.check_deadlines()


def counted(harness: ProxyHarness) -> Any:
    """What the statistics say of connections; not asked for, since that would be one more."""
    assert harness.daemon is not None
    return harness.daemon.admin.stats.document()["connections"]


async def opened(harness: ProxyHarness, count: int) -> None:
    """Wait until the daemon has accepted *count* connections."""
    await eventually(harness.reactor, lambda: counted(harness)["opened"] == count)


class Stream:
    """A stream through the daemon that has begun, and goes on when it is told to."""

    def __init__(self, harness: ProxyHarness, name: str) -> None:
        self._stand = harness
        self._target = f"/v1/{name}"
        self._pause = Pause()
        begun = [
            head(200, [(b"Transfer-Encoding", b"chunked")]),
            chunk(b"data: one\n\n"),
            self._pause,
        ]
        ended = [chunk(b"data: two\n\n"), chunk(b"")]
        harness.upstream.script(self._target, [*begun, *ended])
        self.wire: RawClient

    async def begin(self) -> Stream:
        self.wire = await self._stand.connect()
        self.wire.send(request(self._target))
        await self.wire.until(lambda: b"one" in self.wire.received)
        return self

    async def end(self) -> None:
        """It goes on to its end, and nothing of it is missing."""
        self._pause.release()
        answer = await self.wire.answer()
        assert (answer.status, answer.body, answer.cut) == (
            200,
            b"data: one\n\ndata: two\n\n",
            False,
        )


def assert_is_overloaded(answer: Answer, variable: str = "MAX_CONNECTIONS") -> None:
    assert (answer.status, answer.reason) == (503, b"Service Unavailable")
    assert answer.all("Content-Type") == [b"application/json"]
    assert answer.all("Retry-After") == [b"1"]
    assert answer.all("Connection") == [b"close"]
    assert answer.all("X-Cache") == [b"MISS"]
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"]) == ("proxy_error", "overloaded")
    assert f"({variable})" in error["message"]


# Full in all.


@pytest_twisted.ensureDeferred
async def test_who_comes_when_it_is_full_is_told_so_and_the_streams_go_on(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_CONNECTIONS="2")
    streams = [await Stream(harness, "a").begin(), await Stream(harness, "b").begin()]
    for _ in range(3):
        wire = await harness.connect()
        wire.send(request())
        assert_is_overloaded(await wire.answer())
        await wire.wait_closed()
    assert len(harness.upstream.requests) == 2
    for stream in streams:
        await stream.end()
    assert counted(harness)["refused"] == {
        "full": 3, "per_client": 0, "dropped": 0, "no_descriptor": 0,
    }  # fmt: skip
    events = await harness.logged(3)
    assert [event.get("code") for event in events] == ["overloaded"] * 3 + [None] * 2


@pytest.mark.parametrize("target", ["/health", "/health/live", "/health/ready"])
@pytest_twisted.ensureDeferred
async def test_health_is_answered_when_it_is_full(harness: ProxyHarness, target: str) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").begin()
    wire = await harness.connect()
    wire.send(request(target) + request())
    answer = await wire.answer()
    assert (answer.status, answer.all("Connection")) == (200, [b"close"])
    await wire.wait_closed()
    assert wire.received == b""
    await stream.end()


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/stats"), ("DELETE", "/cache"), ("GET", "/healt"), ("GET", "/")]
)
@pytest_twisted.ensureDeferred
async def test_nothing_else_is_answered_when_it_is_full(
    harness: ProxyHarness, method: str, target: str
) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").begin()
    assert_is_overloaded(await harness.ask(request(target, method)))
    await stream.end()


@pytest_twisted.ensureDeferred
async def test_an_upload_is_refused_before_it_is_sent(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").begin()
    wire = await harness.connect()
    wire.send(
        b"POST /v1/files HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
        b"Content-Length: 5000\r\n\r\n"
    )
    assert_is_overloaded(await wire.answer())
    with_body = await harness.connect()
    with_body.send(request("/v1/files", "POST", body=b"x" * 2_000_000))
    assert_is_overloaded(await with_body.answer())
    await with_body.wait_closed()
    await stream.end()


@pytest_twisted.ensureDeferred
async def test_what_is_pipelined_behind_a_refusal_is_not_answered(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").begin()
    wire = await harness.connect()
    wire.send(request() + request("/health") + request())
    assert_is_overloaded(await wire.answer())
    await wire.wait_closed()
    assert wire.received == b""
    assert counted(harness)["refused"]["full"] == 1
    await stream.end()


@pytest_twisted.ensureDeferred
async def test_who_waits_outside_comes_in_if_there_is_a_place_when_it_asks(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").begin()
    wire = await harness.connect()
    await opened(harness, 2)
    stream.wire.abort()
    await eventually(harness.reactor, lambda: counted(harness)["open"] == 1)
    for _ in range(2):
        wire.send(request())
        answer = await wire.answer()
        assert (answer.status, answer.get("Connection")) == (200, None)


@pytest_twisted.ensureDeferred
async def test_health_is_heard_behind_any_number_that_say_nothing(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    stream = await Stream(harness, "a").begin()
    silent = []
    for number in range(MAX_OVER_LIMIT + 3):
        silent.append(await harness.connect())
        await opened(harness, number + 2)
    await silent[2].wait_closed()
    assert [wire.closed for wire in silent] == [True] * 3 + [False] * MAX_OVER_LIMIT
    assert (await harness.ask(request("/health"))).status == 200
    await silent[3].wait_closed()
    assert counted(harness)["refused"]["dropped"] == 4
    await stream.end()


@pytest_twisted.ensureDeferred
async def test_a_tls_listener_has_the_same_bound(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS="1")
    assert harness.daemon is not None
    tls = harness.authority.good().options(())
    port = await loopback(harness.reactor, tls).listen(harness.daemon.listeners.factory)
    stream = await Stream(harness, "a").begin()
    creator = optionsForClientTLS("localhost", trustRoot=harness.authority.trust_root())
    tcp = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port.getHost().port)
    for data in (request(), request("/health")):
        wire = await connectProtocol(wrapClientTLS(creator, tcp), RawClient(harness.reactor))
        wire.send(data)
        answer = await wire.answer()
        assert answer.status == (200 if b"/health" in data else 503)
        wire.abort()
        await wire.wait_closed()
    await port.stopListening()
    await stream.end()


# Idle ones make room.


async def idle(harness: ProxyHarness) -> RawClient:
    """A connection that has been served, and is kept."""
    wire = await harness.connect()
    wire.send(request("/health"))
    assert (await wire.answer()).status == 200
    return wire


@pytest_twisted.ensureDeferred
async def test_who_is_idle_longest_makes_room(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="3")
    first, second, third = [await idle(skewed_harness) for _ in range(3)]
    pass_time(skewed_harness, 0.5)
    first.send(request("/health"))
    await first.answer()
    pass_time(skewed_harness, 0.5)
    second.send(request("/health"))
    await second.answer()
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    newcomers = [await idle(skewed_harness), await idle(skewed_harness)]
    await third.wait_closed()
    await first.wait_closed()
    assert not second.closed
    assert counted(skewed_harness)["idle_closed"] == 2
    assert counted(skewed_harness)["refused"]["full"] == 0
    for wire in (second, *newcomers):
        wire.send(request("/health"))
        assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_a_stream_is_never_closed_to_make_room(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="2")
    stream = await Stream(skewed_harness, "a").begin()
    idler = await idle(skewed_harness)
    pass_time(skewed_harness, 0.0)
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    newcomer = await idle(skewed_harness)
    await idler.wait_closed()
    assert_is_overloaded(await skewed_harness.ask(request()))
    assert not newcomer.closed
    await stream.end()


@pytest_twisted.ensureDeferred
async def test_who_asked_a_moment_ago_does_not_make_room(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="1")
    wire = await idle(skewed_harness)
    pass_time(skewed_harness, 0.0)
    assert_is_overloaded(await skewed_harness.ask(request()))
    wire.send(request("/health"))
    assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_whose_request_is_on_its_way_does_not_make_room(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="2")
    asking, other = await idle(skewed_harness), await idle(skewed_harness)
    pass_time(skewed_harness, 0.0)
    asking.send(request("/health"))
    await asking.answer()
    other.send(request("/health"))
    await other.answer()
    pass_time(skewed_harness, 0.0)
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    order = skewed_harness.daemon.listeners.factory.connection_limits.slots.idle  # type: ignore[union-attr]
    peers = {wire.transport.getHost().port: wire for wire in (asking, other)}
    longest = peers[order[0].transport.getPeer().port]  # type: ignore[attr-defined]
    with socket.socket() as newcomer:  # both come before the daemon looks at either
        newcomer.connect(("127.0.0.1", skewed_harness.port))
        longest.transport.socket.send(request("/health"))
        assert (await longest.answer()).status == 200
        await (other if longest is asking else asking).wait_closed()
    assert not longest.closed


def test_who_has_not_taken_its_answer_yet_does_not_rest() -> None:
    server = Server()
    slots = server.factory.connection_limits.slots
    server.line.stalled = True
    server.send(get())
    answer(server.exchanges[0])
    for taken, resting in ((10, False), (10_000, False), (0, True)):
        server.clock.advance(TICK_SECONDS)
        assert bool(slots.idle) is resting
        server.line.take(taken)


@pytest_twisted.ensureDeferred
async def test_who_never_said_anything_makes_room_too(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="1")
    silent = await skewed_harness.connect()
    await opened(skewed_harness, 1)
    pass_time(skewed_harness, 0.0)
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    assert (await skewed_harness.ask(request())).status == 200
    await silent.wait_closed()


@pytest_twisted.ensureDeferred
async def test_a_head_that_has_begun_keeps_its_connection(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(MAX_CONNECTIONS="1")
    slow = await skewed_harness.connect()
    slow.send(request("/health")[:20])
    await opened(skewed_harness, 1)
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


# Full for one client.


async def connect_from(harness: ProxyHarness, address: str) -> RawClient:
    endpoint = TCP4ClientEndpoint(
        harness.reactor, "127.0.0.1", harness.port, bindAddress=(address, 0)
    )
    wire = await connectProtocol(endpoint, RawClient(harness.reactor))
    harness.clients.append(wire)
    return wire


@pytest_twisted.ensureDeferred
async def test_a_client_at_its_bound_is_told_so_and_the_others_are_served(
    skewed_harness: ProxyHarness,
) -> None:
    await skewed_harness.start(MAX_CONNECTIONS_PER_CLIENT="2", TRUSTED_PROXIES="")
    stream, idler = await Stream(skewed_harness, "a").begin(), await idle(skewed_harness)
    assert_is_overloaded(await skewed_harness.ask(request()), "MAX_CONNECTIONS_PER_CLIENT")
    assert (await skewed_harness.ask(request("/health"))).status == 200
    other = await connect_from(skewed_harness, "127.0.0.2")
    other.send(request())
    assert (await other.answer()).status == 200
    assert counted(skewed_harness)["refused"] == {
        "full": 0, "per_client": 1, "dropped": 0, "no_descriptor": 0,
    }  # fmt: skip
    pass_time(skewed_harness, 0.0)
    pass_time(skewed_harness, MIN_IDLE_SECONDS)
    assert (await skewed_harness.ask(request())).status == 200
    await idler.wait_closed()
    assert not other.closed
    await stream.end()


@pytest_twisted.ensureDeferred
async def test_a_trusted_proxy_has_no_bound_of_its_own(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS_PER_CLIENT="1")
    streams = [await Stream(harness, name).begin() for name in "abc"]
    for stream in streams:
        await stream.end()
    assert counted(harness)["refused"]["per_client"] == 0


@pytest_twisted.ensureDeferred
async def test_by_default_one_client_may_have_them_all(harness: ProxyHarness) -> None:
    await harness.start(TRUSTED_PROXIES="")
    wires = [await harness.connect() for _ in range(100)]
    for wire in wires:
        wire.send(request("/health"))
    assert [(await wire.answer()).status for wire in wires] == [200] * 100
    assert counted(harness)["open"] == 100


@pytest_twisted.ensureDeferred
async def test_an_ipv6_client_is_counted(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS_PER_CLIENT="1", TRUSTED_PROXIES="")
    assert harness.daemon is not None
    endpoint = TCP6ServerEndpoint(harness.reactor, 0, interface="::1")
    port = await endpoint.listen(harness.daemon.listeners.factory)
    there = TCP6ClientEndpoint(harness.reactor, "::1", port.getHost().port)
    wires = [await connectProtocol(there, RawClient(harness.reactor)) for _ in range(2)]
    for wire in wires:
        wire.send(request())
    assert sorted([(await wire.answer()).status for wire in wires]) == [200, 503]
    assert (await harness.ask(request())).status == 200  # from 127.0.0.1
    for wire in wires:
        wire.abort()
        await wire.wait_closed()
    await port.stopListening()


def came_in(*addresses: IAddress) -> list[bool]:
    """Which of connections from *addresses* have a place, one a client and none trusted but one."""
    ticker = Ticker(Clock())
    connection_limits = ConnectionLimits(
        ticker, max_per_client=1, trusted=Networks.parse("192.0.2.0/24")
    )
    exchanges: list[Exchange] = []
    factory = ServerFactory(ticker, exchanges.append, 1000, connection_limits=connection_limits)
    for address in addresses:
        connection = factory.buildProtocol(address)
        connection.makeConnection(StringTransport())
        connection.dataReceived(request())
    return [exchange.problem is None for exchange in exchanges]


def test_an_ipv6_client_is_its_64() -> None:
    texts = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "2001:db8:0:0:ffff::", "2001:db9::1")
    addresses = [IPv6Address("TCP", text, 9) for text in texts]
    assert came_in(*addresses) == [True, False, True, False, True]


def test_an_ipv4_address_is_one_client_however_it_comes() -> None:
    mapped, plain = IPv6Address("TCP", "::ffff:198.51.100.7", 9), "198.51.100.7"
    assert came_in(mapped, IPv4Address("TCP", plain, 9)) == [True, False]
    trusted = [IPv6Address("TCP", "::ffff:192.0.2.7", 9), IPv4Address("TCP", "192.0.2.7", 9)]
    assert came_in(*trusted) == [True, True]


def test_whose_address_is_unknown_has_no_bound_of_its_own() -> None:
    assert came_in(UNIXAddress(b"/run/x.sock"), UNIXAddress(b"/run/x.sock")) == [True, True]


# Afterwards.


@pytest_twisted.ensureDeferred
async def test_what_is_counted_returns_to_zero(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS="2", MAX_CONNECTIONS_PER_CLIENT="2", TRUSTED_PROXIES="")
    assert harness.daemon is not None
    slots = harness.daemon.listeners.factory.connection_limits.slots
    streams = [await Stream(harness, "a").begin(), await Stream(harness, "b").begin()]
    for number in range(10):
        await harness.connect()
        await opened(harness, number + 3)
    assert_is_overloaded(await harness.ask(request()), "MAX_CONNECTIONS_PER_CLIENT")
    assert counted(harness)["most"] == 2
    assert (slots.admitted, slots.over_limit) == (2, counted(harness)["open"] - 2)
    for stream in streams:
        await stream.end()
    for wire in harness.clients:
        wire.abort()
    await eventually(harness.reactor, lambda: counted(harness)["open"] == 0)
    assert (slots.admitted, slots.over_limit) == (0, 0)
    assert (slots.idle, slots.clients) == ([], 0)
    assert (await harness.ask(request())).status == 200
