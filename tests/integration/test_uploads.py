"""Request bodies: streamed, collected for the cache, and 100-continue (RFC 9110 §10.1.1)."""

from __future__ import annotations

import hashlib

import pytest
import pytest_twisted

from goproxyai.reactor.socket_write import unsent_bytes
from tests.integration.proxied_connections import (
    MAX_KERNEL_BYTES,
    MAX_UNSENT_BYTES,
    MIB,
    client_side,
    stable,
    upstream_side,
)
from tests.support.answers import chunk, response
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.steps import AnswerBeforeBody, Close, Pause

pytestmark = pytest.mark.usefixtures("collect_garbage")

OK = b"HTTP/1.1 200 OK\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True], ids=["content_length", "chunked"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest_twisted.ensureDeferred
async def test_slow_upstream_pauses_the_upload_and_loses_nothing(
    harness: ProxyHarness, tls: bool, chunked: bool
) -> None:
    upstream = f"https://127.0.0.1:{await harness.listen_with_tls()}" if tls else None
    await harness.start(upstream)
    harness.upstream.script("/v1/files", response(b"thanks"))
    body = hashlib.shake_128(b"upload").digest(MIB) * 32
    client = await harness.connect()
    if chunked:
        pieces = [chunk(body[start : start + MIB]) for start in range(0, len(body), MIB)]
        framed = b"".join([*pieces, chunk(b"")])
        client.send(request("/v1/files", "POST", [("Transfer-Encoding", "chunked")]))
    else:
        framed = body
        client.send(request("/v1/files", "POST", [("Content-Length", str(len(body)))]))
    seen = await harness.upstream.wait_for(lambda seen: True)
    harness.upstream.pause_reading()
    client.send(framed)
    await eventually(harness.reactor, lambda: client_side(harness).reading_paused)
    assert (
        len(framed) - await stable(harness, lambda: unsent_bytes(client.transport))
        < MAX_KERNEL_BYTES
    )
    assert unsent_bytes(upstream_side(harness).transport) <= MAX_UNSENT_BYTES
    harness.upstream.resume_reading()
    assert (await client.answer()).body == b"thanks"
    assert (seen.body_length, seen.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert bool(seen.all(b"transfer-encoding")) == chunked
    assert seen.all(b"content-length") == ([] if chunked else [str(len(body)).encode()])


@pytest.mark.parametrize("target", ["/v1/files", "/v1/embeddings"])
@pytest_twisted.ensureDeferred
async def test_small_chunked_body_is_forwarded(harness: ProxyHarness, target: str) -> None:
    await harness.start()
    body = b'{"input":"abc"}'
    client = await harness.connect()
    client.send(request(target, "POST", [("Transfer-Encoding", "chunked")]) + chunk(body[:3]))
    client.send(chunk(body[3:]) + b"0\r\nX-Trailer: dropped\r\n\r\n")
    assert (await client.answer()).status == 200
    (seen,) = harness.upstream.requests
    assert seen.body == body
    assert seen.trailers == []
    assert seen.header(b"x-trailer") is None
    assert [seen.header(b"content-length"), seen.header(b"transfer-encoding")].count(None) == 1


@pytest_twisted.ensureDeferred
async def test_upload_is_forwarded_while_it_is_received(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(request("/v1/files", "POST", [("Content-Length", "8")]) + b"half")
    await harness.upstream.wait_for(lambda seen: seen.body_length == 4)
    client.send(b"more")
    assert (await client.answer()).status == 200
    assert harness.upstream.requests[0].body == b"halfmore"


@pytest.mark.parametrize("chunked", [False, True], ids=["content_length", "chunked"])
@pytest_twisted.ensureDeferred
async def test_cacheable_post_over_10_mb_bypasses_the_cache(
    harness: ProxyHarness, chunked: bool
) -> None:
    await harness.start()
    body = b'{"input":"%b"}' % (b"a" * (11 * MIB))
    harness.upstream.script("/v1/embeddings", response(b"{}"))
    headers = [("Content-Type", "application/json")]
    if chunked:
        head = request("/v1/embeddings", "POST", [*headers, ("Transfer-Encoding", "chunked")])
        message = head + chunk(body) + chunk(b"")
    else:
        message = post("/v1/embeddings", body)
    for _ in range(2):
        answer = await harness.ask(message)
        assert (answer.status, answer.get("X-Cache")) == (200, b"MISS")
        assert answer.all("Cache-Status") == [b"goproxyai; fwd=bypass; detail=size"]
    assert [seen.sha256 for seen in harness.upstream.requests] == [
        hashlib.sha256(body).hexdigest()
    ] * 2


@pytest_twisted.ensureDeferred
async def test_cacheable_post_below_10_mb_is_cached(harness: ProxyHarness) -> None:
    await harness.start()
    body = b'{"input":"%b"}' % (b"a" * (9 * MIB))
    first, second = [await harness.ask(post("/v1/embeddings", body)) for _ in range(2)]
    assert [each.get("X-Cache") for each in (first, second)] == [b"MISS", b"HIT"]
    assert len(harness.upstream.requests) == 1


@pytest.mark.parametrize("chunked", [False, True], ids=["content_length", "chunked"])
@pytest_twisted.ensureDeferred
async def test_response_before_the_end_of_the_upload_is_relayed(
    harness: ProxyHarness, chunked: bool
) -> None:
    await harness.start()
    harness.upstream.script("/v1/files", [AnswerBeforeBody(), response(b'{"e":1}', 413)])
    client = await harness.connect()
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "1000000")
    client.send(request("/v1/files", "POST", [framing]) + (chunk(b"some") if chunked else b"some"))
    answer = await client.answer()
    assert (answer.status, answer.body) == (413, b'{"e":1}')
    assert answer.all("Connection") == [b"close"]
    client.send(request() * 10)
    await client.wait_closed()
    assert client.received == b""
    assert [seen.line for seen in harness.upstream.requests] == ["POST /v1/files"]
    await harness.upstream.wait_closed()
    assert [each["status"] for each in await harness.logged()] == [413]


@pytest_twisted.ensureDeferred
async def test_response_before_the_end_of_the_upload_survives_a_close(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("/v1/files", [AnswerBeforeBody(), response(b'{"e":1}', 413), Close()])
    client = await harness.connect()
    client.send(request("/v1/files", "POST", body=bytes(8 * MIB)))
    answer = await client.answer()
    assert (answer.status, answer.body) == (413, b'{"e":1}')
    await client.wait_closed()


@pytest_twisted.ensureDeferred
async def test_stream_may_start_before_the_end_of_the_upload(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script(
        "/v1/files", [AnswerBeforeBody(), SSE + chunk(b"one"), gate, chunk(b"two") + chunk(b"")]
    )
    client = await harness.connect()
    client.send(request("/v1/files", "POST", [("Content-Length", "8")]) + b"half")
    await client.until(lambda: b"one" in client.received)
    client.send(b"more")
    await harness.upstream.wait_for(lambda seen: seen.complete)
    gate.release()
    answer = await client.answer()
    assert (answer.body, answer.cut) == (b"onetwo", False)
    assert harness.upstream.requests[0].body == b"halfmore"


@pytest.mark.parametrize("target", ["/v1/files", "/v1/embeddings"])
@pytest_twisted.ensureDeferred
async def test_100_continue_is_sent_by_the_proxy(harness: ProxyHarness, target: str) -> None:
    await harness.start(RATE_LIMIT="60")
    body = b'{"input":"a"}'
    client = await harness.connect()
    expect = [("Expect", "100-continue"), ("Content-Length", str(len(body)))]
    client.send(request(target, "POST", expect))
    await client.until(lambda: client.received == CONTINUE)
    client.send(body)
    assert (await client.answer()).status == 200
    (seen,) = harness.upstream.requests
    assert (seen.header(b"expect"), seen.body) == (None, body)


@pytest_twisted.ensureDeferred
async def test_refused_request_gets_no_100_continue(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    await harness.ask(request())
    client = await harness.connect()
    expect = [("Expect", "100-continue"), ("Content-Length", "100")]
    client.send(request("/v1/files", "POST", expect))
    await client.wait_closed()
    assert client.received.startswith(b"HTTP/1.1 429 ")
    assert b"100 Continue" not in client.received
    assert (await client.answer()).all("Connection") == [b"close"]
    assert len(harness.upstream.requests) == 1


@pytest_twisted.ensureDeferred
async def test_unreachable_upstream_is_502_without_the_body(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    await harness.upstream.stop_listening()
    client = await harness.connect()
    expect = [("Expect", "100-continue"), ("Content-Length", "100")]
    client.send(request("/v1/files", "POST", expect))
    answer = await client.answer()
    assert answer.status == 502
    await client.wait_closed()


@pytest_twisted.ensureDeferred
async def test_body_sent_without_100_continue_is_forwarded(harness: ProxyHarness) -> None:
    await harness.start()
    client = await harness.connect()
    client.send(request("/v1/files", "POST", [("Expect", "100-continue")], body=b"here it is"))
    assert (await client.answer()).status == 200
    assert harness.upstream.requests[0].body == b"here it is"
