"""What is relayed is relayed as it is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest_twisted

from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.steps import Pause


@pytest_twisted.ensureDeferred
async def test_an_answer_passes_byte_for_byte(harness: ProxyHarness) -> None:
    await harness.start()
    raw = (
        b"HTTP/1.1 203 Quite  Odd\r\nX-One: a\r\nset-cookie: b=1; Path=/\r\nX-One: c\r\n"
        b"Set-Cookie: d=2\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n"
        b"X-RateLimit-X: 9\r\n\r\n"
        b"\x1f\x8b\x00\xffz"
    )
    harness.upstream.script("/v1/odd", raw)
    answer = await harness.ask(request("/v1/odd?q=%41%2f&&x=;#"[:-1]))
    assert (answer.status, answer.reason, answer.body) == (203, b"Quite  Odd", b"\x1f\x8b\x00\xffz")
    theirs = [pair for pair in answer.headers if pair[0] not in OURS]
    assert theirs == [
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


OURS = {b"X-Cache", b"X-Proxy", b"Via", b"Cache-Status", b"Server-Timing", b"X-Request-Id"}


@pytest_twisted.ensureDeferred
async def test_each_request_of_a_connection_goes_upstream_with_its_own_lines(
    harness: ProxyHarness,
) -> None:
    await harness.start(CACHE_TTL="0")
    wire = await harness.connect()
    for number in ("1", "22", "333"):
        told = [
            ("X-Request-Id", f"id-{number}"), ("Connection", "X-Real-IP"), ("X-Real-IP", number),
            ("traceparent", f"00-%s-{number}"), ("X-Forwarded-For", f"192.0.2.{number[:2]}"),
        ]  # fmt: skip
        wire.send(post("/v1/files?100%25", number.encode(), told))
        await wire.answer()
        seen = harness.upstream.requests[-1]
        assert (seen.target, seen.body) == (b"/v1/files?100%25", number.encode())
        assert seen.all(b"x-request-id") == [f"id-{number}".encode()]
        assert seen.all(b"traceparent") == [f"00-%s-{number}".encode()]
        assert seen.all(b"content-length") == [b"%d" % len(number)]
        assert seen.all(b"x-real-ip") == []
    events = await harness.logged(3)
    assert [event["client"] for event in events] == ["192.0.2.1", "192.0.2.22", "192.0.2.33"]


@pytest_twisted.ensureDeferred
async def test_a_second_completion_is_a_hit(harness: ProxyHarness) -> None:
    await harness.start()
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
    wire = await harness.connect()
    wire.send(post("/v1/chat/completions", body))
    first = await wire.answer()
    wire.send(post("/v1/chat/completions", body))
    second = await wire.answer()
    assert (first.status, first.get("X-Cache")) == (200, b"MISS")
    assert (second.status, second.get("X-Cache")) == (200, b"HIT")
    assert first.body == second.body
    assert len(harness.upstream.requests) == 1
    assert second.get("X-Cache-Timestamp") is not None
    assert second.get("Age") == b"0"


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_while_upstream_is_silent_ends_the_request(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("/v1/slow", [Pause()])
    wire = await harness.connect()
    wire.send(request("/v1/slow"))
    await harness.upstream.wait_for(lambda one: one.paused)
    wire.abort()
    await harness.upstream.wait_for(lambda one: one.lost, timeout=1.0)
    assert (await harness.logged())[0]["ended"] == "client_gone"


@contextmanager
def no_cycles() -> Iterator[None]:
    """Nothing of ours is left to be collected."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        left = [
            one
            for one in gc.garbage
            if type(one).__module__.startswith("goproxyai")
            and type(one).__name__ != "_SingleConnectionFactory"  # in a cycle of Twisted's
        ]
        assert left == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest_twisted.ensureDeferred
async def test_a_request_leaves_no_cycle_to_be_collected(harness: ProxyHarness) -> None:
    await harness.start()
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
    wire = await harness.connect()
    with no_cycles():
        for data in (post("/v1/chat/completions", body), request("/v1/files/none")):
            for _ in range(2):
                wire.send(data)
                await wire.answer()


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_leaves_no_cycle_and_no_head(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/cut", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", Pause()])
    harness.upstream.script("/v1/slow", [Pause()])
    assert harness.daemon is not None
    factory = harness.daemon.listeners.factory
    with no_cycles():
        for path in ("/v1/cut", "/v1/slow", "/v1/models"):
            wire = await harness.connect()
            wire.send(request(path))
            if path == "/v1/models":
                await wire.answer()
            elif path == "/v1/cut":
                await wire.until(lambda wire=wire: wire.received.endswith(b"x"))
            else:
                await harness.upstream.wait_for(lambda one: one.paused)
            wire.abort()
            del wire
            await eventually(harness.reactor, lambda: not factory.connections)
        await eventually(harness.reactor, lambda: len(harness.daemon.agent.pool) <= 1)
        assert len(factory.heads) == 0
