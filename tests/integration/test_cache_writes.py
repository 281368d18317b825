"""Which successful requests drop the cached GETs of their credential."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from tests.integration.cached_requests import (
    CHAT,
    CHUNKED,
    JSON,
    SSE_TYPE,
    ask_twice,
    start_numbered,
    store_of,
    x_cache,
)
from tests.support.answers import chunk, event, head
from tests.support.harness import ProxyHarness, post, request
from tests.support.steps import Pause

FILES, MODELS = request("/v1/files"), request("/v1/models")
STORED = b'{"model":"gpt-4o-mini","store":true}'


def body(**members: Any) -> bytes:
    return json.dumps({"model": "gpt-4o-mini", **members}).encode()


@pytest.mark.parametrize(
    ("target", "document", "files", "models"),
    [
        ("/v1/embeddings", body(), b"HIT", b"HIT"),
        ("/v1/moderations", body(), b"HIT", b"HIT"),
        ("/v1/audio/speech", body(), b"HIT", b"HIT"),
        ("/v1/images/generations", body(), b"HIT", b"HIT"),
        (CHAT, body(), b"HIT", b"HIT"),
        (CHAT, body(store=False), b"HIT", b"HIT"),
        (CHAT, body(store=True), b"MISS", b"HIT"),
        ("/v1/completions", body(store=True), b"MISS", b"HIT"),
        ("/v1/responses", body(store=False), b"HIT", b"HIT"),
        ("/v1/responses", body(), b"MISS", b"HIT"),
        ("/v1/responses", body(store=True), b"MISS", b"HIT"),
        ("/v1/responses/input_tokens", body(), b"HIT", b"HIT"),
        ("/v1/batches", body(), b"MISS", b"HIT"),
        ("/v1/threads/t/runs", body(), b"MISS", b"HIT"),
        ("/v1/fine_tuning/jobs", body(), b"MISS", b"MISS"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_post_drops_what_it_may_change(
    harness: ProxyHarness, target: str, document: bytes, files: bytes, models: bytes
) -> None:
    await start_numbered(harness)
    for data in (FILES, MODELS):
        await harness.ask(data)
    await harness.ask(post(target, document))
    answers = [await harness.ask(data) for data in (FILES, MODELS)]
    assert x_cache(*answers) == [files, models]


@pytest.mark.parametrize(
    ("method", "target", "models"),
    [
        ("DELETE", "/v1/models/ft:gpt-4o-mini", b"MISS"),
        ("POST", "/v1/fine_tuning/jobs/ft/cancel", b"MISS"),
        ("DELETE", "/v1/fine_tuning/checkpoints/ft/permissions/p", b"MISS"),
        ("DELETE", "/v1/files/x", b"HIT"),
        ("PUT", "/v1/modelsx", b"HIT"),
        ("PATCH", "/v1/batches/models-of-mine", b"HIT"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_only_write_about_models_drops_models(
    harness: ProxyHarness, method: str, target: str, models: bytes
) -> None:
    await start_numbered(harness)
    model = request("/v1/models/gpt-4o")
    for data in (FILES, MODELS, model):
        await harness.ask(data)
    await harness.ask(request(target, method), method.encode())
    answers = [await harness.ask(data) for data in (FILES, MODELS, model)]
    assert x_cache(*answers) == [b"MISS", models, models]


@pytest.mark.parametrize("target", [CHAT, "/v1/completions"])
@pytest_twisted.ensureDeferred
async def test_request_to_store_is_never_answered_from_the_cache(
    harness: ProxyHarness, target: str
) -> None:
    await start_numbered(harness)
    for answer in await ask_twice(harness, post(target, STORED)):
        assert answer.get("Cache-Status") == b"goproxyai; fwd=bypass; detail=store"
    assert len(store_of(harness)) == 0
    assert len(harness.upstream.requests) == 2
    only = [*JSON, ("Cache-Control", "only-if-cached")]
    assert (await harness.ask(request(target, "POST", only, STORED))).status == 504


@pytest.mark.parametrize(("store", "files"), [(b"true", b"MISS"), (b"false", b"HIT")])
@pytest_twisted.ensureDeferred
async def test_bypassing_completion_is_a_write_if_it_stores(
    harness: ProxyHarness, store: bytes, files: bytes
) -> None:
    await start_numbered(harness)
    await harness.ask(FILES)
    headers = [*JSON, ("X-Other", "1")]
    answer = await harness.ask(request(CHAT, "POST", headers, b'{"store":%b}' % store))
    assert answer.get("Cache-Status") == b"goproxyai; fwd=bypass; detail=header"
    assert x_cache(await harness.ask(FILES)) == [files]


@pytest_twisted.ensureDeferred
async def test_streamed_request_body_counts_as_a_write(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    await harness.ask(FILES)
    whole = post("/v1/responses", body(store=False))
    wire = await harness.connect()
    wire.send(whole[:-1])
    await harness.upstream.wait_for(lambda one: one.path == "/v1/responses")
    wire.send(whole[-1:])
    assert (await wire.answer()).status == 200
    assert x_cache(await harness.ask(FILES)) == [b"MISS"]


@pytest_twisted.ensureDeferred
async def test_streamed_response_of_a_write_drops_at_its_beginning_and_end(
    harness: ProxyHarness,
) -> None:
    await start_numbered(harness)
    pause = Pause()
    stream = [head(200, [SSE_TYPE, CHUNKED]), chunk(event({"n": 1})), pause, chunk(b"")]
    harness.upstream.script("/v1/threads/t/runs", stream)
    await harness.ask(FILES)
    wire = await harness.connect()
    wire.send(post("/v1/threads/t/runs", body(stream=True)))
    await wire.until(lambda: b'"n"' in wire.received)
    assert x_cache(*await ask_twice(harness, FILES)) == [b"MISS", b"HIT"]
    pause.release()
    await wire.answer()
    assert x_cache(*await ask_twice(harness, FILES)) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_write_of_any_credential_drops_shared_gets_but_models(harness: ProxyHarness) -> None:
    await start_numbered(harness, CACHE_SHARED="models,files")
    for data in (FILES, MODELS):
        await harness.ask(data)
    await harness.ask(request("/v1/batches/b", "DELETE", key=b"Bearer other"), b"DELETE")
    assert x_cache(await harness.ask(FILES), await harness.ask(MODELS)) == [b"MISS", b"HIT"]
