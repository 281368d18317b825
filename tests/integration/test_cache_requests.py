"""Which requests are served from the cache, and which share a key."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.integration.cached_requests import (
    CACHEABLE_POSTS,
    CHAT,
    JSON,
    QUESTION,
    ask_twice,
    start_numbered,
    store_of,
    x_cache,
)
from tests.support.answers import chunk
from tests.support.harness import ProxyHarness, post, request


@pytest.mark.parametrize(
    "data",
    [
        request("/v1/models"),
        request("/v1/models?limit=2&after=a%2Fb"),
        request("/v1/assistants/asst_1"),
        request("/v1/models", headers=[("Connection", "keep-alive"), ("TE", "trailers")]),
        request("/v1/models", "GET", JSON, b'{"a":1}'),
        *(post(target, QUESTION) for target in CACHEABLE_POSTS),
        post(CHAT + "?x=1", QUESTION),
    ],
)
@pytest_twisted.ensureDeferred
async def test_repeated_request_is_a_hit(harness: ProxyHarness, data: bytes) -> None:
    await start_numbered(harness)
    miss, hit = await ask_twice(harness, data)
    assert x_cache(miss, hit) == [b"MISS", b"HIT"]
    assert (hit.status, hit.body) == (miss.status, miss.body)
    assert len(harness.upstream.requests) == 1


@pytest.mark.parametrize(
    ("method", "target", "header", "detail"),
    [
        ("POST", "/v1/files", None, "path"),
        ("POST", "/v1/responses", None, "path"),
        ("POST", "/v1/moderations", None, "path"),
        ("POST", "/v1/chat/completions/", None, "path"),
        ("POST", "/v1//chat/completions", None, "path"),
        ("PUT", "/v1/files/x", None, "method"),
        ("DELETE", "/v1/files/x", None, "method"),
        ("PATCH", "/v1/files/x", None, "method"),
        ("HEAD", "/v1/models", None, "method"),
        ("OPTIONS", "/v1/models", None, "method"),
        ("GET", "/v1/files/x/content", ("Range", "bytes=0-1"), "range"),
        ("GET", "/v1/models", ("Cookie", "a=1"), "header"),
        ("GET", "/v1/models", ("X-Custom", "1"), "header"),
        ("POST", CHAT, ("X-Custom", "1"), "header"),
        ("GET", "/v1/models", ("X-Stainless-Poll-Helper", "true"), "header"),
        ("GET", "/v1/models", ("If-None-Match", '"a"'), "header"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_request_bypasses_cache_with_reason(
    harness: ProxyHarness, method: str, target: str, header: tuple[str, str] | None, detail: str
) -> None:
    await start_numbered(harness)
    headers = [] if header is None else [header]
    body = QUESTION if method == "POST" else b""
    answers = await ask_twice(harness, request(target, method, [*JSON, *headers], body))
    assert x_cache(*answers) == [b"MISS", b"MISS"]
    expected = b"goproxyai; fwd=bypass; detail=" + detail.encode()
    assert [answer.get("Cache-Status") for answer in answers] == [expected] * 2
    assert len(harness.upstream.requests) == 2
    assert len(store_of(harness)) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("User-Agent", "a"), ("User-Agent", "b")),
        (("X-Stainless-Retry-Count", "0"), ("X-Stainless-Retry-Count", "1")),
        (("X-Stainless-Lang", "python"), ("X-Stainless-Something-New", "1")),
        (("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "192.0.2.2")),
        (("X-Request-Id", "1"), ("X-Request-Id", "2")),
        (("traceparent", "00-a"), ("traceparent", "00-b")),
        (("aCCept", "text/plain"), ("Accept", "text/plain")),
    ],
)
@pytest_twisted.ensureDeferred
async def test_neutral_fields_do_not_change_key(
    harness: ProxyHarness, one: tuple[str, str], other: tuple[str, str]
) -> None:
    await start_numbered(harness)
    answers = await ask_twice(harness, post(CHAT, QUESTION, [one]), post(CHAT, QUESTION, [other]))
    assert x_cache(*answers) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_chunked_request_has_same_key_as_request_with_length(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    framed = request(CHAT, "POST", [*JSON, ("Transfer-Encoding", "chunked")])
    framed += chunk(QUESTION[:9]) + chunk(QUESTION[9:]) + chunk(b"")
    answers = await ask_twice(harness, framed, post(CHAT, QUESTION))
    assert x_cache(*answers) == [b"MISS", b"HIT"]
    assert harness.upstream.requests[0].body == QUESTION


# The cache key.


@pytest.mark.parametrize(
    "other",
    [
        request(CHAT, "POST", [("Content-Type", "text/json"), ("Accept", "a")], QUESTION),
        post(CHAT, QUESTION, [("Accept", "b")]),
        post(CHAT, QUESTION),
        post(CHAT, QUESTION, [("Accept", "a"), ("Accept-Encoding", "gzip")]),
        post(CHAT, QUESTION, [("Accept", "a"), ("Accept-Language", "de")]),
        post(CHAT, QUESTION, [("Accept", "a"), ("OpenAI-Organization", "org-1")]),
        post(CHAT, QUESTION, [("Accept", "a"), ("X-OpenAI-Organization", "org-1")]),
        post(CHAT, QUESTION, [("Accept", "a"), ("OpenAI-Project", "proj-1")]),
        post(CHAT, QUESTION, [("Accept", "a"), ("OpenAI-Beta", "x=v1")]),
        post(CHAT, QUESTION, [("Accept", "a"), ("Accept", "a")]),
        post(CHAT, QUESTION + b" ", [("Accept", "a")]),
        post(CHAT + "?a=1", QUESTION, [("Accept", "a")]),
        post(CHAT + "?", QUESTION, [("Accept", "a")]),
        post("/v1/completions", QUESTION, [("Accept", "a")]),
        request(CHAT, "GET", [*JSON, ("Accept", "a")], QUESTION),
        request(CHAT, "POST", [*JSON, ("Accept", "a")], QUESTION, key=b"Bearer sk-good2"),
        request(CHAT, "POST", [*JSON, ("Accept", "a")], QUESTION, key=b""),
        request(CHAT, "POST", [*JSON, ("Accept", "a"), ("Authorization", "b")], QUESTION),
        post(CHAT, QUESTION, [("Accept", "a"), ("Connection", "authorization")]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_request_with_another_key_is_a_miss(harness: ProxyHarness, other: bytes) -> None:
    await start_numbered(harness)
    first = post(CHAT, QUESTION, [("Accept", "a")])
    answers = await ask_twice(harness, first, other)
    assert x_cache(*answers) == [b"MISS", b"MISS"]
    assert answers[0].body != answers[1].body
    assert x_cache(await harness.ask(first), await harness.ask(other)) == [b"HIT", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_clients_with_different_credentials_never_share_a_response(
    harness: ProxyHarness,
) -> None:
    await start_numbered(harness)
    asked = {key: request("/v1/files", key=key) for key in (b"Bearer a", b"Bearer b", b"Bearer")}
    first = {key: (await harness.ask(data)).body for key, data in asked.items()}
    assert len(set(first.values())) == 3
    for key, data in asked.items():
        again = await harness.ask(data)
        assert (again.get("X-Cache"), again.body) == (b"HIT", first[key])


@pytest_twisted.ensureDeferred
async def test_no_credential_is_stored(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    await harness.ask(request("/v1/models", key=b"Bearer sk-good-secret"))
    (entry,) = store_of(harness)
    parts = (entry.key, entry.head, entry.body, entry.bucket.path, entry.bucket.owner)
    assert not any(b"secret" in part for part in parts)
