"""A client that disconnects ends its upstream request, in every phase."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.integration.proxied_connections import (
    MIB,
    client_side,
    upstream_side,
)
from tests.support.answers import chunk, event
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.prompt import PROMPT_SECONDS
from tests.support.steps import Answer as Script
from tests.support.steps import Pause, Stream

pytestmark = pytest.mark.usefixtures("collect_garbage")

OK = b"HTTP/1.1 200 OK\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

PHASES: dict[str, tuple[bytes, Script]] = {
    "during_an_upload": (
        request("/v1/files", "POST", [("Content-Length", "1000")]) + b"some",
        b"",
    ),
    "during_a_chunked_upload": (
        request("/v1/files", "POST", [("Transfer-Encoding", "chunked")]) + chunk(b"some"),
        b"",
    ),
    "before_the_head": (request("/v1/a"), [Pause()]),
    "before_the_head_of_a_post": (post("/v1/chat/completions", b"{}"), [Pause()]),
    "inside_the_head": (request("/v1/a"), [OK + b"Content-", Pause()]),
    "after_the_head": (request("/v1/a"), [OK + b"Content-Length: 9\r\n\r\n", Pause()]),
    "inside_a_body": (request("/v1/a"), [OK + b"Content-Length: 9\r\n\r\npart", Pause()]),
    "inside_a_close_delimited_body": (request("/v1/a"), [OK + b"\r\npart", Pause()]),
    "inside_a_stream": (
        post("/v1/chat/completions", b'{"stream":true}'),
        [SSE + chunk(event(1)), Pause()],
    ),
}


@pytest.mark.parametrize("orderly", [False, True], ids=["reset", "close"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(("message", "answer"), PHASES.values(), ids=PHASES)
@pytest_twisted.ensureDeferred
async def test_client_disconnect_ends_the_upstream_request(
    harness: ProxyHarness, message: bytes, answer: Script, tls: bool, orderly: bool
) -> None:
    upstream = f"https://127.0.0.1:{await harness.listen_with_tls()}" if tls else None
    await harness.start(upstream)
    if answer:
        harness.upstream.script(lambda _: True, answer)
    client = await harness.connect()
    client.send(message)
    await harness.upstream.wait_for(lambda seen: seen.paused or seen.body_length == 4)
    if isinstance(answer, list) and isinstance(answer[0], bytes) and b"\r\n\r\n" in answer[0]:
        await client.until(lambda: b"\r\n\r\n" in client.received)
    assert client.transport is not None
    (client.transport.loseConnection if orderly else client.abort)()
    await harness.upstream.wait_for(lambda seen: seen.lost, timeout=PROMPT_SECONDS)
    await eventually(harness.reactor, lambda: len(harness.pool) == 0, PROMPT_SECONDS)
    assert [each["ended"] for each in await harness.logged()] == ["client_gone"]


@pytest_twisted.ensureDeferred
async def test_client_disconnect_is_noticed_while_the_upstream_is_silent(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("/v1/slow", [Pause()])
    client = await harness.connect()
    client.send(request("/v1/slow"))
    await harness.upstream.wait_for(lambda seen: seen.paused)
    client.abort()
    await harness.upstream.wait_for(lambda seen: seen.lost, timeout=PROMPT_SECONDS)
    assert (await harness.logged())[0]["ended"] == "client_gone"


@pytest_twisted.ensureDeferred
async def test_client_disconnect_ends_a_connect_request(
    harness: ProxyHarness,
) -> None:
    proxy, port = await harness.egress()
    proxy.script("api.openai.test:443", [Pause()])
    await harness.start("https://api.openai.test", PROXY_URL=f"http://127.0.0.1:{port}")
    client = await harness.connect()
    client.send(request())
    await proxy.wait_for(lambda seen: seen.paused)
    client.abort()
    await proxy.wait_for(lambda seen: seen.lost, timeout=PROMPT_SECONDS)
    (logged,) = await harness.logged()
    assert (logged["ended"], logged["status"]) == ("client_gone", 499)


@pytest_twisted.ensureDeferred
async def test_client_disconnect_ends_a_tls_handshake(harness: ProxyHarness) -> None:
    port = await harness.listen_with_tls()
    harness.upstream.pause_reading()
    await harness.start(f"https://127.0.0.1:{port}")
    client = await harness.connect()
    client.send(request())
    await eventually(harness.reactor, lambda: len(harness.pool) == 1)
    client.abort()
    await eventually(harness.reactor, lambda: len(harness.pool) == 0, PROMPT_SECONDS)
    assert [each["ended"] for each in await harness.logged()] == ["client_gone"]
    harness.upstream.resume_reading()
    await harness.upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_client_disconnect_while_its_body_is_collected_is_logged(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(request("/v1/embeddings", "POST", [("Content-Length", "1000")]) + b"{")
    await eventually(harness.reactor, lambda: not client_side(harness).idle)
    client.abort()
    await eventually(
        harness.reactor, lambda: not harness.daemon.listeners.factory.connections, PROMPT_SECONDS
    )
    assert [each["ended"] for each in await harness.logged()] == ["client_gone"]
    assert harness.upstream.connections_made == 0


@pytest_twisted.ensureDeferred
async def test_disconnect_of_a_paused_client_ends_the_upstream_request(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.pause_reading()
    client = await harness.connect()
    client.send(request("/v1/files", "POST", body=bytes(32 * MIB)))
    await eventually(
        harness.reactor, lambda: len(harness.pool) == 1 and client_side(harness).reading_paused
    )
    client.abort()
    await eventually(harness.reactor, lambda: len(harness.pool) == 0, PROMPT_SECONDS)
    assert [each["ended"] for each in await harness.logged()] == ["client_gone"]
    harness.upstream.resume_reading()
    await harness.upstream.wait_closed()


@pytest_twisted.ensureDeferred
async def test_disconnect_of_a_client_that_does_not_read_ends_the_upstream_request(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(
        "/v1/a", [OK + b"Content-Length: %d\r\n\r\n" % (64 * MIB), Stream(bytes(MIB), 64)]
    )
    client = await harness.connect()
    client.send(request("/v1/a"))
    client.pause_reading()
    await eventually(
        harness.reactor, lambda: len(harness.pool) == 1 and upstream_side(harness).reading_paused
    )
    client.abort()
    await harness.upstream.wait_for(lambda seen: seen.lost, timeout=PROMPT_SECONDS)
    assert [each["ended"] for each in await harness.logged()] == ["client_gone"]
