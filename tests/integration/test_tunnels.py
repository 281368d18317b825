"""Open tunnels: bytes in both directions, backpressure, how they end, and what is counted."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.integration.proxied_connections import (
    MAX_UNSENT_BYTES,
    MIB,
    client_side,
    client_sides,
    stable,
    upstream_side,
)
from tests.integration.tunnel_state import assert_nothing_open, counters, memory_used
from tests.support.harness import ProxyHarness, eventually, request
from tests.support.prompt import PROMPT_SECONDS
from tests.support.socks import FakeSocks
from tests.support.websocket import HANDSHAKE, SWITCHED, TunnelPeer, TunnelStand

pytestmark = pytest.mark.usefixtures("collect_garbage")


async def flood(peer: TunnelPeer, harness: ProxyHarness) -> None:
    """Send 24 MiB, which the daemon cannot hold."""
    for _ in range(24):
        peer.send(bytes(MIB))
    await stable(harness, lambda: memory_used(harness))


@pytest.mark.parametrize("size", [1, 100, 65_536, 3 * MIB])
@pytest_twisted.ensureDeferred
async def test_bytes_pass_unchanged_both_ways(stand: TunnelStand, size: int) -> None:
    await stand.start()
    client, upstream = await stand.open()
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    for _ in range(3):
        client.send(data)
        upstream.send(data[::-1])
        await upstream.receives(data)
        await client.receives(data[::-1])


@pytest.mark.parametrize("by_client", [True, False])
@pytest_twisted.ensureDeferred
async def test_fin_follows_all_bytes_to_a_slow_reader(stand: TunnelStand, by_client: bool) -> None:
    await stand.start()
    client, upstream = await stand.open()
    sender, reader = (client, upstream) if by_client else (upstream, client)
    reader.pause_reading()
    await flood(sender, stand.harness)
    sender.finish()
    reader.resume_reading()
    await reader.until(lambda: reader.received_size >= 24 * MIB, timeout=60.0)
    await reader.ends()
    assert reader.received_size == 24 * MIB
    reader.close()
    await assert_nothing_open(stand)


@pytest.mark.parametrize("by_client", [True, False])
@pytest_twisted.ensureDeferred
async def test_slow_reader_pauses_the_other_side(stand: TunnelStand, by_client: bool) -> None:
    await stand.start()
    client, upstream = await stand.open()
    sender, reader = (client, upstream) if by_client else (upstream, client)
    reader.pause_reading()
    await flood(sender, stand.harness)
    assert 0 < memory_used(stand.harness) <= MAX_UNSENT_BYTES
    reader.send(b"back")  # the other direction goes on
    await sender.receives(b"back")
    reader.resume_reading()
    await reader.until(lambda: reader.received_size == 24 * MIB, timeout=60.0)
    await eventually(stand.harness.reactor, lambda: memory_used(stand.harness) == 0)


@pytest.mark.parametrize("by_reader", [True, False])
@pytest.mark.parametrize("reader_is_client", [True, False])
@pytest_twisted.ensureDeferred
async def test_reset_under_backpressure_ends_both(
    stand: TunnelStand, reader_is_client: bool, by_reader: bool
) -> None:
    await stand.start()
    client, upstream = await stand.open()
    reader, sender = (client, upstream) if reader_is_client else (upstream, client)
    reader.pause_reading()
    await flood(sender, stand.harness)
    leaving, other = (reader, sender) if by_reader else (sender, reader)
    leaving.abort()
    other.resume_reading()
    await other.wait_closed(timeout=PROMPT_SECONDS)
    await assert_nothing_open(stand)


@pytest_twisted.ensureDeferred
async def test_tunnel_to_tls_upstream(stand: TunnelStand) -> None:
    await stand.start(stand.harness.authority.good())
    client, upstream = await stand.open()
    data = bytes(range(256)) * 8192
    client.send(data)
    upstream.send(data)
    await upstream.receives(data)
    await client.receives(data)
    client.send(b"bye")
    client.close()
    await upstream.wait_closed(timeout=PROMPT_SECONDS)
    assert upstream.received == b"bye"
    await assert_nothing_open(stand)


@pytest.mark.parametrize("reader_is_client", [True, False])
@pytest_twisted.ensureDeferred
async def test_tls_tunnel_bounds_what_it_holds(stand: TunnelStand, reader_is_client: bool) -> None:
    await stand.start(stand.harness.authority.good())
    client, upstream = await stand.open()
    reader, sender = (client, upstream) if reader_is_client else (upstream, client)
    reader.pause_reading()
    await flood(sender, stand.harness)
    assert 0 < memory_used(stand.harness) <= MAX_UNSENT_BYTES
    sender.close()
    reader.resume_reading()
    await reader.until(lambda: reader.received_size == 24 * MIB, timeout=60.0)
    await reader.ends()
    reader.close()
    await assert_nothing_open(stand)


@pytest_twisted.ensureDeferred
async def test_tunnel_through_connect_and_tls(stand: TunnelStand) -> None:
    harness = stand.harness
    harness.upstream_port = await stand.upstream.listen(harness.loopback(harness.authority.good()))
    proxy, port = await harness.egress(("user", "secret"))
    await harness.start("https://api.openai.test", PROXY_URL=f"http://user:secret@127.0.0.1:{port}")
    client, upstream = await stand.open()
    client.send(b"up")
    await upstream.receives(b"up")
    upstream.send(b"down")
    await client.receives(b"down")
    assert len(proxy.tunnels) == 1
    client.close()
    await upstream.wait_closed(timeout=PROMPT_SECONDS)
    await assert_nothing_open(stand)


@pytest_twisted.ensureDeferred
async def test_tunnel_to_plain_upstream_uses_connect(stand: TunnelStand) -> None:
    harness = stand.harness
    harness.upstream_port = await stand.upstream.listen(harness.loopback())
    proxy, port = await harness.egress(("user", "secret"))
    await harness.start("http://api.openai.test", PROXY_URL=f"http://user:secret@127.0.0.1:{port}")
    client = await stand.connect()
    client.send(HANDSHAKE)
    upstream = await stand.upstream.peer()
    head = await upstream.head()
    assert head.startswith(b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: api.openai.test\r\n")
    assert b"Proxy-Authorization" not in head
    assert [tunnel.target for tunnel in proxy.tunnels] == ["api.openai.test:80"]
    upstream.send(SWITCHED)
    await client.head()
    client.send(b"up")
    await upstream.receives(b"up")
    client.close()
    await upstream.ends()
    upstream.close()
    await assert_nothing_open(stand)


@pytest_twisted.ensureDeferred
async def test_connection_of_a_refused_handshake_serves_no_request_in_absolute_form(
    stand: TunnelStand,
) -> None:
    harness = stand.harness
    harness.upstream_port = await stand.upstream.listen(harness.loopback())
    proxy, port = await harness.egress()
    await harness.start("http://api.openai.test", PROXY_URL=f"http://127.0.0.1:{port}")
    client, upstream = await stand.shake_hands()
    upstream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    await client.head()
    client.send(request("/v1/models"))
    through_proxy = await stand.upstream.peer(2)
    await through_proxy.head()
    through_proxy.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    await client.head()
    assert [each.target for each in proxy.requests][1:] == [b"http://api.openai.test/v1/models"]
    assert len(proxy.tunnels) == 1


@pytest_twisted.ensureDeferred
async def test_silent_tunnel_is_closed(stand: TunnelStand) -> None:
    await stand.start(TUNNEL_IDLE_TIMEOUT="600ms")
    client, upstream = await stand.open()
    opened = stand.harness.reactor.seconds()
    while stand.harness.reactor.seconds() < opened + 1.5:
        upstream.send(b"x")
        await client.receives(b"x")
    assert (client.input_ended, upstream.input_ended) == (False, False)
    await client.ends()
    await upstream.ends()
    client.close()
    upstream.close()
    await assert_nothing_open(stand)
    (event,) = await stand.harness.logged()
    assert (event["ended"], event["detail"]) == ("ok", "silent for TUNNEL_IDLE_TIMEOUT")


@pytest_twisted.ensureDeferred
async def test_peers_that_ignore_the_close_of_a_silent_tunnel_are_reset(
    stand: TunnelStand,
) -> None:
    await stand.start(TUNNEL_IDLE_TIMEOUT="10ms")
    client, upstream = await stand.open()
    await client.ends()
    await upstream.ends()
    await eventually(stand.harness.reactor, lambda: not client_sides(stand.harness))
    await assert_nothing_open(stand)


@pytest_twisted.ensureDeferred
async def test_tunnel_is_one_event_with_its_bytes(stand: TunnelStand) -> None:
    await stand.start()
    client, upstream = await stand.open()
    client.send(b"12345")
    await upstream.receives(b"12345")
    upstream.send(b"678")
    await client.receives(b"678")
    assert stand.harness.events == []
    client.close()
    upstream.close()
    await assert_nothing_open(stand)
    (event,) = await stand.harness.logged()
    assert (event["method"], event["path"]) == ("GET", "/v1/realtime?model")
    assert (event["bytes_in"], event["bytes_out"], event["status"]) == (5, 3, 101)
    assert event["ms"]["total"] >= event["ms"]["first_byte"] >= 0
    assert event["ms"]["upstream"] >= 0


@pytest_twisted.ensureDeferred
async def test_tunnels_are_counted(stand: TunnelStand) -> None:
    await stand.start()
    client, upstream = await stand.open()
    client.send(b"12345")
    await upstream.receives(b"12345")
    upstream.send(b"678")
    await client.receives(b"678")
    text = (await stand.harness.ask(request("/metrics"))).body.decode()
    assert "\ngoproxyai_tunnels_open 1.0\n" in text
    assert '\ngoproxyai_tunnel_bytes_total{direction="in"} 5.0\n' in text
    assert '\ngoproxyai_tunnel_bytes_total{direction="out"} 3.0\n' in text
    assert "\ngoproxyai_requests_in_flight 2.0\n" in text
    client.close()
    upstream.close()
    await eventually(stand.harness.reactor, lambda: len(stand.harness.pool) == 0)
    await stand.harness.logged()
    text = (await stand.harness.ask(request("/metrics"))).body.decode()
    assert "\ngoproxyai_tunnels_open 0.0\n" in text
    expected = 'goproxyai_requests_total{cache="upgrade",method="GET",route="/v1/realtime",'
    assert expected + 'status="101"} 1.0' in text


@pytest_twisted.ensureDeferred
async def test_life_of_a_tunnel_is_no_duration_of_a_request(stand: TunnelStand) -> None:
    await stand.start(TUNNEL_IDLE_TIMEOUT="300ms", LOG_SLOW="300ms")
    client, upstream = await stand.open()
    await client.ends()
    client.close()
    upstream.close()
    (event,) = await stand.harness.logged()
    assert event["ms"]["total"] > 300
    assert "slow" not in event
    (histogram,) = [
        each for each in counters(stand.harness).durations.request.values() if each.count
    ]
    assert histogram.total < 0.3


@pytest_twisted.ensureDeferred
async def test_drain_waits_for_a_tunnel(stand: TunnelStand) -> None:
    await stand.start()
    client, upstream = await stand.open()
    daemon = stand.harness.daemon
    assert daemon is not None
    stopping = daemon.stopService()
    await eventually(stand.harness.reactor, lambda: daemon.admin.stats.draining)
    client.send(b"up")
    await upstream.receives(b"up")
    assert not stopping.called
    client.close()
    upstream.close()
    await stopping


@pytest_twisted.ensureDeferred
async def test_drain_timeout_ends_tunnels(stand: TunnelStand) -> None:
    await stand.start(DRAIN_TIMEOUT="100ms")
    client, upstream = await stand.open()
    assert stand.harness.daemon is not None
    await stand.harness.daemon.stopService()
    await client.wait_closed()
    await upstream.wait_closed()
    (line,) = await stand.harness.logged()
    assert (line["ended"], line["code"]) == ("cut", "draining")


@pytest_twisted.ensureDeferred
async def test_tunnels_are_never_evicted(stand: TunnelStand) -> None:
    await stand.start(MAX_CONNECTIONS="1")
    client, upstream = await stand.open()
    assert (await stand.harness.ask(request())).status == 503
    client.send(b"up")
    await upstream.receives(b"up")


@pytest.mark.parametrize("reader_is_client", [True, False])
@pytest_twisted.ensureDeferred
async def test_slow_reader_is_broken_off_when_memory_is_short(
    stand: TunnelStand, reader_is_client: bool
) -> None:
    await stand.start(MAX_REQUEST_MEMORY="0.03")
    client, upstream = await stand.open()
    reader, sender = (client, upstream) if reader_is_client else (upstream, client)
    reader.pause_reading()
    for _ in range(24):
        sender.send(bytes(MIB))
    await sender.wait_closed()
    reader.resume_reading()
    await reader.wait_closed()
    await assert_nothing_open(stand)
    assert stand.harness.daemon is not None
    assert stand.harness.daemon.context.memory.broken_off == 1
    (line,) = await stand.harness.logged()
    assert (line["ended"], line["code"]) == ("cut", "overloaded")


@pytest_twisted.ensureDeferred
async def test_open_tunnel_does_not_keep_its_handshake(stand: TunnelStand) -> None:
    await stand.start()
    client, upstream = await stand.open()
    exchange = client_side(stand.harness)._pipeline.active
    assert exchange is not None
    assert (exchange.head.headers, exchange.head.fields, exchange.values) == ([], {}, ())
    client.close()
    await upstream.ends()
    upstream.close()
    await assert_nothing_open(stand)
    (line,) = await stand.harness.logged()
    assert (line["method"], line["path"]) == ("GET", "/v1/realtime?model")


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest_twisted.ensureDeferred
async def test_fin_is_passed_on_through_a_socks_proxy(stand: TunnelStand, scheme: str) -> None:
    harness = stand.harness
    port = await stand.upstream.listen(harness.loopback())
    socks = FakeSocks(harness.reactor, port)
    proxy_port = await socks.listen()
    await harness.start("http://127.0.0.1:80", PROXY_URL=f"{scheme}://127.0.0.1:{proxy_port}")
    client, upstream = await stand.open()
    client.send(b"last")
    client.finish()  # this SOCKS server closes both directions then
    await upstream.ends()
    assert upstream.received == b"last"
    await client.ends()
    client.close()
    await assert_nothing_open(stand)
    (line,) = await stand.harness.logged()
    assert line["ended"] == "ok"
    await socks.close()


@pytest_twisted.ensureDeferred
async def test_upgrade_counts_as_a_bypass_and_a_success(stand: TunnelStand) -> None:
    await stand.start()
    await stand.open()
    assert stand.harness.daemon is not None
    (upstream,) = stand.harness.daemon.context.upstreams.all
    assert upstream.breaker.successes == 1
    assert counters(stand.harness).bypass_reasons["upgrade"] == 1
    assert client_side(stand.harness).idle is False
    assert len({upstream_side(stand.harness)}) == 1


@pytest_twisted.ensureDeferred
async def test_tunnel_of_a_tls_client(stand: TunnelStand) -> None:
    await stand.start()
    await stand.listen_with_tls()
    client, upstream = await stand.shake_hands()
    upstream.send(SWITCHED + b"first")
    await client.head()
    await client.receives(b"first")
    data = bytes(3 * MIB)
    client.send(data)
    await upstream.receives(data)
    upstream.send(data)
    upstream.finish()
    await client.until(lambda: client.received_size == len(data))
    await client.wait_closed()
    upstream.close()
    await assert_nothing_open(stand)
