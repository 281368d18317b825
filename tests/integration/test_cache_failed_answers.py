"""Answers that failed although their status is that of a success."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import pytest
import pytest_twisted
import zstandard

from tests.integration.cached_requests import (
    CHAT,
    CHUNKED,
    EVENTS,
    QUESTION,
    SSE_TYPE,
    any_request,
    ask_twice,
    store_of,
    x_cache,
)
from tests.support.answers import chunk, event, head, response
from tests.support.harness import ProxyHarness, post, request

FAILED = event({"error": {"message": "overloaded"}})


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("data", [request(), post(CHAT, QUESTION)], ids=["GET", "POST"])
@pytest.mark.parametrize("media_type", [b"application/json", SSE_TYPE[1]])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest_twisted.ensureDeferred
async def test_empty_json_or_stream_is_not_stored(
    harness: ProxyHarness, status: int, data: bytes, media_type: bytes, framing: str
) -> None:
    await harness.start()
    answers = {
        "length": response(b"", status, content_type=media_type),
        "chunked": [head(status, [(b"Content-Type", media_type), CHUNKED]), chunk(b"")],
    }
    harness.upstream.script(any_request, answers[framing])
    assert x_cache(*await ask_twice(harness, data)) == [b"MISS", b"MISS"]
    assert len(store_of(harness)) == 0


@pytest.mark.parametrize("status", [200, 201, 400, 401])
@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (request("/v1/files/f/content"), b"text/plain"),
        (request("/v1/files/f/content"), b"application/octet-stream"),
        (request("/v1/files/f/content"), b"application/json"),
        (post("/v1/moderations", b"{}"), b"text/plain"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_empty_answer_of_any_type_is_not_stored(
    harness: ProxyHarness, status: int, data: bytes, media_type: bytes
) -> None:
    await harness.start(CACHE_PATHS="moderations")
    harness.upstream.script(any_request, response(b"", status, content_type=media_type))
    assert x_cache(*await ask_twice(harness, data)) == [b"MISS", b"MISS"]
    assert len(store_of(harness)) == 0


@pytest.mark.parametrize("data", [request(), post(CHAT, QUESTION), post("/v1/moderations", b"{}")])
@pytest_twisted.ensureDeferred
async def test_html_page_is_not_stored(harness: ProxyHarness, data: bytes) -> None:
    await harness.start(CACHE_PATHS="moderations")
    page = response(b"<html>", content_type=b"text/html; charset=utf-8")
    harness.upstream.script(any_request, page)
    assert x_cache(*await ask_twice(harness, data)) == [b"MISS", b"MISS"]


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize(
    "data",
    [
        request(),
        post(CHAT, QUESTION),
        post("/v1/embeddings", QUESTION),
        post("/v1/moderations", b"{}"),
    ],
    ids=["GET", "completion", "embeddings", "moderation"],
)
@pytest_twisted.ensureDeferred
async def test_error_with_success_status_is_not_stored(
    harness: ProxyHarness, status: int, data: bytes
) -> None:
    await harness.start(CACHE_PATHS="moderations")
    body = b'{"error":{"message":"overloaded"},"data":[0]}'
    harness.upstream.script(any_request, response(body, status))
    answers = await ask_twice(harness, data)
    assert x_cache(*answers) == [b"MISS", b"MISS"]
    assert [(answer.status, answer.body) for answer in answers] == [(status, body)] * 2


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (CHAT, b'{"error":{"message":"overloaded"}}'),
        (CHAT, b'{"choices":[{"index":0,"finish_reason":null}]}'),
        (CHAT, b'{"choices":[{"index":0,"finish_reason":"error"}]}'),
        (CHAT, b'{"choices":['),
        ("/v1/completions", b'{"choices":[{"index":0,"text":"x"}]}'),
        ("/v1/embeddings", b'{"object":"list"}'),
        ("/v1/embeddings", b'{"data":[]}'),
    ],
)
@pytest.mark.parametrize(
    ("coding", "compress"), [(b"", bytes), (b"br", brotli.compress), (b"zstd", zstandard.compress)]
)
@pytest_twisted.ensureDeferred
async def test_failed_answer_with_status_200_is_not_stored(
    harness: ProxyHarness, target: str, body: bytes, coding: bytes, compress: Any
) -> None:
    await harness.start()
    headers = [(b"Content-Encoding", coding)] if coding else []
    harness.upstream.script(target, response(compress(body), headers=headers))
    answers = await ask_twice(harness, post(target, QUESTION))
    assert x_cache(*answers) == [b"MISS", b"MISS"]
    assert answers[0].body == compress(body)
    right = b'{"choices":[{"index":0,"finish_reason":"stop"}],"data":[0]}'
    harness.upstream.script(target, response(compress(right), headers=headers))
    assert x_cache(*await ask_twice(harness, post(target, QUESTION))) == [b"MISS", b"HIT"]


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        (b"gzip", gzip.compress),
        (b"deflate", zlib.compress),
        (b"br", brotli.compress),
        (b"zstd", zstandard.compress),
    ],
)
@pytest.mark.parametrize(
    ("events", "cached"),
    [(EVENTS, b"HIT"), (EVENTS[:-1], b"MISS"), ([*EVENTS[:-1], FAILED, EVENTS[-1]], b"MISS")],
    ids=["complete", "no last event", "error"],
)
@pytest.mark.parametrize(
    "data",
    [request("/v1/responses/r?stream=true"), post(CHAT, QUESTION)],
    ids=["GET", "POST"],
)
@pytest_twisted.ensureDeferred
async def test_compressed_stream_is_stored_only_if_it_is_complete(
    harness: ProxyHarness,
    data: bytes,
    events: list[bytes],
    cached: bytes,
    coding: bytes,
    compress: Callable[[bytes], bytes],
) -> None:
    await harness.start()
    body = compress(b"".join(events))
    fields = [SSE_TYPE, CHUNKED, (b"Content-Encoding", coding)]
    answer = [head(200, fields), chunk(body[:9]), chunk(body[9:]), chunk(b"")]
    harness.upstream.script(any_request, answer)
    answers = await ask_twice(harness, data)
    assert x_cache(*answers) == [b"MISS", cached]
    assert [answer.body for answer in answers] == [body, body]
    assert [answer.get("Content-Encoding") for answer in answers] == [coding, coding]
