"""Requests and responses are relayed unchanged, and leave no garbage."""

from __future__ import annotations

import pytest_twisted

from tests.integration.reference_cycles import assert_no_cycles
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.steps import Pause

ADDED_BY_DAEMON = {
    b"X-Cache", b"X-Proxy", b"Via", b"Cache-Status", b"Server-Timing", b"X-Request-Id",
}  # fmt: skip

IN_A_CYCLE_OF_TWISTED = frozenset({"_SingleConnectionFactory"})
"""Our classes whose objects are in reference cycles that Twisted makes."""


@pytest_twisted.ensureDeferred
async def test_response_is_relayed_unchanged(harness: ProxyHarness) -> None:
    await harness.start()
    raw = (
        b"HTTP/1.1 203 Quite  Odd\r\nX-One: a\r\nset-cookie: b=1; Path=/\r\nX-One: c\r\n"
        b"Set-Cookie: d=2\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n"
        b"X-RateLimit-X: 9\r\n\r\n"
        b"\x1f\x8b\x00\xffz"
    )
    harness.upstream.script("/v1/odd", raw)
    answer = await harness.ask(request("/v1/odd?q=%41%2f&&x=;"))
    assert (answer.status, answer.reason, answer.body) == (203, b"Quite  Odd", b"\x1f\x8b\x00\xffz")
    assert [pair for pair in answer.headers if pair[0] not in ADDED_BY_DAEMON] == [
        (b"X-One", b"a"),
        (b"set-cookie", b"b=1; Path=/"),
        (b"X-One", b"c"),
        (b"Set-Cookie", b"d=2"),
        (b"Content-Encoding", b"gzip"),
        (b"Content-Length", b"5"),
        (b"X-RateLimit-X", b"9"),
    ]
    assert harness.upstream.requests[0].target == b"/v1/odd?q=%41%2f&&x=;"
    assert answer.get("X-Cache") == b"MISS"
    assert answer.get("X-Proxy") == b"goproxyai"


@pytest_twisted.ensureDeferred
async def test_requests_of_one_connection_are_relayed_with_their_own_fields(
    harness: ProxyHarness,
) -> None:
    await harness.start(CACHE_TTL="0")
    client = await harness.connect()
    for number in ("1", "22", "333"):
        fields = [
            ("X-Request-Id", f"id-{number}"), ("Connection", "X-Real-IP"), ("X-Real-IP", number),
            ("traceparent", f"00-%s-{number}"), ("X-Forwarded-For", f"192.0.2.{number[:2]}"),
        ]  # fmt: skip
        client.send(post("/v1/files?100%25", number.encode(), fields))
        await client.answer()
        received = harness.upstream.requests[-1]
        assert (received.target, received.body) == (b"/v1/files?100%25", number.encode())
        assert received.all(b"x-request-id") == [f"id-{number}".encode()]
        assert received.all(b"traceparent") == [f"00-%s-{number}".encode()]
        assert received.all(b"content-length") == [b"%d" % len(number)]
        assert received.all(b"x-real-ip") == []
    events = await harness.logged(3)
    assert [event["client"] for event in events] == ["192.0.2.1", "192.0.2.22", "192.0.2.33"]


@pytest_twisted.ensureDeferred
async def test_second_completion_is_a_hit(harness: ProxyHarness) -> None:
    await harness.start()
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
    client = await harness.connect()
    client.send(post("/v1/chat/completions", body))
    first = await client.answer()
    client.send(post("/v1/chat/completions", body))
    second = await client.answer()
    assert (first.status, first.get("X-Cache")) == (200, b"MISS")
    assert (second.status, second.get("X-Cache")) == (200, b"HIT")
    assert first.body == second.body
    assert len(harness.upstream.requests) == 1
    assert second.get("X-Cache-Timestamp") is not None
    assert second.get("Age") == b"0"


@pytest_twisted.ensureDeferred
async def test_request_leaves_no_reference_cycle(harness: ProxyHarness) -> None:
    await harness.start()
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
    client = await harness.connect()
    with assert_no_cycles(IN_A_CYCLE_OF_TWISTED):
        for data in (post("/v1/chat/completions", body), request("/v1/files/none")):
            for _ in range(2):
                client.send(data)
                await client.answer()


@pytest_twisted.ensureDeferred
async def test_disconnect_leaves_no_reference_cycle_and_no_request_head(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("/v1/cut", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", Pause()])
    harness.upstream.script("/v1/slow", [Pause()])
    assert harness.daemon is not None
    factory = harness.daemon.listeners.factory
    with assert_no_cycles(IN_A_CYCLE_OF_TWISTED):
        for path in ("/v1/cut", "/v1/slow", "/v1/models"):
            client = await harness.connect()
            client.send(request(path))
            if path == "/v1/models":
                await client.answer()
            elif path == "/v1/cut":
                await client.until(lambda client=client: client.received.endswith(b"x"))
            else:
                await harness.upstream.wait_for(lambda received: received.paused)
            client.abort()
            del client
            await eventually(harness.reactor, lambda: not factory.connections)
        await eventually(harness.reactor, lambda: len(harness.daemon.agent.pool) <= 1)
        await eventually(harness.reactor, lambda: len(factory.heads) == 0)  # retained for ticks
