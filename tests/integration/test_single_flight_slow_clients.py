"""Slow subscribers of a single flight, and responses that are too large to share."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted

from goproxyai.cache.store import Store
from goproxyai.http11.server_connection import ServerConnection
from goproxyai.proxy import shared_body
from tests.integration.cached_requests import CHUNKED, store_of
from tests.integration.concurrent_requests import (
    answers_of,
    assert_all_released,
    flights_of,
    large_answers,
    send_concurrently,
    stall,
    wait_for_pauses,
)
from tests.integration.proxied_connections import (
    MAX_UNSENT_BYTES,
    MIB,
    client_side,
    client_sides,
    max_unsent_bytes,
    stable,
)
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, RawClient, eventually, request
from tests.support.requests import Request
from tests.support.steps import Pause, Stream

PIECE = bytes(range(256)) * 64
BLOCK = b"x" * 65_536


# Slow clients.


@pytest.mark.parametrize("slow", ["leader", "follower"])
@pytest_twisted.ensureDeferred
async def test_slow_client_delays_no_other_and_receives_whole_body(
    harness: ProxyHarness, slow: str
) -> None:
    await harness.start()
    gate = Pause()
    count = 3 * MIB // len(PIECE)
    harness.upstream.script(
        "/v1/models",
        [head(200, [CHUNKED]), chunk(b"first"), gate, Stream(chunk(PIECE), count), chunk(b"")],
    )
    clients = await send_concurrently(harness, [request()] * 3)
    await wait_for_pauses(harness)
    slow_client = stall(clients.pop(0 if slow == "leader" else -1))
    gate.release()
    body = b"first" + PIECE * count
    answers = await large_answers(clients, count * len(PIECE))
    assert [answer.body == body for answer in answers] == [True] * 2
    assert max_unsent_bytes(harness) <= MAX_UNSENT_BYTES
    await assert_all_released(harness)
    slow_client.resume_reading()
    (answer,) = await large_answers([slow_client], count * len(PIECE))
    assert answer.body == body
    assert len(harness.upstream.requests) == 1
    assert (await harness.ask(request())).get("X-Cache") == b"HIT"
    assert len(await harness.logged(4)) == 4


def reserve_up_to(max_bytes: int) -> Any:
    """Return a replacement for :meth:`.Store.reserve` that has a limit in bytes."""

    def reserve(self: Store, count: int) -> bool:
        if self.reserved + count > max_bytes:
            return False
        self.reserved += count
        return True

    return reserve


@pytest.mark.parametrize("slow", ["leader", "follower"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("same", [True, False], ids=["same response again", "other response"])
@pytest_twisted.ensureDeferred
async def test_slow_subscriber_over_limit_continues_with_own_request(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, slow: str, framing: str, same: bool
) -> None:
    # The limit is 6 MiB, so that the kernel's socket buffers cannot take the whole excess.
    monkeypatch.setattr(shared_body, "MAX_SHARED_BYTES", 6 * MIB)
    await harness.start()
    gate = Pause()
    count = 9 * MIB // len(PIECE)
    body = PIECE * count
    length_field = CHUNKED
    if framing == "length":
        # A Content-Length over MAX_SHARED_BYTES would prevent sharing from the start.
        length_field = (b"Content-Length", b"%d" % len(body))
        monkeypatch.setattr(shared_body, "MAX_SHARED_BYTES", 10 * MIB)
        monkeypatch.setattr(Store, "reserve", reserve_up_to(6 * MIB))

    def responder(received: Request) -> Any:
        content = PIECE if same or received.number == 1 else PIECE[::-1]
        piece = chunk(content) if framing == "chunked" else content
        end = chunk(b"") if framing == "chunked" else b""
        start = [piece, gate] if received.number == 1 else [piece]
        return [head(200, [length_field]), *start, Stream(piece, count - 1), end]

    harness.upstream.script("/v1/models", responder)
    clients = await send_concurrently(harness, [request()] * 2)
    await wait_for_pauses(harness)
    for client in clients:
        await client.until(lambda client=client: client.received_size > 16_000)
    slow_client = stall(clients.pop(0 if slow == "leader" else -1))
    gate.release()
    answers = await large_answers(clients, len(body))
    assert [answer.body == body for answer in answers] == [True]
    slow_client.resume_reading()
    (resumed,) = await large_answers([slow_client], len(body))
    if same:
        assert (resumed.body == body, resumed.cut) == (True, False)
    else:
        assert resumed.cut
        assert body.startswith(resumed.body)
    assert len(harness.upstream.requests) == 2
    assert [each["cache"] for each in await harness.logged(2)].count("MISS") <= 1
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_single_slow_client_pauses_upstream(harness: ProxyHarness) -> None:
    await harness.start()
    written: list[int] = []
    harness.upstream.script(
        "/v1/models", [head(200, [CHUNKED]), Stream(chunk(BLOCK), 240, written.append), chunk(b"")]
    )
    client = stall(await harness.connect())
    client.send(request())
    await eventually(harness.reactor, lambda: max_unsent_bytes(harness) > 0)
    assert await stable(harness, lambda: len(written)) < 230
    assert max_unsent_bytes(harness) <= MAX_UNSENT_BYTES
    client.resume_reading()
    (answer,) = await large_answers([client], 240 * len(BLOCK))
    assert len(answer.body) == 240 * len(BLOCK)
    await assert_all_released(harness)


def shrink_send_buffer(connection: ServerConnection) -> None:
    """Limit what the kernel buffers for the client, so that the daemon's own buffer fills."""
    connection.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)


async def start_paused_flight(harness: ProxyHarness) -> RawClient:
    """Start a flight that pauses upstream; returns its only subscriber, which does not read."""
    await harness.start()
    answer = [head(200, [CHUNKED]), Stream(chunk(BLOCK), 60), chunk(b"")]
    harness.upstream.script("/v1/models", answer, times=1)
    client = await harness.connect()
    await eventually(harness.reactor, lambda: client_sides(harness))
    shrink_send_buffer(client_side(harness))
    stall(client)
    client.send(request())

    def is_paused() -> bool:
        paused = any(flight.upstream_paused for flight in flights_of(harness))
        return paused and max_unsent_bytes(harness) > 0

    await eventually(harness.reactor, is_paused)
    return client


@pytest_twisted.ensureDeferred
async def test_fast_client_joining_paused_flight_is_not_delayed(harness: ProxyHarness) -> None:
    slow = await start_paused_flight(harness)
    fast = await harness.connect()
    fast.send(request())
    size = 60 * len(BLOCK)
    (fast_answer,) = await large_answers([fast], size)
    assert (len(fast_answer.body), fast_answer.cut) == (size, False)
    slow.resume_reading()
    (slow_answer,) = await large_answers([slow], size)
    assert slow_answer.body == fast_answer.body
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_body_is_counted_until_slow_client_has_it(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    script = [head(404, [CHUNKED]), chunk(b"first"), gate, Stream(chunk(BLOCK), 60), chunk(b"")]
    harness.upstream.script("/v1/models", script)
    fast, slow = await send_concurrently(harness, [request()] * 2)
    await wait_for_pauses(harness)
    port = slow.transport.getHost().port
    (connection,) = [
        each for each in client_sides(harness) if each.transport.getPeer().port == port
    ]
    shrink_send_buffer(connection)
    stall(slow)
    gate.release()
    size = 60 * len(BLOCK)
    assert len((await large_answers([fast], size))[0].body) == size + 5
    assert flights_of(harness) == []
    assert store_of(harness).reserved == 0
    assert harness.daemon is not None
    assert harness.daemon.context.memory.used >= size + 5
    slow.resume_reading()
    assert len((await large_answers([slow], size))[0].body) == size + 5
    await assert_all_released(harness)


# Responses that are not shared.


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ([(b"Cache-Control", b"no-store")], 9),
        ([(b"Vary", b"*")], 9),
        ([], 5 * MIB),
    ],
    ids=["no-store", "vary", "too large"],
)
@pytest_twisted.ensureDeferred
async def test_unshareable_response_goes_to_leader_only(
    harness: ProxyHarness, fields: list[tuple[bytes, bytes]], size: int
) -> None:
    await harness.start()
    gate = Pause()

    def numbered(received: Request) -> Any:
        answer = response(b"%d" % received.number + b"x" * (size - 1), headers=fields)
        return [gate, answer] if received.number == 1 else answer

    harness.upstream.script("/v1/models", numbered)
    clients = await send_concurrently(harness, [request()] * 3)
    await wait_for_pauses(harness)
    gate.release()
    answers = await answers_of(clients)
    assert sorted(answer.body[:1] for answer in answers) == [b"1", b"2", b"3"]
    assert {len(answer.body) for answer in answers} == {size}
    assert [answer.get("Cache-Status") for answer in answers] == [b"goproxyai; fwd=miss"] * 3
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_response_over_cache_size_is_not_shared(harness: ProxyHarness) -> None:
    await harness.start(MAX_CACHE_SIZE="10")
    body = bytes(2 * MIB)
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, response(body)])
    clients = await send_concurrently(harness, [request()] * 3)
    await wait_for_pauses(harness)
    gate.release()
    answers = await large_answers(clients, len(body))
    assert [answer.body == body for answer in answers] == [True] * 3
    assert len(harness.upstream.requests) == 3
    await assert_all_released(harness)


@pytest.mark.parametrize("late", [False, True], ids=["joined before header", "joined inside body"])
@pytest_twisted.ensureDeferred
async def test_response_too_large_to_keep_is_not_shared(harness: ProxyHarness, late: bool) -> None:
    await harness.start(MAX_CACHE_SIZE="10")
    gate = Pause()
    body = b"x" * (2 * MIB)
    header = head(200, [(b"Content-Length", b"%d" % len(body))])
    inside_body = [header + body[:100_000], gate, body[100_000:]]
    harness.upstream.script("/v1/models", inside_body if late else [gate, header + body])
    clients = await send_concurrently(harness, [request()] * (1 if late else 2))
    await wait_for_pauses(harness)
    if late:
        await clients[0].until(lambda: len(clients[0].received) > 100_000)
        clients += await send_concurrently(harness, [request()])
        await harness.upstream.wait_until(lambda: len(harness.upstream.requests) == 2)
    gate.release()
    answers = await large_answers(clients, len(body))
    assert [answer.body == body for answer in answers] == [True, True]
    await assert_all_released(harness)
