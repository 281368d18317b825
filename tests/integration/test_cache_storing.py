"""Which responses are stored."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import pytest
import pytest_twisted

from goproxyai.proxy.recorder import PIECE_OVERHEAD_BYTES
from tests.integration.cached_requests import (
    CHAT,
    CHUNKED,
    EVENTS,
    QUESTION,
    SSE_TYPE,
    any_request,
    ask_twice,
    start_numbered,
    store_of,
    x_cache,
)
from tests.support.answers import chunk, event, head, response, sse
from tests.support.harness import ProxyHarness, post, request
from tests.support.steps import Close, Pause


@pytest.mark.parametrize("status", [200, 201, 400, 401])
@pytest.mark.parametrize("data", [request(), post(CHAT, QUESTION)], ids=["GET", "POST"])
@pytest_twisted.ensureDeferred
async def test_response_of_storable_status_is_stored(
    harness: ProxyHarness, status: int, data: bytes
) -> None:
    await harness.start()
    harness.upstream.script(any_request, response(b'{"a":1}', status, [(b"X-Mine", b"1")]))
    miss, hit = await ask_twice(harness, data)
    assert x_cache(miss, hit) == [b"MISS", b"HIT"]
    assert (hit.status, hit.reason, hit.body) == (miss.status, miss.reason, miss.body)
    assert hit.get("X-Mine") == b"1"
    assert hit.all("Content-Length") == [b"7"]


@pytest.mark.parametrize("status", [202, 203, 206, 301, 403, 404, 409, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("data", [request(), post(CHAT, QUESTION)], ids=["GET", "POST"])
@pytest_twisted.ensureDeferred
async def test_response_of_other_status_is_not_stored(
    harness: ProxyHarness, status: int, data: bytes
) -> None:
    await harness.start()
    harness.upstream.script(any_request, response(b'{"a":1}', status))
    answers = await ask_twice(harness, data)
    assert [answer.status for answer in answers] == [status, status]
    assert x_cache(*answers) == [b"MISS", b"MISS"]
    assert len(harness.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_cookies_are_sent_only_to_the_client_they_were_set_for(harness: ProxyHarness) -> None:
    await harness.start()
    cookies = [(b"Set-Cookie", b"a=1"), (b"X-Two", b"b"), (b"set-cookie", b"c=2")]
    harness.upstream.script(any_request, response(b"{}", 200, cookies))
    miss, hit = await ask_twice(harness, request())
    assert miss.all("Set-Cookie") == [b"a=1", b"c=2"]
    assert hit.get("X-Cache") == b"HIT"
    assert hit.all("Set-Cookie") == []
    assert hit.get("X-Two") == b"b"


FAILED = event({"error": {"message": "overloaded"}})
UNFINISHED = event({"choices": [{"index": 0, "finish_reason": None}]})


@pytest_twisted.ensureDeferred
async def test_complete_stream_is_replayed_byte_for_byte(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, sse(EVENTS, 0))
    miss, hit = await ask_twice(harness, post(CHAT, QUESTION))
    assert x_cache(miss, hit) == [b"MISS", b"HIT"]
    assert miss.body == hit.body == b"".join(EVENTS)
    assert hit.get("Content-Type") == miss.get("Content-Type")
    assert hit.get("Transfer-Encoding") == b"chunked"
    assert hit.get("Content-Length") is None


@pytest.mark.parametrize(
    "answer",
    [
        [head(200, [SSE_TYPE]), *EVENTS, Close()],
        [head(200, [SSE_TYPE]), b'data: {"type":"response.completed"}\n\n', Close()],
    ],
    ids=["done", "completed"],
)
@pytest_twisted.ensureDeferred
async def test_stream_is_complete_by_its_last_event(
    harness: ProxyHarness, answer: list[bytes]
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, answer)
    miss, hit = await ask_twice(harness, post(CHAT, QUESTION))
    assert x_cache(miss, hit) == [b"MISS", b"HIT"]
    assert miss.body == hit.body


@pytest_twisted.ensureDeferred
async def test_stream_and_whole_response_have_different_keys(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    plain = QUESTION[:-1] + b',"stream":false}'
    asked = [QUESTION, plain, plain.replace(b"false", b"true")]
    first = [await harness.ask(post(CHAT, body)) for body in asked]
    assert len({answer.body for answer in first}) == 3
    assert x_cache(*[await harness.ask(post(CHAT, body)) for body in asked]) == [b"HIT"] * 3


@pytest_twisted.ensureDeferred
async def test_stored_stream_ends_with_the_connection_for_http_1_0(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, sse(EVENTS, 0))
    data = post(CHAT, QUESTION)
    _, hit = await ask_twice(harness, data, data.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (hit.get("X-Cache"), hit.body, hit.cut) == (b"HIT", b"".join(EVENTS), False)
    assert hit.get("Transfer-Encoding") is None


@pytest.mark.parametrize(
    "answer",
    [
        [head(200, [(b"Content-Length", b"9")]), b"1234", Close()],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), Close()],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), b"0\r\n", Close()],
        [head(200, [SSE_TYPE]), EVENTS[0], Close()],
        [head(200, [(b"Content-Type", b"text/plain")]), b"data: [DONE]\n\n", Close()],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), chunk(b'data: {"a'), chunk(b"")],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), chunk(b"")],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(UNFINISHED), chunk(EVENTS[-1]), chunk(b"")],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), chunk(FAILED), chunk(b"")],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(FAILED), chunk(EVENTS[-1]), chunk(b"")],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(b": ping\n\n"), chunk(b": ping\n\n"), chunk(b"")],
    ],
    ids=[
        "length",
        "chunks",
        "last chunk",
        "closed by the connection",
        "no stream, closed by the connection",
        "within an event",
        "no last event",
        "no finish reason",
        "error",
        "error before done",
        "comments alone",
    ],
)
@pytest_twisted.ensureDeferred
async def test_possibly_truncated_response_is_not_stored(
    harness: ProxyHarness, answer: list[bytes]
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, answer)
    answers = await ask_twice(harness, post(CHAT, QUESTION))
    assert x_cache(*answers) == [b"MISS", b"MISS"]
    assert len(store_of(harness)) == store_of(harness).reserved == 0


@pytest_twisted.ensureDeferred
async def test_stream_of_departed_client_is_not_stored(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(CHAT, [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), Pause()])
    wire = await harness.connect()
    wire.send(post(CHAT, QUESTION))
    await wire.until(lambda: EVENTS[0] in wire.received)
    assert store_of(harness).reserved == len(EVENTS[0]) + PIECE_OVERHEAD_BYTES
    wire.abort()
    await harness.upstream.wait_for(lambda one: one.lost)
    assert len(store_of(harness)) == store_of(harness).reserved == 0


@pytest_twisted.ensureDeferred
async def test_chunked_response_is_replayed_with_length(harness: ProxyHarness) -> None:
    await harness.start()
    kind = (b"Content-Type", b"application/json")
    parts = [chunk(b'{"a":'), chunk(b"1}"), chunk(b"")]
    harness.upstream.script(CHAT, [head(200, [kind, CHUNKED]), *parts])
    miss, hit = await ask_twice(harness, post(CHAT, QUESTION))
    assert (miss.get("Transfer-Encoding"), miss.get("Content-Length")) == (b"chunked", None)
    assert (hit.get("Transfer-Encoding"), hit.get("Content-Length")) == (None, b"7")
    assert miss.body == hit.body == b'{"a":1}'


@pytest.mark.parametrize(
    ("headers", "cached"),
    [
        ([(b"Cache-Control", b"no-store")], b"MISS"),
        ([(b"Cache-Control", b"private, No-Store")], b"MISS"),
        ([(b"Vary", b"*")], b"MISS"),
        ([(b"Vary", b"Accept-Encoding"), (b"Vary", b"*")], b"MISS"),
        ([(b"Vary", b"User-Agent")], b"MISS"),
        ([(b"Vary", b"Accept-Encoding, Authorization")], b"HIT"),
        ([(b"Vary", b"Origin")], b"HIT"),  # a request with Origin bypasses the cache
    ],
)
@pytest.mark.parametrize("data", [request(), post(CHAT, QUESTION)], ids=["GET", "POST"])
@pytest_twisted.ensureDeferred
async def test_response_may_forbid_storing(
    harness: ProxyHarness, headers: list[tuple[bytes, bytes]], cached: bytes, data: bytes
) -> None:
    await harness.start()
    harness.upstream.script(any_request, response(b"{}", 200, headers))
    assert x_cache(*await ask_twice(harness, data)) == [b"MISS", cached]


@pytest.mark.parametrize("coding", ["", "gzip", "deflate"])
@pytest.mark.parametrize(
    ("document", "cached"),
    [
        ({"status": "in_progress"}, b"MISS"),
        ({"status": "queued"}, b"MISS"),
        ({"id": "batch", "status": "validating"}, b"MISS"),
        ({"status": "completed"}, b"HIT"),
        ({"status": "failed"}, b"HIT"),
        ({"data": [{"status": "in_progress"}]}, b"MISS"),
        ({"status": {"type": "active"}}, b"MISS"),
        ({"object": "list", "data": []}, b"MISS"),
        ({"status": 3}, b"HIT"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_response_about_operation_in_progress_is_not_stored(
    harness: ProxyHarness, document: dict[str, object], coding: str, cached: bytes
) -> None:
    await harness.start()
    encode: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        "gzip": gzip.compress,
        "deflate": zlib.compress,
    }
    headers = [(b"Content-Encoding", coding.encode())] if coding else []
    body = encode[coding](json.dumps(document).encode())
    harness.upstream.script(any_request, response(body, 200, headers))
    miss, again = await ask_twice(
        harness, request("/v1/batches/b", headers=[("Accept-Encoding", "*")])
    )
    assert x_cache(miss, again) == [b"MISS", cached]
    assert miss.body == again.body == body
    completion = await ask_twice(harness, post(CHAT, QUESTION))
    assert x_cache(*completion) == [b"MISS", b"HIT"]
