"""How a handshake or a tunnel ends: each phase, side and way, on TCP and on TLS."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytest_twisted

from goproxyai.proxy import open_tunnels, upstream_request
from tests.integration.proxied_connections import MIB, stable
from tests.integration.tunnel_state import assert_nothing_open, memory_used
from tests.support.harness import eventually
from tests.support.prompt import PROMPT_SECONDS
from tests.support.websocket import HANDSHAKE, TunnelEnds, TunnelPeer, TunnelStand

pytestmark = pytest.mark.usefixtures("collect_garbage")

Leave = Callable[[TunnelPeer], None]

WAYS = [TunnelPeer.close, TunnelPeer.abort, TunnelPeer.finish]
"""A close of both directions, a reset, and a close of one direction."""

every_way = pytest.mark.parametrize("leave", WAYS, ids=["close", "reset", "half-close"])
every_side = pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
every_transport = pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])


async def start(stand: TunnelStand, tls: bool) -> None:
    await stand.start(stand.harness.authority.good() if tls else None)
    if tls:
        await stand.listen_with_tls()


async def start_unanswered(stand: TunnelStand, tls: bool) -> TunnelEnds:
    """Send a handshake whose way to upstream is never ready: in CONNECT, or in TLS."""
    harness = stand.harness
    port = await stand.upstream.listen(harness.loopback())
    if tls:
        await harness.start(f"https://127.0.0.1:{port}")
        await stand.listen_with_tls()
    else:
        await harness.start("http://api.openai.test", PROXY_URL=f"http://127.0.0.1:{port}")
    client = await stand.connect()
    client.send(HANDSHAKE)
    upstream = await stand.upstream.peer()
    await upstream.until(lambda: upstream.received)
    return client, upstream


async def half_close(stand: TunnelStand, by_client: bool, last: bytes = b"") -> TunnelEnds:
    """Open a tunnel and end one direction; return the side that has ended it, and the other."""
    await start(stand, tls=False)
    client, upstream = await stand.open()
    finished, other = (client, upstream) if by_client else (upstream, client)
    finished.send(last)
    finished.finish()
    await other.ends()
    return finished, other


def outcome(stand: TunnelStand) -> tuple[object, object]:
    stand.harness.access_log.flush()
    (event,) = stand.harness.events
    return event["ended"], event["status"]


async def assert_ends_before_101(
    stand: TunnelStand, client: TunnelPeer, upstream: TunnelPeer, by_client: bool, leave: Leave
) -> None:
    if by_client:
        leave(client)
        await upstream.wait_closed(timeout=PROMPT_SECONDS)
        client.close()
        await assert_nothing_open(stand)
        assert outcome(stand) == ("client_gone", 499)
        return
    leave(upstream)
    assert (await client.answer(timeout=PROMPT_SECONDS)).status == 502
    client.close()
    await upstream.ends()
    upstream.close()
    await assert_nothing_open(stand)
    assert outcome(stand) == ("ok", 502)


async def assert_ends_after_101(ends: TunnelEnds, by_client: bool, leave: Leave) -> TunnelPeer:
    """Let one side leave and the other follow; return the other."""
    client, upstream = ends
    leaving, other = (client, upstream) if by_client else (upstream, client)
    leave(leaving)
    await other.ends()
    other.close()
    await leaving.ends()
    leaving.close()
    await leaving.wait_closed(timeout=PROMPT_SECONDS)
    await other.wait_closed(timeout=PROMPT_SECONDS)
    return other


@every_way
@every_side
@every_transport
@pytest_twisted.ensureDeferred
async def test_end_while_the_way_to_upstream_is_set_up(
    stand: TunnelStand,
    tls: bool,
    by_client: bool,
    leave: Leave,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream_request, "MAX_ATTEMPTS", 1)
    client, upstream = await start_unanswered(stand, tls)
    await assert_ends_before_101(stand, client, upstream, by_client, leave)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching"], ids=["sent", "answered"])
@every_way
@every_side
@every_transport
@pytest_twisted.ensureDeferred
async def test_end_before_the_101(
    stand: TunnelStand, tls: bool, by_client: bool, leave: Leave, answer: bytes
) -> None:
    await start(stand, tls)
    client, upstream = await stand.shake_hands()
    upstream.send(answer)
    await assert_ends_before_101(stand, client, upstream, by_client, leave)


@every_way
@pytest_twisted.ensureDeferred
async def test_end_of_a_client_with_unread_bytes_ends_the_handshake(
    stand: TunnelStand, leave: Leave
) -> None:
    await start(stand, tls=False)
    client, upstream = await stand.shake_hands(early=b"frame")
    await assert_ends_before_101(stand, client, upstream, True, leave)


@every_way
@every_side
@every_transport
@pytest_twisted.ensureDeferred
async def test_end_of_an_open_tunnel_is_passed_on(
    stand: TunnelStand, tls: bool, by_client: bool, leave: Leave
) -> None:
    await start(stand, tls)
    client, upstream = await stand.open()
    leaving, other = (client, upstream) if by_client else (upstream, client)
    leaving.send(b"last")
    await other.receives(b"last")
    await assert_ends_after_101((client, upstream), by_client, leave)
    await assert_nothing_open(stand)
    is_reset = leave is TunnelPeer.abort and not tls  # below TLS, a reset is passed on as a close
    expected = "ok" if not is_reset else "client_gone" if by_client else "cut"
    assert outcome(stand) == (expected, 101)
    assert (other.reset, other.input_ended) == (is_reset, not is_reset and not tls)


@every_way
@every_side
@every_transport
@pytest_twisted.ensureDeferred
async def test_end_of_a_tunnel_completes_the_drain(
    stand: TunnelStand, tls: bool, by_client: bool, leave: Leave
) -> None:
    await start(stand, tls)
    ends = await stand.open()
    daemon = stand.harness.daemon
    assert daemon is not None
    stopping = daemon.stopService()
    await eventually(stand.harness.reactor, lambda: daemon.admin.stats.draining)
    await assert_ends_after_101(ends, by_client, leave)
    await assert_nothing_open(stand)
    await stopping


@every_side
@pytest_twisted.ensureDeferred
async def test_half_closed_tunnel_relays_the_other_direction(
    stand: TunnelStand, by_client: bool
) -> None:
    finished, other = await half_close(stand, by_client, b"last")
    assert (other.received, other.closed) == (b"last", False)
    other.send(b"answer")
    await finished.receives(b"answer")
    other.close()
    await finished.ends()
    await assert_nothing_open(stand)


@every_side
@pytest_twisted.ensureDeferred
async def test_half_closed_tunnel_ends_when_it_is_silent(
    stand: TunnelStand, by_client: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_tunnels, "HALF_CLOSED_SECONDS", 0.1)
    finished, other = await half_close(stand, by_client)
    await finished.until(lambda: finished.input_ended)
    other.close()
    finished.close()
    await assert_nothing_open(stand)
    (event,) = await stand.harness.logged()
    assert event["detail"] == "silent for 30 s after the FIN of one side"


@every_side
@pytest_twisted.ensureDeferred
async def test_slow_reader_of_a_half_closed_tunnel_gets_all_bytes(
    stand: TunnelStand, by_client: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_tunnels, "HALF_CLOSED_SECONDS", 0.0)
    finished, other = await half_close(stand, by_client)
    finished.pause_reading()
    for _ in range(24):
        other.send(bytes(MIB))
    await stable(stand.harness, lambda: memory_used(stand.harness))
    assert stand.harness.daemon is not None
    tunnels = stand.harness.daemon.context.tunnels
    for _ in range(3):
        tunnels.tick(stand.harness.reactor.seconds())
    assert len(tunnels) == 1
    finished.resume_reading()
    await finished.until(lambda: finished.received_size == 24 * MIB, timeout=60.0)
    other.close()
    await finished.ends()
    await assert_nothing_open(stand)
