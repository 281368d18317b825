"""Namespaces whose stored responses all credentials share."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from tests.integration.cached_requests import (
    JSON,
    MINE,
    THEIRS,
    any_request,
    ask_twice,
    start_numbered,
    x_cache,
)
from tests.support.answers import response
from tests.support.harness import ProxyHarness, eventually, request
from tests.support.requests import Request
from tests.support.steps import Pause


@pytest_twisted.ensureDeferred
async def test_namespace_is_shared_by_all_credentials(harness: ProxyHarness) -> None:
    await start_numbered(harness, CACHE_SHARED="models, embeddings")
    fields = [
        (b"OpenAI-Organization", b"org-mine"),
        (b"x-ratelimit-remaining-requests", b"7"),
        (b"x-request-id", b"req_1"),
        (b"Set-Cookie", b"a=b"),
        (b"X-Other", b"kept"),
    ]
    harness.upstream.script(any_request, response(b'{"data":[0]}', headers=fields))
    for one, other in (
        (request("/v1/models", key=MINE), request("/v1/models", key=THEIRS)),
        (
            request("/v1/embeddings", "POST", JSON, b"{}", key=MINE),
            request("/v1/embeddings", "POST", JSON, b"{}", key=THEIRS),
        ),
    ):
        miss, hit = await ask_twice(harness, one, other)
        assert x_cache(miss, hit) == [b"MISS", b"HIT"]
        assert [name for name, _ in fields if miss.get(name.decode())] == [n for n, _ in fields]
        kept = [pair for pair in fields if pair in hit.headers]
        assert kept == [(b"X-Other", b"kept")]
        assert hit.get("X-Request-Id"), "the request ID of the proxy"
    mine, theirs = request("/v1/files", key=MINE), request("/v1/files", key=THEIRS)
    assert x_cache(*await ask_twice(harness, mine, theirs)) == [b"MISS", b"MISS"]


@pytest_twisted.ensureDeferred
async def test_error_is_not_shared_in_a_shared_namespace(
    harness: ProxyHarness,
) -> None:
    await start_numbered(harness, CACHE_SHARED="models")
    gate = Pause()

    def judged(asked: Request) -> Any:
        wrong = asked.all(b"authorization") == [THEIRS]
        return [gate, response(b"{}", 401)] if wrong else response(b'{"good":1}')

    harness.upstream.script(any_request, judged)
    wrong, right = await harness.connect(), await harness.connect()
    wrong.send(request(key=THEIRS))
    await harness.upstream.wait_for(lambda one: one.paused)
    right.send(request(key=MINE))
    assert harness.daemon is not None
    counters = harness.daemon.context.counters
    await eventually(harness.reactor, lambda: counters.coalesced == 1)
    gate.release()
    assert [(await one.answer()).status for one in (wrong, right)] == [401, 200]
    assert x_cache(*await ask_twice(harness, request(key=MINE), request(key=THEIRS))) == [
        b"HIT",
        b"HIT",
    ]


@pytest_twisted.ensureDeferred
async def test_write_in_shared_namespace_drops_own_parents(harness: ProxyHarness) -> None:
    await start_numbered(harness, CACHE_SHARED="files/public")
    listing, shared = request("/v1/files", key=MINE), request("/v1/files/public", key=THEIRS)
    for data in (listing, shared):
        await harness.ask(data)
    await harness.ask(request("/v1/files/public/a", "DELETE", key=MINE), b"DELETE")
    assert x_cache(await harness.ask(listing), await harness.ask(shared)) == [b"MISS", b"MISS"]


@pytest_twisted.ensureDeferred
async def test_write_of_any_credential_drops_shared_responses(harness: ProxyHarness) -> None:
    await start_numbered(harness, CACHE_SHARED="models")
    asked = request("/v1/models", key=MINE)
    assert x_cache(*await ask_twice(harness, asked)) == [b"MISS", b"HIT"]
    await harness.ask(request("/v1/models/ft", "DELETE", key=THEIRS), b"DELETE")
    assert x_cache(*await ask_twice(harness, asked)) == [b"MISS", b"HIT"]
