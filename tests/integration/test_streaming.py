"""Responses are relayed as they are received, at the pace of the client."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import pytest_twisted

from goproxyai.reactor.socket_write import unsent_bytes
from tests.integration.cached_requests import CHAT
from tests.integration.concurrent_requests import answers_of, send_concurrently, wait_for_pauses
from tests.integration.hashing_client import HashingClient
from tests.integration.proxied_connections import (
    MAX_KERNEL_BYTES,
    MAX_UNSENT_BYTES,
    client_side,
    stable,
    upstream_side,
)
from tests.support.answers import chunk, event, sse
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.steps import Pause, Stream

pytestmark = pytest.mark.usefixtures("collect_garbage")

OK = b"HTTP/1.1 200 OK\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest_twisted.ensureDeferred
async def test_event_is_relayed_before_the_next_is_sent(harness: ProxyHarness) -> None:
    await harness.start()
    gates = [Pause() for _ in range(5)]
    script: list[Any] = [SSE]
    for number, gate in enumerate(gates):
        script += [chunk(event({"n": number})), gate]
    harness.upstream.script("/v1/chat/completions", [*script, chunk(b"")])
    client = await harness.connect()
    client.send(post("/v1/chat/completions", b'{"stream":true}'))
    for number, gate in enumerate(gates):
        await client.until(lambda number=number: event({"n": number}) in client.received)
        assert event({"n": number + 1}) not in client.received
        gate.release()
    answer = await client.answer()
    assert answer.body == b"".join(event({"n": number}) for number in range(5))


@pytest_twisted.ensureDeferred
async def test_head_is_relayed_before_the_body(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script("/v1/a", [OK + b"Content-Length: 4\r\n\r\n", gate, b"body"])
    client = await harness.connect()
    client.send(request("/v1/a"))
    await client.until(lambda: b"\r\n\r\n" in client.received)
    gate.release()
    assert (await client.answer()).body == b"body"


@pytest_twisted.ensureDeferred
async def test_stream_is_stored_and_replayed_unchanged(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.api.interval = 0.001
    message = post("/v1/chat/completions", b'{"model":"m","stream":true,"messages":[]}')
    first, second = [await harness.ask(message) for _ in range(2)]
    assert [each.get("X-Cache") for each in (first, second)] == [b"MISS", b"HIT"]
    assert first.body == second.body
    assert second.all("Content-Type") == [b"text/event-stream; charset=utf-8"]
    assert second.all("Transfer-Encoding") == [b"chunked"]


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest_twisted.ensureDeferred
async def test_slow_reader_pauses_the_upstream_and_loses_nothing(
    harness: ProxyHarness, tls: bool
) -> None:
    upstream = f"https://127.0.0.1:{await harness.listen_with_tls()}" if tls else None
    await harness.start(upstream)
    piece, times = hashlib.shake_128(b"piece").digest(64 * 1024), 1024
    sent: list[int] = []
    size = len(piece) * times
    harness.upstream.script(
        "/v1/a", [OK + b"Content-Length: %d\r\n\r\n" % size, Stream(piece, times, sent.append)]
    )
    client = await harness.connect(HashingClient(harness.reactor))
    assert isinstance(client, HashingClient)
    client.send(request("/v1/a"))
    client.pause_reading()
    await eventually(
        harness.reactor, lambda: len(harness.pool) == 1 and upstream_side(harness).reading_paused
    )
    sent_before_pause = await stable(harness, lambda: len(sent)) * len(piece)
    assert sent_before_pause < MAX_KERNEL_BYTES
    assert unsent_bytes(client_side(harness).transport) <= MAX_UNSENT_BYTES
    client.resume_reading()
    await client.until(lambda: client.count == size)
    assert client.sha256 == hashlib.sha256(piece * times).hexdigest()
    assert sent[-1] == times


@pytest_twisted.ensureDeferred
async def test_event_stream_tells_nginx_not_to_buffer(harness: ProxyHarness) -> None:
    await harness.start(COALESCE="all")
    gate = Pause()
    events = [event({"choices": [{"finish_reason": "stop"}]}), b"data: [DONE]\n\n"]
    harness.upstream.script(CHAT, [gate, *sse(events, 0)])
    data = post(CHAT, b'{"stream":true}')
    clients = await send_concurrently(harness, [data] * 2)
    await wait_for_pauses(harness)
    gate.release()
    leader, follower = await answers_of(clients)
    hit = await harness.ask(data)
    paced = await harness.ask(post(CHAT, b'{"stream":true}', [("X-Cache-Replay", "timing")]))
    for answer, status in (
        (leader, b"goproxyai; fwd=miss"),
        (follower, b"goproxyai; fwd=miss; collapsed"),
        (hit, b"goproxyai; hit"),
        (paced, b"goproxyai; hit"),
    ):
        assert (answer.get("Cache-Status") or b"").startswith(status)
        assert answer.all("X-Accel-Buffering") == [b"no"]
        assert answer.body == b"".join(events)


@pytest_twisted.ensureDeferred
async def test_upstreams_own_buffering_field_is_kept(harness: ProxyHarness) -> None:
    await harness.start()
    events = [event({"choices": [{"finish_reason": "stop"}]}), b"data: [DONE]\n\n"]
    harness.upstream.script(CHAT, sse(events, 0, [(b"X-Accel-Buffering", b"yes")]))
    for expected in (b"MISS", b"HIT"):
        answer = await harness.ask(post(CHAT, b'{"stream":true}'))
        assert answer.get("X-Cache") == expected
        assert answer.all("X-Accel-Buffering") == [b"yes"]


@pytest_twisted.ensureDeferred
async def test_other_response_leaves_buffering_to_nginx(harness: ProxyHarness) -> None:
    await harness.start()
    for expected in (b"MISS", b"HIT"):
        answer = await harness.ask(request())
        assert (answer.get("X-Cache"), answer.all("X-Accel-Buffering")) == (expected, [])
