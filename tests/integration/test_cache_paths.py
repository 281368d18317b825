"""The POSTs that are answered from the cache: ``CACHE_PATHS``, and how long errors are kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from tests.integration.cached_requests import (
    CACHEABLE_POSTS,
    CHAT,
    QUESTION,
    advance,
    any_request,
    ask_twice,
    start_numbered,
    x_cache,
)
from tests.support.answers import response
from tests.support.harness import ProxyHarness, post, request

STATELESS = {"model": "gpt-5", "input": "hi", "store": False}
AZURE = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        (CHAT, [b"MISS", b"HIT"]),
        ("/v1/embeddings", [b"MISS", b"HIT"]),
        (AZURE, [b"MISS", b"HIT"]),
        ("/openai/v1/embeddings", [b"MISS", b"HIT"]),
        ("/v1/x/embeddings", [b"MISS", b"MISS"]),
        ("/openai/files", [b"MISS", b"MISS"]),
        ("/v1/responses", [b"MISS", b"MISS"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_standard_posts_are_cached_under_each_relayed_prefix(
    harness: ProxyHarness, target: str, labels: list[bytes]
) -> None:
    await start_numbered(harness, RELAY_PATHS="/v1/ /openai/")
    body = json.dumps(STATELESS).encode()
    assert x_cache(*await ask_twice(harness, post(target, body))) == labels


@pytest_twisted.ensureDeferred
async def test_cached_post_under_another_prefix_is_no_write(harness: ProxyHarness) -> None:
    await start_numbered(harness, RELAY_PATHS="/v1/ /openai/")
    listed = request("/openai/deployments")
    await harness.ask(listed)
    await harness.ask(post(AZURE, QUESTION))
    assert (await harness.ask(listed)).get("X-Cache") == b"HIT"
    await harness.ask(post("/openai/deployments", b"{}"))
    assert (await harness.ask(listed)).get("X-Cache") == b"MISS"


@pytest.mark.parametrize("given", ["", "moderations", "embeddings, moderations"])
@pytest_twisted.ensureDeferred
async def test_standard_posts_are_always_cached(harness: ProxyHarness, given: str) -> None:
    await start_numbered(harness, CACHE_PATHS=given)
    for target in CACHEABLE_POSTS:
        assert x_cache(*await ask_twice(harness, post(target, QUESTION))) == [b"MISS", b"HIT"]
    expected = [b"MISS", b"HIT"] if "moderations" in given else [b"MISS", b"MISS"]
    assert x_cache(*await ask_twice(harness, post("/v1/moderations", QUESTION))) == expected


@pytest.mark.parametrize(
    ("added", "detail"),
    [
        ({}, None),
        ({"tools": [{"type": "function", "name": "f"}]}, None),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
    ],
)
@pytest.mark.parametrize("target", ["/v1/responses", "/openai/v1/responses"])
@pytest_twisted.ensureDeferred
async def test_response_is_cached_only_without_state(
    harness: ProxyHarness, target: str, added: dict[str, Any], detail: str | None
) -> None:
    await start_numbered(harness, CACHE_PATHS="responses", RELAY_PATHS="/v1/ /openai/")
    body = json.dumps(STATELESS | added).encode()
    answers = await ask_twice(harness, post(target, body))
    if detail is None:
        assert x_cache(*answers) == [b"MISS", b"HIT"]
    else:
        expected = f"goproxyai; fwd=bypass; detail={detail}".encode()
        assert [answer.get("Cache-Status") for answer in answers] == [expected] * 2
        assert [one.body for one in harness.upstream.requests] == [body] * 2


@pytest_twisted.ensureDeferred
async def test_request_with_state_is_refused_if_only_the_cache_may_answer(
    harness: ProxyHarness,
) -> None:
    await start_numbered(harness, CACHE_PATHS="responses")
    asked = post("/v1/responses", b"{}", [("Cache-Control", "only-if-cached")])
    answer = await harness.ask(asked)
    assert answer.status == 504
    assert json.loads(answer.body)["error"]["code"] == "only_if_cached"
    assert len(harness.upstream.requests) == 0


# Errors


def error(status: int, media_type: bytes = b"application/json") -> bytes:
    return response(b'{"error":{}}', status, content_type=media_type)


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("headers", [[], [("X-Cache-TTL", "1h")]])
@pytest_twisted.ensureDeferred
async def test_error_is_kept_for_ten_seconds_at_most(
    skewed_harness: ProxyHarness, status: int, headers: list[tuple[str, str]]
) -> None:
    await skewed_harness.start(CACHE_STALE="1h")
    skewed_harness.upstream.script(any_request, error(status))
    asked = post(CHAT, QUESTION, [*headers, ("Cache-Control", "max-stale=600")])
    assert x_cache(*await ask_twice(skewed_harness, asked)) == [b"MISS", b"HIT"]
    advance(skewed_harness, 9)
    assert (await skewed_harness.ask(asked)).get("X-Cache") == b"HIT"
    advance(skewed_harness, 1)
    assert (await skewed_harness.ask(asked)).get("Cache-Status") == b"goproxyai; fwd=stale"


@pytest.mark.parametrize(
    ("settings", "headers", "lifetime"),
    [
        ({"CACHE_ERROR_TTL": "1m"}, [], 60),
        ({"CACHE_ERROR_TTL": "1h", "CACHE_TTL": "2m"}, [], 120),
        ({"CACHE_ERROR_TTL": "1m"}, [("X-Cache-TTL", "5")], 5),
        ({"CACHE_ERROR_TTL": "0"}, [("X-Cache-TTL", "5")], 0),
    ],
)
@pytest_twisted.ensureDeferred
async def test_error_is_kept_for_the_shorter_lifetime(
    skewed_harness: ProxyHarness,
    settings: dict[str, str],
    headers: list[tuple[str, str]],
    lifetime: int,
) -> None:
    await skewed_harness.start(**settings)
    skewed_harness.upstream.script(any_request, error(400))
    asked = post(CHAT, QUESTION, headers)
    answers = await ask_twice(skewed_harness, asked)
    assert x_cache(*answers) == [b"MISS", b"HIT" if lifetime else b"MISS"]
    advance(skewed_harness, lifetime)
    assert (await skewed_harness.ask(asked)).get("X-Cache") == b"MISS"


@pytest.mark.parametrize("media_type", [b"text/html", b"text/plain", b"text/event-stream"])
@pytest_twisted.ensureDeferred
async def test_error_that_is_not_json_is_not_stored(
    harness: ProxyHarness, media_type: bytes
) -> None:
    await harness.start()
    harness.upstream.script(any_request, error(400, media_type))
    assert x_cache(*await ask_twice(harness, post(CHAT, QUESTION))) == [b"MISS", b"MISS"]


@pytest_twisted.ensureDeferred
async def test_stored_error_does_not_replace_a_failure(skewed_harness: ProxyHarness) -> None:
    await skewed_harness.start(CACHE_STALE="1h")
    skewed_harness.upstream.script(any_request, error(400))
    asked = post(CHAT, QUESTION)
    await skewed_harness.ask(asked)
    advance(skewed_harness, 11)
    skewed_harness.upstream.script(any_request, response(b"{}", 500))
    assert (await skewed_harness.ask(asked)).status == 500
