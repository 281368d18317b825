"""GETs that are not stored because they change by themselves, and lifetimes that upstream sets."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from tests.integration.cached_requests import (
    CHAT,
    QUESTION,
    SSE_TYPE,
    advance,
    any_request,
    ask_twice,
    x_cache,
)
from tests.support.answers import event, response
from tests.support.harness import ProxyHarness, post, request

COMPLETED = {"type": "response.completed", "response": {"status": "completed"}}
COMPLETION = {
    "object": "chat.completion",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    ],
}


@pytest.mark.parametrize(
    ("target", "cached"),
    [
        ("/v1/models", b"HIT"),
        ("/v1/files?limit=2", b"HIT"),
        ("/v1/files/a/b", b"MISS"),
        ("/v1/responses/r/input_items", b"MISS"),
        ("/v1/organization/users", b"MISS"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_list_is_stored_only_at_the_path_of_its_collection(
    harness: ProxyHarness, target: str, cached: bytes
) -> None:
    await harness.start()
    harness.upstream.script(any_request, response(b'{"object":"list","data":[]}'))
    assert x_cache(*await ask_twice(harness, request(target))) == [b"MISS", cached]


@pytest.mark.parametrize(
    ("events", "cached"),
    [
        ([{"n": 1}], b"MISS"),
        ([{"type": "response.in_progress"}], b"MISS"),
        ([{"n": 1}, COMPLETED], b"HIT"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_event_stream_of_a_get_is_stored_only_with_a_terminal_event(
    harness: ProxyHarness, events: list[dict[str, object]], cached: bytes
) -> None:
    await harness.start()
    stream = b"".join(map(event, events))
    harness.upstream.script(any_request, response(stream, content_type=SSE_TYPE[1]))
    answers = await ask_twice(harness, request("/v1/responses/r?stream=true"))
    assert x_cache(*answers) == [b"MISS", cached]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"Cache-Control", b"no-cache")], 0),
        ([(b"Cache-Control", b"private")], 0),
        ([(b"Cache-Control", b"max-age=60, s-maxage=0")], 0),
        ([(b"Cache-Control", b"max-age=60"), (b"Age", b"60")], 0),
        ([(b"Cache-Control", b"max-age=60"), (b"Age", b"20")], 40),
        ([(b"Cache-Control", b"max-age=60")], 60),
        ([(b"Cache-Control", b"s-maxage=20, max-age=60")], 20),
        ([(b"Expires", b"0")], 0),
        ([(b"Cache-Control", b"max-age=86400")], 300),
        ([(b"Expires", b"Fri, 01 Jan 2100 00:00:00 GMT")], 300),
        ([], 300),
    ],
)
@pytest_twisted.ensureDeferred
async def test_get_is_served_for_the_lesser_of_ttl_and_its_own_lifetime(
    skewed_harness: ProxyHarness, headers: list[tuple[bytes, bytes]], seconds: int
) -> None:
    harness = skewed_harness
    await harness.start()
    harness.upstream.script(any_request, response(b"{}", 200, headers))
    assert x_cache(await harness.ask(request())) == [b"MISS"]
    if seconds:
        advance(harness, seconds - 5)
        assert x_cache(await harness.ask(request())) == [b"HIT"]
        advance(harness, 6)
    assert x_cache(await harness.ask(request())) == [b"MISS"]


@pytest.mark.parametrize("control", [b"no-cache", b"private", b"max-age=0", b"s-maxage=0"])
@pytest_twisted.ensureDeferred
async def test_lifetime_of_a_completion_is_ignored(harness: ProxyHarness, control: bytes) -> None:
    await harness.start()
    headers = [(b"Cache-Control", control), (b"Expires", b"0"), (b"Age", b"9")]
    harness.upstream.script(any_request, response(json.dumps(COMPLETION).encode(), 200, headers))
    assert x_cache(*await ask_twice(harness, post(CHAT, QUESTION))) == [b"MISS", b"HIT"]
