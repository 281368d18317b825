"""What is answered from the cache, what is put into it, and what drops it."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from goproxyai.daemon import maintenance
from goproxyai.proxy.recorder import PIECE_OVERHEAD_BYTES
from goproxyai.proxy.replay import TimedReplay
from goproxyai.reactor.socket_write import unsent_bytes
from tests.support.answers import chunk, event, head, response, sse
from tests.support.harness import Answer, ProxyHarness, SkewedReactor, eventually, post, request
from tests.support.requests import Request
from tests.support.steps import Close, Pause

JSON = [("Content-Type", "application/json")]
CHAT = "/v1/chat/completions"
ASKED = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
POSTS = (CHAT, "/v1/completions", "/v1/embeddings")
SSE_TYPE = (b"Content-Type", b"text/event-stream")
CHUNKED = (b"Transfer-Encoding", b"chunked")


def numbered(request: Request) -> bytes:
    """A new answer for each request: what is the same twice was stored."""
    answer = response(b'{"n":%d}' % request.number)
    return answer[: -len(b'{"n":1}')] if request.method == b"HEAD" else answer


def anything(_: Request) -> bool:
    return True


async def started(harness: ProxyHarness, **texts: str) -> ProxyHarness:
    await harness.start(**texts)
    harness.upstream.script(anything, numbered)
    return harness


async def twice(harness: ProxyHarness, first: bytes, second: bytes | None = None) -> list[Answer]:
    """The answers to two requests, one after the other."""
    answers = []
    for data in (first, first if second is None else second):
        answers.append(await harness.ask(data, data.partition(b" ")[0]))
    return answers


def caches(*answers: Answer) -> list[bytes | None]:
    return [answer.get("X-Cache") for answer in answers]


def store(harness: ProxyHarness):
    assert harness.daemon is not None
    kept = harness.daemon.context.store
    assert kept is not None
    return kept


# Which requests.


@pytest.mark.parametrize(
    "data",
    [
        request("/v1/models"),
        request("/v1/models?limit=2&after=a%2Fb"),
        request("/v1/assistants/asst_1"),
        request("/v1/models", headers=[("Connection", "keep-alive"), ("TE", "trailers")]),
        request("/v1/models", "GET", JSON, b'{"a":1}'),
        *(post(target, ASKED) for target in POSTS),
        post(CHAT + "?x=1", ASKED),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_same_request_is_answered_from_the_cache(
    harness: ProxyHarness, data: bytes
) -> None:
    await started(harness)
    miss, hit = await twice(harness, data)
    assert caches(miss, hit) == [b"MISS", b"HIT"]
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
async def test_other_requests_leave_the_cache_aside_and_say_why(
    harness: ProxyHarness, method: str, target: str, header: tuple[str, str] | None, detail: str
) -> None:
    await started(harness)
    headers = [] if header is None else [header]
    body = ASKED if method == "POST" else b""
    answers = await twice(harness, request(target, method, [*JSON, *headers], body))
    assert caches(*answers) == [b"MISS", b"MISS"]
    expected = b"goproxyai; fwd=bypass; detail=" + detail.encode()
    assert [answer.get("Cache-Status") for answer in answers] == [expected] * 2
    assert len(harness.upstream.requests) == 2
    assert len(store(harness)) == 0


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
async def test_fields_without_an_effect_on_the_answer_do_not_count(
    harness: ProxyHarness, one: tuple[str, str], other: tuple[str, str]
) -> None:
    await started(harness)
    answers = await twice(harness, post(CHAT, ASKED, [one]), post(CHAT, ASKED, [other]))
    assert caches(*answers) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_a_chunked_request_is_the_same_as_one_with_a_length(harness: ProxyHarness) -> None:
    await started(harness)
    framed = request(CHAT, "POST", [*JSON, ("Transfer-Encoding", "chunked")])
    framed += chunk(ASKED[:9]) + chunk(ASKED[9:]) + chunk(b"")
    answers = await twice(harness, framed, post(CHAT, ASKED))
    assert caches(*answers) == [b"MISS", b"HIT"]
    assert harness.upstream.requests[0].body == ASKED


# The key.


@pytest.mark.parametrize(
    "other",
    [
        request(CHAT, "POST", [("Content-Type", "text/json"), ("Accept", "a")], ASKED),
        post(CHAT, ASKED, [("Accept", "b")]),
        post(CHAT, ASKED),
        post(CHAT, ASKED, [("Accept", "a"), ("Accept-Encoding", "gzip")]),
        post(CHAT, ASKED, [("Accept", "a"), ("OpenAI-Organization", "org-1")]),
        post(CHAT, ASKED, [("Accept", "a"), ("X-OpenAI-Organization", "org-1")]),
        post(CHAT, ASKED, [("Accept", "a"), ("OpenAI-Project", "proj-1")]),
        post(CHAT, ASKED, [("Accept", "a"), ("OpenAI-Beta", "x=v1")]),
        post(CHAT, ASKED, [("Accept", "a"), ("Accept", "a")]),
        post(CHAT, ASKED + b" ", [("Accept", "a")]),
        post(CHAT + "?a=1", ASKED, [("Accept", "a")]),
        post(CHAT + "?", ASKED, [("Accept", "a")]),
        post("/v1/completions", ASKED, [("Accept", "a")]),
        request(CHAT, "GET", [*JSON, ("Accept", "a")], ASKED),
        request(CHAT, "POST", [*JSON, ("Accept", "a")], ASKED, key=b"Bearer sk-good2"),
        request(CHAT, "POST", [*JSON, ("Accept", "a")], ASKED, key=b""),
        request(CHAT, "POST", [*JSON, ("Accept", "a"), ("Authorization", "b")], ASKED),
        post(CHAT, ASKED, [("Accept", "a"), ("Connection", "authorization")]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_request_that_differs_in_its_key_is_another_one(
    harness: ProxyHarness, other: bytes
) -> None:
    await started(harness)
    first = post(CHAT, ASKED, [("Accept", "a")])
    answers = await twice(harness, first, other)
    assert caches(*answers) == [b"MISS", b"MISS"]
    assert answers[0].body != answers[1].body
    assert caches(await harness.ask(first), await harness.ask(other)) == [b"HIT", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_two_clients_never_share_an_answer(harness: ProxyHarness) -> None:
    await started(harness)
    asked = {key: request("/v1/files", key=key) for key in (b"Bearer a", b"Bearer b", b"Bearer")}
    first = {key: (await harness.ask(data)).body for key, data in asked.items()}
    assert len(set(first.values())) == 3
    for key, data in asked.items():
        again = await harness.ask(data)
        assert (again.get("X-Cache"), again.body) == (b"HIT", first[key])


@pytest_twisted.ensureDeferred
async def test_no_credential_is_stored(harness: ProxyHarness) -> None:
    await started(harness)
    await harness.ask(request("/v1/models", key=b"Bearer sk-good-secret"))
    (entry,) = store(harness)
    parts = (entry.key, entry.head, entry.body, entry.bucket.path, entry.bucket.owner)
    assert not any(b"secret" in part for part in parts)


# Which answers.


@pytest.mark.parametrize("status", [200, 201, 400, 401])
@pytest.mark.parametrize("data", [request(), post(CHAT, ASKED)], ids=["GET", "POST"])
@pytest_twisted.ensureDeferred
async def test_these_statuses_are_stored(harness: ProxyHarness, status: int, data: bytes) -> None:
    await harness.start()
    harness.upstream.script(anything, response(b'{"a":1}', status, [(b"X-Mine", b"1")]))
    miss, hit = await twice(harness, data)
    assert caches(miss, hit) == [b"MISS", b"HIT"]
    assert (hit.status, hit.reason, hit.body) == (miss.status, miss.reason, miss.body)
    assert hit.get("X-Mine") == b"1"
    assert hit.all("Content-Length") == [b"7"]


@pytest.mark.parametrize("status", [202, 203, 206, 301, 403, 404, 409, 429, 500, 502, 503, 504])
@pytest_twisted.ensureDeferred
async def test_other_statuses_are_not(harness: ProxyHarness, status: int) -> None:
    await harness.start()
    harness.upstream.script(anything, response(b'{"a":1}', status))
    answers = await twice(harness, request())
    assert [answer.status for answer in answers] == [status, status]
    assert caches(*answers) == [b"MISS", b"MISS"]
    assert len(harness.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_cookies_reach_the_client_they_were_set_for_alone(harness: ProxyHarness) -> None:
    await harness.start()
    cookies = [(b"Set-Cookie", b"a=1"), (b"X-Two", b"b"), (b"set-cookie", b"c=2")]
    harness.upstream.script(anything, response(b"{}", 200, cookies))
    miss, hit = await twice(harness, request())
    assert miss.all("Set-Cookie") == [b"a=1", b"c=2"]
    assert hit.get("X-Cache") == b"HIT"
    assert hit.all("Set-Cookie") == []
    assert hit.get("X-Two") == b"b"


EVENTS = [event({"n": n}) for n in range(5)] + [b"data: [DONE]\n\n"]
FAILED = event({"error": {"message": "overloaded"}})


@pytest_twisted.ensureDeferred
async def test_a_stream_that_ended_is_replayed_byte_for_byte_as_a_stream(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, sse(EVENTS, 0))
    miss, hit = await twice(harness, post(CHAT, ASKED))
    assert caches(miss, hit) == [b"MISS", b"HIT"]
    assert miss.body == hit.body == b"".join(EVENTS)
    assert hit.get("Content-Type") == miss.get("Content-Type")
    assert hit.get("Transfer-Encoding") == b"chunked"
    assert hit.get("Content-Length") is None


@pytest.mark.parametrize(
    "answer",
    [
        [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), chunk(b"")],
        [head(200, [SSE_TYPE]), *EVENTS, Close()],
        [head(200, [SSE_TYPE]), b'data: {"type":"response.completed"}\n\n', Close()],
    ],
    ids=["its framing", "done", "completed"],
)
@pytest_twisted.ensureDeferred
async def test_a_stream_ends_well_by_its_framing_or_its_own_words(
    harness: ProxyHarness, answer: list[bytes]
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, answer)
    miss, hit = await twice(harness, post(CHAT, ASKED))
    assert caches(miss, hit) == [b"MISS", b"HIT"]
    assert miss.body == hit.body


@pytest_twisted.ensureDeferred
async def test_a_stream_and_a_whole_answer_are_never_each_others(harness: ProxyHarness) -> None:
    await started(harness)
    plain = ASKED[:-1] + b',"stream":false}'
    asked = [ASKED, plain, plain.replace(b"false", b"true")]
    first = [await harness.ask(post(CHAT, body)) for body in asked]
    assert len({answer.body for answer in first}) == 3
    assert caches(*[await harness.ask(post(CHAT, body)) for body in asked]) == [b"HIT"] * 3


@pytest_twisted.ensureDeferred
async def test_a_stored_stream_is_ended_by_the_connection_for_http_1_0(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, sse(EVENTS, 0))
    data = post(CHAT, ASKED)
    _, hit = await twice(harness, data, data.replace(b"HTTP/1.1", b"HTTP/1.0"))
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
        [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), chunk(FAILED), chunk(b"")],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(FAILED), chunk(EVENTS[-1]), chunk(b"")],
    ],
    ids=[
        "length",
        "chunks",
        "last chunk",
        "until the connection ends",
        "no stream until the connection ends",
        "in the middle of an event",
        "in an error",
        "in an error, but done",
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_answer_that_may_be_cut_is_not_stored(
    harness: ProxyHarness, answer: list[bytes]
) -> None:
    await harness.start()
    harness.upstream.script(CHAT, answer)
    answers = await twice(harness, post(CHAT, ASKED))
    assert caches(*answers) == [b"MISS", b"MISS"]
    assert len(store(harness)) == store(harness).reserved == 0


@pytest_twisted.ensureDeferred
async def test_a_stream_whose_client_left_is_not_stored(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(CHAT, [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), Pause()])
    wire = await harness.connect()
    wire.send(post(CHAT, ASKED))
    await wire.until(lambda: EVENTS[0] in wire.received)
    assert store(harness).reserved == len(EVENTS[0]) + PIECE_OVERHEAD_BYTES
    wire.abort()
    await harness.upstream.wait_for(lambda one: one.lost)
    assert len(store(harness)) == store(harness).reserved == 0


@pytest_twisted.ensureDeferred
async def test_a_chunked_answer_is_replayed_with_its_length(harness: ProxyHarness) -> None:
    await harness.start()
    kind = (b"Content-Type", b"application/json")
    parts = [chunk(b'{"a":'), chunk(b"1}"), chunk(b"")]
    harness.upstream.script(CHAT, [head(200, [kind, CHUNKED]), *parts])
    miss, hit = await twice(harness, post(CHAT, ASKED))
    assert (miss.get("Transfer-Encoding"), miss.get("Content-Length")) == (b"chunked", None)
    assert (hit.get("Transfer-Encoding"), hit.get("Content-Length")) == (None, b"7")
    assert miss.body == hit.body == b'{"a":1}'


@pytest.mark.parametrize(
    ("headers", "cached"),
    [
        ([(b"Cache-Control", b"no-store")], b"MISS"),
        ([(b"Cache-Control", b"private, No-Store")], b"MISS"),
        ([(b"Cache-Control", b"private")], b"HIT"),
        ([(b"Vary", b"*")], b"MISS"),
        ([(b"Vary", b"Accept-Encoding"), (b"Vary", b"*")], b"MISS"),
        ([(b"Vary", b"User-Agent")], b"MISS"),
        ([(b"Vary", b"Accept-Encoding, Authorization")], b"HIT"),
        ([(b"Vary", b"Origin")], b"HIT"),  # with an Origin it would have bypassed
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_response_may_forbid_to_store_it(
    harness: ProxyHarness, headers: list[tuple[bytes, bytes]], cached: bytes
) -> None:
    await harness.start()
    harness.upstream.script(anything, response(b"{}", 200, headers))
    assert caches(*await twice(harness, request())) == [b"MISS", cached]


@pytest.mark.parametrize("coding", ["", "gzip", "deflate"])
@pytest.mark.parametrize(
    ("document", "cached"),
    [
        ({"status": "in_progress"}, b"MISS"),
        ({"status": "queued"}, b"MISS"),
        ({"id": "batch", "status": "validating"}, b"MISS"),
        ({"status": "completed"}, b"HIT"),
        ({"status": "failed"}, b"HIT"),
        ({"data": [{"status": "in_progress"}]}, b"HIT"),
        ({"status": 3}, b"HIT"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_still_changes_is_not_stored(
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
    harness.upstream.script(anything, response(body, 200, headers))
    miss, again = await twice(harness, request("/v1/batches/b", headers=[("Accept-Encoding", "*")]))
    assert caches(miss, again) == [b"MISS", cached]
    assert miss.body == again.body == body
    completion = await twice(harness, post(CHAT, ASKED))
    assert caches(*completion) == [b"MISS", b"HIT"]


# Cache-Control of the request.


@pytest.mark.parametrize("field", [("Cache-Control", "no-cache"), ("Pragma", "no-cache")])
@pytest_twisted.ensureDeferred
async def test_no_cache_asks_upstream_and_stores_what_it_says(
    harness: ProxyHarness, field: tuple[str, str]
) -> None:
    await started(harness)
    first, second = await twice(harness, request(), request(headers=[field]))
    assert caches(first, second) == [b"MISS", b"MISS"]
    assert second.get("Cache-Status") == b"goproxyai; fwd=request"
    third = await harness.ask(request())
    assert (third.get("X-Cache"), third.body) == (b"HIT", second.body)


@pytest_twisted.ensureDeferred
async def test_no_store_neither_reads_nor_stores(harness: ProxyHarness) -> None:
    await started(harness)
    unseen = request(headers=[("Cache-Control", "no-store")])
    first, second = await twice(harness, unseen, request())
    assert caches(first, second) == [b"MISS", b"MISS"]
    assert first.get("Cache-Status") == b"goproxyai; fwd=bypass; detail=no-store"
    again, stored = await twice(harness, unseen, request())
    assert again.body != second.body
    assert (stored.get("X-Cache"), stored.body) == (b"HIT", second.body)


@pytest_twisted.ensureDeferred
async def test_max_age_0_is_content_with_nothing_stored(harness: ProxyHarness) -> None:
    await started(harness)
    first, second = await twice(
        harness, request(), request(headers=[("Cache-Control", "max-age=0")])
    )
    assert caches(first, second) == [b"MISS", b"MISS"]
    assert second.get("Cache-Status") == b"goproxyai; fwd=request"
    assert (await harness.ask(request())).body == second.body


@pytest.mark.parametrize(
    ("method", "target", "control", "hit"),
    [
        ("GET", "/v1/models", "only-if-cached", True),
        ("GET", "/v1/models", "only-if-cached, max-age=60", True),
        ("GET", "/v1/models", "only-if-cached, max-age=0", False),
        ("GET", "/v1/models", "only-if-cached, no-cache", False),
        ("GET", "/v1/unheard-of", "only-if-cached", False),
        ("GET", "/v1/unheard-of", "no-store, only-if-cached", False),
        ("DELETE", "/v1/models", "only-if-cached", False),
        ("POST", "/v1/files", "only-if-cached", False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_only_if_cached_never_asks_upstream(
    harness: ProxyHarness, method: str, target: str, control: str, hit: bool
) -> None:
    await started(harness)
    await harness.ask(request())
    answer = await harness.ask(request(target, method, [("Cache-Control", control)]))
    assert len(harness.upstream.requests) == 1
    if hit:
        assert (answer.status, answer.get("X-Cache")) == (200, b"HIT")
        return
    assert answer.status == 504
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"]) == ("proxy_error", "only_if_cached")
    assert answer.get("X-Cache") == b"MISS"


# Size and time.


@pytest_twisted.ensureDeferred
async def test_an_answer_is_served_for_its_time_and_no_longer(skewed_harness: ProxyHarness) -> None:
    await started(skewed_harness)
    await skewed_harness.ask(request())
    skewed_harness.advance(299)
    late = await skewed_harness.ask(request())
    assert (late.get("X-Cache"), late.get("Age")) == (b"HIT", b"299")
    skewed_harness.advance(1)
    assert caches(await skewed_harness.ask(request())) == [b"MISS"]
    assert len(skewed_harness.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_what_nobody_asks_for_again_is_evicted_all_the_same(
    skewed_harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EVICTION_INTERVAL_SECONDS", 0.05)
    await started(skewed_harness, CACHE_TTL="1m")
    await skewed_harness.ask(request())
    assert len(store(skewed_harness)) == 1
    skewed_harness.advance(60)
    await eventually(skewed_harness.reactor, lambda: len(store(skewed_harness)) == 0)
    assert (store(skewed_harness).bytes, store(skewed_harness).expirations) == (0, 1)


@pytest_twisted.ensureDeferred
async def test_max_age_bounds_the_age_of_what_is_taken(skewed_harness: ProxyHarness) -> None:
    await started(skewed_harness)
    await skewed_harness.ask(request())
    skewed_harness.advance(10)
    content = await skewed_harness.ask(request(headers=[("Cache-Control", "max-age=60")]))
    demanding = await skewed_harness.ask(request(headers=[("Cache-Control", "max-age=9")]))
    assert caches(content, demanding) == [b"HIT", b"MISS"]


THEIRS_TOO = [(b"Age", b"7"), (b"X-Cache", b"theirs")]


@pytest_twisted.ensureDeferred
async def test_a_hit_says_when_it_was_stored_how_old_it_is_and_how_long_it_lasts(
    skewed_harness: ProxyHarness,
) -> None:
    await skewed_harness.start()
    skewed_harness.upstream.script(anything, response(b"{}", 200, THEIRS_TOO))
    before = int(time.time())
    miss = await skewed_harness.ask(request())
    after = time.time()
    skewed_harness.advance(9)
    hit = await skewed_harness.ask(request())
    assert miss.all("X-Cache") == [b"MISS"]
    assert miss.get("X-Cache-Timestamp") is None
    assert miss.get("Cache-Status") == b"goproxyai; fwd=miss"
    assert miss.all("Age") == [b"7"]
    assert hit.all("X-Cache") == [b"HIT"]
    stamp = (hit.get("X-Cache-Timestamp") or b"").decode()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", stamp)  # RFC 3339
    assert before <= datetime.fromisoformat(stamp).timestamp() <= after
    assert hit.all("Age") == [b"16"]
    assert hit.all("Cache-Status") in (
        [b"goproxyai; hit; ttl=290"],
        [b"goproxyai; hit; ttl=291"],
    )
    for answer in (miss, hit):
        assert answer.all("X-Proxy") == [b"goproxyai"]
        assert answer.all("Via") == [b"1.1 goproxyai"]
        assert b"dur=" in (answer.get("Server-Timing") or b"")
    parts = ("Date", "Content-Type", "Content-Length")
    assert [hit.all(part) for part in parts] == [miss.all(part) for part in parts]


@pytest.mark.parametrize("texts", [{"CACHE_TTL": "0"}, {"MAX_CACHE_SIZE": "0"}])
@pytest_twisted.ensureDeferred
async def test_a_cache_that_is_turned_off_does_nothing(
    harness: ProxyHarness, texts: dict[str, str]
) -> None:
    await started(harness, **texts)
    for data in (request(), post(CHAT, ASKED)):
        answers = await twice(harness, data)
        assert caches(*answers) == [b"MISS", b"MISS"]
        assert answers[0].get("Cache-Status") == b"goproxyai; fwd=bypass; detail=off"
    cached = await harness.ask(request(headers=[("Cache-Control", "only-if-cached")]))
    assert cached.status == 504
    cleared = await harness.ask(request("/cache", "DELETE"))
    assert cleared.status == 200
    assert json.loads((await harness.ask(request("/stats"))).body)["cache"]["item_count"] == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(("size", "cached"), [(100_000, b"HIT"), (105_000, b"MISS")])
@pytest_twisted.ensureDeferred
async def test_what_is_larger_than_a_tenth_of_the_cache_is_not_stored(
    harness: ProxyHarness, size: int, cached: bytes, framing: str
) -> None:
    await harness.start(MAX_CACHE_SIZE="1")
    body = b"x" * size
    pieces = [chunk(body[at : at + 9_999]) for at in range(0, size, 9_999)]
    harness.upstream.script("/v1/length", response(body, content_type=b"text/plain"))
    harness.upstream.script("/v1/chunked", [head(200, [CHUNKED]), *pieces, chunk(b"")])
    answers = await twice(harness, request(f"/v1/{framing}"))
    assert caches(*answers) == [b"MISS", cached]
    assert [answer.body for answer in answers] == [body, body]
    assert store(harness).reserved == 0


@pytest_twisted.ensureDeferred
async def test_the_least_recently_used_makes_room(harness: ProxyHarness) -> None:
    await harness.start(MAX_CACHE_SIZE="1")
    harness.upstream.script(anything, response(b"x" * 90_000, content_type=b"text/plain"))
    for number in range(20):
        await harness.ask(request(f"/v1/{number}"))
        assert caches(await harness.ask(request("/v1/0"))) == [b"HIT"]
    assert store(harness).bytes <= 1024 * 1024
    assert store(harness).evictions == 20 - len(store(harness))
    assert caches(await harness.ask(request("/v1/1"))) == [b"MISS"]


@pytest_twisted.ensureDeferred
async def test_a_large_hit_is_written_as_fast_as_the_client_reads(harness: ProxyHarness) -> None:
    await harness.start()
    body = bytes(range(256)) * 4096 * 9
    harness.upstream.script("/v1/large", response(body, content_type=b"text/plain"))
    miss = await harness.ask(request("/v1/large"))
    assert len(store(harness)) == 1
    wire = await harness.connect()
    wire.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    wire.pause_reading()
    wire.send(request("/v1/large"))
    assert harness.daemon is not None
    connections = harness.daemon.listeners.factory.connections
    await eventually(harness.reactor, lambda: any(unsent_bytes(c.transport) for c in connections))
    (connection,) = [c for c in connections if unsent_bytes(c.transport)]
    assert not (await harness.logged())[1:], "it is over before it was read"
    peak = unsent_bytes(connection.transport)
    wire.resume_reading()

    def whole() -> bool:
        nonlocal peak
        peak = max(peak, unsent_bytes(connection.transport))
        return len(wire.received) > len(body)

    await wire.until(whole, 30)
    hit = await wire.answer()
    assert caches(miss, hit) == [b"MISS", b"HIT"]
    assert hit.body == miss.body == body
    assert peak <= 256 * 1024
    wire.send(request("/v1/large/other"))
    assert (await wire.answer()).status == 404


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_in_the_middle_of_a_large_hit_is_noted(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("/v1/large", response(b"x" * 9_000_000, content_type=b"text/plain"))
    await harness.ask(request("/v1/large"))
    wire = await harness.connect()
    wire.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    wire.pause_reading()
    wire.send(request("/v1/large"))
    assert harness.daemon is not None
    connections = harness.daemon.listeners.factory.connections
    await eventually(harness.reactor, lambda: any(unsent_bytes(c.transport) for c in connections))
    wire.abort()
    await eventually(harness.reactor, lambda: not connections)
    event = (await harness.logged(2))[1]
    assert (event["cache"], event["ended"], event["status"]) == ("HIT", "client_gone", 200)
    assert event["bytes_out"] < 9_000_000


# The pace of a replay.


class Paced(SkewedReactor):
    """A reactor whose timers wait for the test: by :meth:`pass_time`."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.clock = Clock()

    def callLater(self, delay: float, function: Any, *args: Any, **kw: Any) -> Any:
        if delay > 0 and isinstance(getattr(function, "__self__", None), TimedReplay):
            return self.clock.callLater(delay, function, *args, **kw)
        return self._reactor.callLater(delay, function, *args, **kw)

    def pass_time(self, seconds: float) -> None:
        self.skew += seconds
        self.clock.advance(seconds)


@pytest.fixture
def paced(harness: ProxyHarness) -> Paced:
    """The reactor of *stand*, whose paced replays wait for the test."""
    harness.reactor = Paced(harness.reactor)
    return harness.reactor


PACED = [("X-Cache-Replay", "paced")]


async def recorded(harness: ProxyHarness, clock: Paced) -> bytes:
    """Let a stream come whose events are ten seconds apart; gives its body."""
    gates = [Pause() for _ in EVENTS]
    steps: list[Any] = [head(200, [SSE_TYPE, CHUNKED])]
    for gate, each in zip(gates, EVENTS, strict=True):
        steps += [gate, chunk(each)]
    harness.upstream.script(CHAT, [*steps, chunk(b"")])
    wire = await harness.connect()
    wire.send(post(CHAT, ASKED))
    for gate, each in zip(gates, EVENTS, strict=True):
        await harness.upstream.wait_for(lambda one: one.paused)
        gate.release()
        await wire.until(lambda each=each: each in wire.received)  # type: ignore[misc]
        clock.pass_time(10.0)
    return (await wire.answer()).body


@pytest_twisted.ensureDeferred
async def test_a_stream_is_replayed_at_once_or_as_it_came(
    harness: ProxyHarness, paced: Paced
) -> None:
    await harness.start()
    body = await recorded(harness, paced)
    at_once = await harness.ask(post(CHAT, ASKED))
    assert (at_once.get("X-Cache"), at_once.body) == (b"HIT", body)
    wire = await harness.connect()
    wire.send(post(CHAT, ASKED, PACED))
    for number, each in enumerate(EVENTS[:-1]):
        await wire.until(lambda each=each: each in wire.received)  # type: ignore[misc]
        assert EVENTS[number + 1] not in wire.received
        paced.pass_time(9.0)
        await eventually(harness.reactor, lambda: True)
        assert EVENTS[number + 1] not in wire.received
        paced.pass_time(1.1)
    hit = await wire.answer()
    assert hit.body == body
    assert (hit.get("Transfer-Encoding"), hit.get("Content-Length")) == (b"chunked", None)
    assert b"; detail=paced" in (hit.get("Cache-Status") or b"")
    assert "X-Cache-Replay" not in str(harness.upstream.requests[0].headers)
    wire.send(post(CHAT, ASKED))
    assert caches(await wire.answer()) == [b"HIT"]
    assert [one["cache"] for one in await harness.logged(4)] == ["MISS", "HIT", "HIT", "HIT"]


@pytest_twisted.ensureDeferred
async def test_a_paced_replay_catches_up_and_never_takes_longer_than_the_original(
    harness: ProxyHarness, paced: Paced
) -> None:
    await harness.start()
    body = await recorded(harness, paced)
    wire = await harness.connect()
    wire.send(post(CHAT, ASKED, PACED))
    await wire.until(lambda: EVENTS[0] in wire.received)
    paced.pass_time(10.0 * len(EVENTS))
    assert (await wire.answer()).body == body


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_a_paced_replay_leaves_no_timer(
    harness: ProxyHarness, paced: Paced
) -> None:
    await harness.start()
    await recorded(harness, paced)
    wire = await harness.connect()
    wire.send(post(CHAT, ASKED, PACED))
    await wire.until(lambda: EVENTS[0] in wire.received)
    wire.abort()
    assert harness.daemon is not None
    await eventually(harness.reactor, lambda: not paced.clock.getDelayedCalls())
    assert (await harness.logged(2))[1]["ended"] == "client_gone"


@pytest_twisted.ensureDeferred
async def test_what_is_no_stream_has_no_pace(harness: ProxyHarness) -> None:
    await started(harness)
    asked = post(CHAT, ASKED, PACED)
    miss, hit = await twice(harness, asked)
    assert (caches(miss, hit), hit.body) == ([b"MISS", b"HIT"], miss.body)


# How long: X-Cache-TTL, max-stale, and upstreams that fail.


@pytest.mark.parametrize(
    ("given", "lives", "until"),
    [("90", 89.0, 91.0), ("1h", 3599.0, 3601.0), ("30h", 7199.0, 7201.0), ("junk", 299.0, 301.0)],
)
@pytest_twisted.ensureDeferred
async def test_a_request_says_how_long_its_own_answer_is_kept(
    skewed_harness: ProxyHarness, given: str, lives: float, until: float
) -> None:
    await started(skewed_harness, CACHE_MAX_TTL="2h")
    asked = request(headers=[("X-Cache-TTL", given)])
    other = request("/v1/other")
    for data in (asked, other):
        await skewed_harness.ask(data)
    skewed_harness.advance(lives)
    assert caches(await skewed_harness.ask(request())) == [b"HIT"], "it is no part of the key"
    assert caches(await skewed_harness.ask(other)) == [b"HIT" if lives < 300 else b"MISS"]
    skewed_harness.advance(until - lives)
    assert caches(await skewed_harness.ask(asked)) == [b"MISS"]
    sent = [name.lower() for name, _ in skewed_harness.upstream.requests[0].headers]
    assert b"x-cache-ttl" not in sent


@pytest_twisted.ensureDeferred
async def test_a_time_to_live_of_nothing_stores_nothing(harness: ProxyHarness) -> None:
    await started(harness)
    asked = request(headers=[("X-Cache-TTL", "0")])
    assert caches(*await twice(harness, asked)) == [b"MISS", b"MISS"]
    assert len(store(harness)) == 0


@pytest_twisted.ensureDeferred
async def test_max_stale_takes_what_has_expired_and_is_still_kept(
    skewed_harness: ProxyHarness,
) -> None:
    await started(skewed_harness, CACHE_STALE="10m")
    await skewed_harness.ask(request())
    skewed_harness.advance(360.0)
    for control in ("max-stale=100", "max-stale"):
        stale = await skewed_harness.ask(request(headers=[("Cache-Control", control)]))
        assert stale.get("X-Cache") == b"HIT"
        status = stale.get("Cache-Status") or b""
        assert re.fullmatch(rb"goproxyai; hit; ttl=-(59|60|61)", status)
        assert int(stale.get("Age") or b"") >= 360
    fresh = await skewed_harness.ask(request(headers=[("Cache-Control", "max-stale=10")]))
    assert fresh.get("Cache-Status") == b"goproxyai; fwd=stale"
    assert caches(await skewed_harness.ask(request())) == [b"HIT"]


FAILING = {
    "500": response(b"{}", 500),
    "502": response(b"{}", 502),
    "503": response(b"{}", 503),
    "504 in chunks": [head(504, [CHUNKED]), chunk(b"{}"), Pause()],
    "gone": [Close()],
    "junk": b"junk\r\n\r\n",
}


@pytest.mark.parametrize("asked", [request(), post(CHAT, ASKED)], ids=["flight", "alone"])
@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
@pytest_twisted.ensureDeferred
async def test_what_has_expired_answers_when_upstream_fails(
    skewed_harness: ProxyHarness, failing: Any, asked: bytes
) -> None:
    await started(skewed_harness, CACHE_STALE="10m")
    first = await skewed_harness.ask(asked)
    skewed_harness.advance(360.0)
    skewed_harness.upstream.script(anything, failing)
    stale = await skewed_harness.ask(asked)
    assert (stale.status, stale.body, stale.get("X-Cache")) == (200, first.body, b"HIT")
    status = stale.get("Cache-Status") or b""
    assert re.fullmatch(rb"goproxyai; hit; ttl=-\d+; detail=stale-if-error", status)
    assert int(stale.get("Age") or b"") >= 360
    logged = (await skewed_harness.logged(2))[1]
    assert logged["cache"] == "STALE"
    assert logged["detail"]
    stats = json.loads((await skewed_harness.ask(request("/stats"))).body)
    assert stats["cache"]["stale_if_error"] == 1
    skewed_harness.advance(600.0)
    skewed_harness.upstream.script(anything, response(b"{}", 503))
    assert (await skewed_harness.ask(asked)).status == 503


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
@pytest_twisted.ensureDeferred
async def test_what_has_expired_answers_the_same_requests_pipelined_behind_it_too(
    skewed_harness: ProxyHarness, failing: Any
) -> None:
    await started(skewed_harness, CACHE_STALE="10m")
    first = await skewed_harness.ask(request())
    skewed_harness.advance(360.0)
    skewed_harness.upstream.script(anything, failing)
    wire = await skewed_harness.connect()
    wire.send(request() * 3)
    assert [(await wire.answer()).body for _ in range(3)] == [first.body] * 3
    assert len(skewed_harness.upstream.requests) >= 4  # a kept connection that died is tried again


@pytest.mark.parametrize(
    ("fields", "control"),
    [([(b"Cache-Control", b"must-revalidate")], ""), ([], "no-cache")],
    ids=["the answer", "the request"],
)
@pytest_twisted.ensureDeferred
async def test_either_side_may_forbid_what_has_expired(
    skewed_harness: ProxyHarness, fields: list[tuple[bytes, bytes]], control: str
) -> None:
    await skewed_harness.start(CACHE_STALE="10m")
    skewed_harness.upstream.script(anything, response(b"{}", headers=fields), times=1)
    await skewed_harness.ask(request())
    skewed_harness.advance(360.0)
    skewed_harness.upstream.script(anything, response(b"{}", 503))
    headers = [("Cache-Control", control)] if control else []
    assert (await skewed_harness.ask(request(headers=headers))).status == 503


@pytest.mark.parametrize("later", [60.0, 360.0])
@pytest_twisted.ensureDeferred
async def test_max_age_holds_when_upstream_fails(
    skewed_harness: ProxyHarness, later: float
) -> None:
    await started(skewed_harness, CACHE_STALE="10m")
    await skewed_harness.ask(request())
    skewed_harness.advance(later)
    skewed_harness.upstream.script(anything, response(b"{}", 503))
    answer = await skewed_harness.ask(request(headers=[("Cache-Control", "max-age=10")]))
    assert answer.status == 503


@pytest_twisted.ensureDeferred
async def test_a_longest_time_of_nothing_lets_no_request_choose(harness: ProxyHarness) -> None:
    await started(harness, CACHE_MAX_TTL="0")
    assert caches(*await twice(harness, request(headers=[("X-Cache-TTL", "1")]))) == [
        b"MISS",
        b"HIT",
    ]


@pytest_twisted.ensureDeferred
async def test_without_being_told_nothing_is_kept_for_failures(
    skewed_harness: ProxyHarness,
) -> None:
    await started(skewed_harness)
    await skewed_harness.ask(request())
    skewed_harness.advance(301.0)
    skewed_harness.upstream.script(anything, response(b"{}", 503))
    answer = await skewed_harness.ask(request())
    assert (answer.status, answer.get("Cache-Status")) == (503, b"goproxyai; fwd=miss")


@pytest_twisted.ensureDeferred
async def test_all_who_wait_are_answered_with_what_has_expired(
    skewed_harness: ProxyHarness,
) -> None:
    await started(skewed_harness, CACHE_STALE="10m")
    first = await skewed_harness.ask(request())
    skewed_harness.advance(360.0)
    gate = Pause()
    skewed_harness.upstream.script(anything, [gate, response(b"{}", 503)])
    wires = [await skewed_harness.connect() for _ in range(3)]
    for wire in wires:
        wire.send(request())
    assert skewed_harness.daemon is not None
    counters = skewed_harness.daemon.context.counters
    await eventually(skewed_harness.reactor, lambda: counters.coalesced == 2)
    gate.release()
    answers = [await wire.answer() for wire in wires]
    assert [(answer.status, answer.body) for answer in answers] == [(200, first.body)] * 3
    assert len(skewed_harness.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_a_large_answer_that_has_expired_is_written_as_the_client_reads(
    skewed_harness: ProxyHarness,
) -> None:
    await skewed_harness.start(CACHE_STALE="10m")
    body = b"x" * 3_000_000
    skewed_harness.upstream.script(anything, response(body), times=1)
    await skewed_harness.ask(request())
    skewed_harness.advance(360.0)
    skewed_harness.upstream.script(anything, response(b"{}", 503))
    wire = await skewed_harness.connect()
    wire.send(request())
    await wire.until(lambda: len(wire.received) > len(body), 30)
    assert (await wire.answer()).body == body


# Shared on purpose.


@pytest_twisted.ensureDeferred
async def test_a_namespace_is_shared_by_all_who_ask(harness: ProxyHarness) -> None:
    await started(harness, CACHE_SHARED="models, embeddings")
    fields = [
        (b"OpenAI-Organization", b"org-mine"),
        (b"x-ratelimit-remaining-requests", b"7"),
        (b"x-request-id", b"req_1"),
        (b"Set-Cookie", b"a=b"),
        (b"X-Other", b"kept"),
    ]
    harness.upstream.script(anything, response(b"{}", headers=fields))
    for one, other in (
        (request("/v1/models", key=MINE), request("/v1/models", key=THEIRS)),
        (
            request("/v1/embeddings", "POST", JSON, b"{}", key=MINE),
            request("/v1/embeddings", "POST", JSON, b"{}", key=THEIRS),
        ),
    ):
        miss, hit = await twice(harness, one, other)
        assert caches(miss, hit) == [b"MISS", b"HIT"]
        assert [name for name, _ in fields if miss.get(name.decode())] == [n for n, _ in fields]
        kept = [pair for pair in fields if pair in hit.headers]
        assert kept == [(b"X-Other", b"kept")]
        assert hit.get("X-Request-Id"), "ours"
    mine, theirs = request("/v1/files", key=MINE), request("/v1/files", key=THEIRS)
    assert caches(*await twice(harness, mine, theirs)) == [b"MISS", b"MISS"]


@pytest_twisted.ensureDeferred
async def test_an_error_of_one_credential_is_nobody_elses_in_a_shared_namespace(
    harness: ProxyHarness,
) -> None:
    await started(harness, CACHE_SHARED="models")
    gate = Pause()

    def judged(asked: Request) -> Any:
        wrong = asked.all(b"authorization") == [THEIRS]
        return [gate, response(b"{}", 401)] if wrong else response(b'{"good":1}')

    harness.upstream.script(anything, judged)
    wrong, right = await harness.connect(), await harness.connect()
    wrong.send(request(key=THEIRS))
    await harness.upstream.wait_for(lambda one: one.paused)
    right.send(request(key=MINE))
    assert harness.daemon is not None
    counters = harness.daemon.context.counters
    await eventually(harness.reactor, lambda: counters.coalesced == 1)
    gate.release()
    assert [(await one.answer()).status for one in (wrong, right)] == [401, 200]
    assert caches(*await twice(harness, request(key=MINE), request(key=THEIRS))) == [b"HIT", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_a_write_in_a_shared_namespace_drops_ones_own_above_it(harness: ProxyHarness) -> None:
    await started(harness, CACHE_SHARED="files/public")
    listing, shared = request("/v1/files", key=MINE), request("/v1/files/public", key=THEIRS)
    for data in (listing, shared):
        await harness.ask(data)
    await harness.ask(request("/v1/files/public/a", "DELETE", key=MINE), b"DELETE")
    assert caches(await harness.ask(listing), await harness.ask(shared)) == [b"MISS", b"MISS"]


@pytest_twisted.ensureDeferred
async def test_anybodys_write_drops_what_is_shared(harness: ProxyHarness) -> None:
    await started(harness, CACHE_SHARED="models")
    asked = request("/v1/models", key=MINE)
    assert caches(*await twice(harness, asked)) == [b"MISS", b"HIT"]
    await harness.ask(request("/v1/models/ft", "DELETE", key=THEIRS), b"DELETE")
    assert caches(*await twice(harness, asked)) == [b"MISS", b"HIT"]


# Writes, and clearing.

MINE = b"Bearer mine"
THEIRS = b"Bearer theirs"


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH"])
@pytest_twisted.ensureDeferred
async def test_a_write_drops_what_its_credential_has_of_the_path_and_its_parents(
    harness: ProxyHarness, method: str
) -> None:
    await started(harness)
    dropped = ["/v1/files/x", "/v1/files/x?a=1", "/v1/files", "/v1/files?limit=2", "/v1/files/"]
    kept = ["/v1/files/y", "/v1/files/x/content", "/v1/models"]
    for key in (MINE, THEIRS):
        for target in dropped + kept:
            await harness.ask(request(target, key=key))
    await harness.ask(request(CHAT, "POST", JSON, ASKED, key=MINE))
    await harness.ask(request("/v1/files/x", method, key=MINE))
    for target in dropped:
        mine, theirs = request(target, key=MINE), request(target, key=THEIRS)
        assert caches(*await twice(harness, mine, theirs)) == [b"MISS", b"HIT"], target
    for target in kept:
        assert caches(await harness.ask(request(target, key=MINE))) == [b"HIT"], target
    assert caches(await harness.ask(request(CHAT, "POST", JSON, ASKED, key=MINE))) == [b"HIT"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("DELETE", "/v1/files/x", 404),
        ("DELETE", "/v1/files/x", 500),
        ("POST", "/v1/files", 401),
        ("POST", CHAT, 200),
        ("HEAD", "/v1/files", 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_changes_nothing_drops_nothing(
    harness: ProxyHarness, method: str, target: str, status: int
) -> None:
    await started(harness)
    answer = response(b"", status) if method == "HEAD" else response(b"{}", status)
    harness.upstream.script(f"{method} {target}", answer)
    await harness.ask(request("/v1/files"))
    assert (await harness.ask(request(target, method), method.encode())).status == status
    assert caches(await harness.ask(request("/v1/files"))) == [b"HIT"]


@pytest.mark.parametrize(
    ("method", "target"), [("DELETE", "/v1/files/x"), ("DELETE", "/cache")], ids=["write", "clear"]
)
@pytest.mark.parametrize("streaming", [False, True], ids=["before the head", "inside the body"])
@pytest_twisted.ensureDeferred
async def test_an_answer_that_was_overtaken_is_not_stored(
    harness: ProxyHarness, method: str, target: str, streaming: bool
) -> None:
    await started(harness)
    pause = Pause()
    start = [head(200, [(b"Content-Length", b"2")]), b"{"] if streaming else []
    rest = [b"}"] if streaming else [response(b"{}")]
    harness.upstream.script("GET /v1/files", [*start, pause, *rest], times=1)
    wire = await harness.connect()
    wire.send(request("/v1/files"))
    await harness.upstream.wait_for(lambda one: one.paused)
    if streaming:
        await wire.until(lambda: wire.received.endswith(b"{"))
    assert (await harness.ask(request(target, method))).status == 200
    pause.release()
    assert (await wire.answer()).body == b"{}"
    assert len(store(harness)) == store(harness).reserved == 0
    assert caches(*await twice(harness, request("/v1/files"))) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_a_write_of_somebody_else_does_not_overtake(harness: ProxyHarness) -> None:
    await started(harness)
    pause = Pause()
    harness.upstream.script("GET /v1/files", [pause, response(b"{}")], times=1)
    wire = await harness.connect()
    wire.send(request("/v1/files", key=MINE))
    await harness.upstream.wait_for(lambda one: one.paused)
    await harness.ask(request("/v1/files/x", "DELETE", key=THEIRS))
    pause.release()
    await wire.answer()
    assert caches(await harness.ask(request("/v1/files", key=MINE))) == [b"HIT"]


@pytest_twisted.ensureDeferred
async def test_clearing_forgets_everything_at_once(harness: ProxyHarness) -> None:
    await started(harness)
    asked = [request("/v1/models"), request("/v1/files"), post(CHAT, ASKED)]
    for data in asked:
        await harness.ask(data)
    assert len(store(harness)) == 3
    cleared = await harness.ask(request("/cache", "DELETE"))
    assert json.loads(cleared.body) == {"message": "Cache cleared successfully"}
    assert (len(store(harness)), store(harness).bytes) == (0, 0)
    for data in asked:
        assert caches(*await twice(harness, data)) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_clearing_a_path_forgets_whoever_asked_for_it_and_nothing_else(
    harness: ProxyHarness,
) -> None:
    await started(harness)
    dropped = [request("/v1/models", key=MINE), request("/v1/models?a", key=THEIRS)]
    kept = [request("/v1/models/x"), request("/v1/files"), post(CHAT, ASKED)]
    for data in dropped + kept:
        await harness.ask(data)
    cleared = await harness.ask(request("/cache?path=/v1/models", "DELETE"))
    assert (cleared.status, len(store(harness))) == (200, 3)
    assert json.loads(cleared.body) == {"message": "Cache cleared successfully"}
    for data in kept:
        assert caches(await harness.ask(data)) == [b"HIT"]
    for data in dropped:
        assert caches(await harness.ask(data)) == [b"MISS"]
    await harness.ask(request("/cache?path=%2Fv1%2Fchat%2Fcompletions", "DELETE"))
    assert caches(await harness.ask(post(CHAT, ASKED))) == [b"MISS"]


@pytest.mark.parametrize("path", ["/v1/files/a%20b", "/v1/files/a+b", "/v1/files/a%2Bb"])
@pytest_twisted.ensureDeferred
async def test_a_path_to_clear_is_the_one_that_was_asked_for(
    harness: ProxyHarness, path: str
) -> None:
    await started(harness)
    for encoded in (path, path.replace("%", "%25").replace("/", "%2F")):
        await harness.ask(request(path))
        assert (await harness.ask(request(f"/cache?path={encoded}", "DELETE"))).status == 200
        assert len(store(harness)) == 0


@pytest.mark.parametrize(
    "query",
    [
        "path=/v1/models?limit=2",
        "path=/v1/models%3Flimit=2",
        "path=",
        "path=models",
        "paht=/v1/models",
        "path=/v1/a&path=/v1/b",
        "path=/v1/a&x=1",
    ],
)
@pytest_twisted.ensureDeferred
async def test_clearing_something_unclear_clears_nothing(harness: ProxyHarness, query: str) -> None:
    await started(harness)
    await harness.ask(request())
    refused = await harness.ask(request(f"/cache?{query}", "DELETE"))
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (400, "bad_request")
    assert len(store(harness)) == 1


@pytest_twisted.ensureDeferred
async def test_what_was_stored_is_there_again_after_a_restart(
    harness: ProxyHarness, tmp_path: Path
) -> None:
    kept = {"CACHE_SNAPSHOT": str(tmp_path / "cache"), "CACHE_SNAPSHOT_KEY": "sixteen-or-more!"}
    await started(harness, **kept)
    asked = [request(), post(CHAT, ASKED)]
    first = [await harness.ask(data) for data in asked]
    assert harness.daemon is not None
    await harness.daemon.stopService()
    await harness.start(**kept)
    again = [await harness.ask(data) for data in asked]
    assert caches(*again) == [b"HIT", b"HIT"]
    assert [answer.body for answer in again] == [answer.body for answer in first]
    await harness.ask(request("/v1/models", "DELETE"), b"DELETE")
    assert caches(*[await harness.ask(data) for data in asked]) == [b"MISS", b"HIT"]
