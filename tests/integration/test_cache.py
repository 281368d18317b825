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
from goproxyai.proxy.recorder import PIECE_BYTES
from goproxyai.proxy.replay import PacedReplay
from goproxyai.reactor.socket_write import unsent_bytes
from tests.support.answers import chunk, event, head, response, sse
from tests.support.harness import Answer, Skewed, Stand, eventually, post, request
from tests.support.requests import Request
from tests.support.steps import Cut, Pause

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


async def started(stand: Stand, **texts: str) -> Stand:
    await stand.start(**texts)
    stand.upstream.script(anything, numbered)
    return stand


async def twice(stand: Stand, first: bytes, second: bytes | None = None) -> list[Answer]:
    """The answers to two requests, one after the other."""
    answers = []
    for data in (first, first if second is None else second):
        answers.append(await stand.ask(data, data.partition(b" ")[0]))
    return answers


def caches(*answers: Answer) -> list[bytes | None]:
    return [answer.get("X-Cache") for answer in answers]


def store(stand: Stand):
    assert stand.daemon is not None
    kept = stand.daemon.admin.relay.store
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
async def test_the_same_request_is_answered_from_the_cache(stand: Stand, data: bytes) -> None:
    await started(stand)
    miss, hit = await twice(stand, data)
    assert caches(miss, hit) == [b"MISS", b"HIT"]
    assert (hit.status, hit.body) == (miss.status, miss.body)
    assert len(stand.upstream.requests) == 1


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
    stand: Stand, method: str, target: str, header: tuple[str, str] | None, detail: str
) -> None:
    await started(stand)
    headers = [] if header is None else [header]
    body = ASKED if method == "POST" else b""
    answers = await twice(stand, request(target, method, [*JSON, *headers], body))
    assert caches(*answers) == [b"MISS", b"MISS"]
    expected = b"goproxyai; fwd=bypass; detail=" + detail.encode()
    assert [answer.get("Cache-Status") for answer in answers] == [expected] * 2
    assert len(stand.upstream.requests) == 2
    assert len(store(stand)) == 0


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
    stand: Stand, one: tuple[str, str], other: tuple[str, str]
) -> None:
    await started(stand)
    answers = await twice(stand, post(CHAT, ASKED, [one]), post(CHAT, ASKED, [other]))
    assert caches(*answers) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_a_chunked_request_is_the_same_as_one_with_a_length(stand: Stand) -> None:
    await started(stand)
    framed = request(CHAT, "POST", [*JSON, ("Transfer-Encoding", "chunked")])
    framed += chunk(ASKED[:9]) + chunk(ASKED[9:]) + chunk(b"")
    answers = await twice(stand, framed, post(CHAT, ASKED))
    assert caches(*answers) == [b"MISS", b"HIT"]
    assert stand.upstream.requests[0].body == ASKED


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
async def test_a_request_that_differs_in_its_key_is_another_one(stand: Stand, other: bytes) -> None:
    await started(stand)
    first = post(CHAT, ASKED, [("Accept", "a")])
    answers = await twice(stand, first, other)
    assert caches(*answers) == [b"MISS", b"MISS"]
    assert answers[0].body != answers[1].body
    assert caches(await stand.ask(first), await stand.ask(other)) == [b"HIT", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_two_clients_never_share_an_answer(stand: Stand) -> None:
    await started(stand)
    asked = {key: request("/v1/files", key=key) for key in (b"Bearer a", b"Bearer b", b"Bearer")}
    first = {key: (await stand.ask(data)).body for key, data in asked.items()}
    assert len(set(first.values())) == 3
    for key, data in asked.items():
        again = await stand.ask(data)
        assert (again.get("X-Cache"), again.body) == (b"HIT", first[key])


@pytest_twisted.ensureDeferred
async def test_no_credential_is_stored(stand: Stand) -> None:
    await started(stand)
    await stand.ask(request("/v1/models", key=b"Bearer sk-good-secret"))
    (entry,) = store(stand)
    parts = (entry.key, entry.head, entry.body, entry.place.path, entry.place.owner)
    assert not any(b"secret" in part for part in parts)


# Which answers.


@pytest.mark.parametrize("status", [200, 201, 400, 401])
@pytest.mark.parametrize("data", [request(), post(CHAT, ASKED)], ids=["GET", "POST"])
@pytest_twisted.ensureDeferred
async def test_these_statuses_are_stored(stand: Stand, status: int, data: bytes) -> None:
    await stand.start()
    stand.upstream.script(anything, response(b'{"a":1}', status, [(b"X-Mine", b"1")]))
    miss, hit = await twice(stand, data)
    assert caches(miss, hit) == [b"MISS", b"HIT"]
    assert (hit.status, hit.reason, hit.body) == (miss.status, miss.reason, miss.body)
    assert hit.get("X-Mine") == b"1"
    assert hit.all("Content-Length") == [b"7"]


@pytest.mark.parametrize("status", [202, 203, 206, 301, 403, 404, 409, 429, 500, 502, 503, 504])
@pytest_twisted.ensureDeferred
async def test_other_statuses_are_not(stand: Stand, status: int) -> None:
    await stand.start()
    stand.upstream.script(anything, response(b'{"a":1}', status))
    answers = await twice(stand, request())
    assert [answer.status for answer in answers] == [status, status]
    assert caches(*answers) == [b"MISS", b"MISS"]
    assert len(stand.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_cookies_reach_the_client_they_were_set_for_alone(stand: Stand) -> None:
    await stand.start()
    cookies = [(b"Set-Cookie", b"a=1"), (b"X-Two", b"b"), (b"set-cookie", b"c=2")]
    stand.upstream.script(anything, response(b"{}", 200, cookies))
    miss, hit = await twice(stand, request())
    assert miss.all("Set-Cookie") == [b"a=1", b"c=2"]
    assert hit.get("X-Cache") == b"HIT"
    assert hit.all("Set-Cookie") == []
    assert hit.get("X-Two") == b"b"


EVENTS = [event({"n": n}) for n in range(5)] + [b"data: [DONE]\n\n"]
FAILED = event({"error": {"message": "overloaded"}})


@pytest_twisted.ensureDeferred
async def test_a_stream_that_ended_is_replayed_byte_for_byte_as_a_stream(stand: Stand) -> None:
    await stand.start()
    stand.upstream.script(CHAT, sse(EVENTS, 0))
    miss, hit = await twice(stand, post(CHAT, ASKED))
    assert caches(miss, hit) == [b"MISS", b"HIT"]
    assert miss.body == hit.body == b"".join(EVENTS)
    assert hit.get("Content-Type") == miss.get("Content-Type")
    assert hit.get("Transfer-Encoding") == b"chunked"
    assert hit.get("Content-Length") is None


@pytest.mark.parametrize(
    "answer",
    [
        [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), chunk(b"")],
        [head(200, [SSE_TYPE]), *EVENTS, Cut()],
        [head(200, [SSE_TYPE]), b'data: {"type":"response.completed"}\n\n', Cut()],
    ],
    ids=["its framing", "done", "completed"],
)
@pytest_twisted.ensureDeferred
async def test_a_stream_ends_well_by_its_framing_or_its_own_words(
    stand: Stand, answer: list[bytes]
) -> None:
    await stand.start()
    stand.upstream.script(CHAT, answer)
    miss, hit = await twice(stand, post(CHAT, ASKED))
    assert caches(miss, hit) == [b"MISS", b"HIT"]
    assert miss.body == hit.body


@pytest_twisted.ensureDeferred
async def test_a_stream_and_a_whole_answer_are_never_each_others(stand: Stand) -> None:
    await started(stand)
    plain = ASKED[:-1] + b',"stream":false}'
    asked = [ASKED, plain, plain.replace(b"false", b"true")]
    first = [await stand.ask(post(CHAT, body)) for body in asked]
    assert len({answer.body for answer in first}) == 3
    assert caches(*[await stand.ask(post(CHAT, body)) for body in asked]) == [b"HIT"] * 3


@pytest_twisted.ensureDeferred
async def test_a_stored_stream_is_ended_by_the_connection_for_http_1_0(stand: Stand) -> None:
    await stand.start()
    stand.upstream.script(CHAT, sse(EVENTS, 0))
    data = post(CHAT, ASKED)
    _, hit = await twice(stand, data, data.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (hit.get("X-Cache"), hit.body, hit.cut) == (b"HIT", b"".join(EVENTS), False)
    assert hit.get("Transfer-Encoding") is None


@pytest.mark.parametrize(
    "answer",
    [
        [head(200, [(b"Content-Length", b"9")]), b"1234", Cut()],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), Cut()],
        [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), b"0\r\n", Cut()],
        [head(200, [SSE_TYPE]), EVENTS[0], Cut()],
        [head(200, [(b"Content-Type", b"text/plain")]), b"data: [DONE]\n\n", Cut()],
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
async def test_an_answer_that_may_be_cut_is_not_stored(stand: Stand, answer: list[bytes]) -> None:
    await stand.start()
    stand.upstream.script(CHAT, answer)
    answers = await twice(stand, post(CHAT, ASKED))
    assert caches(*answers) == [b"MISS", b"MISS"]
    assert len(store(stand)) == store(stand).reserved == 0


@pytest_twisted.ensureDeferred
async def test_a_stream_whose_client_left_is_not_stored(stand: Stand) -> None:
    await stand.start()
    stand.upstream.script(CHAT, [head(200, [SSE_TYPE, CHUNKED]), chunk(EVENTS[0]), Pause()])
    wire = await stand.connect()
    wire.send(post(CHAT, ASKED))
    await wire.until(lambda: EVENTS[0] in wire.came)
    assert store(stand).reserved == len(EVENTS[0]) + PIECE_BYTES
    wire.abort()
    await stand.upstream.wait_for(lambda one: one.lost)
    assert len(store(stand)) == store(stand).reserved == 0


@pytest_twisted.ensureDeferred
async def test_a_chunked_answer_is_replayed_with_its_length(stand: Stand) -> None:
    await stand.start()
    kind = (b"Content-Type", b"application/json")
    parts = [chunk(b'{"a":'), chunk(b"1}"), chunk(b"")]
    stand.upstream.script(CHAT, [head(200, [kind, CHUNKED]), *parts])
    miss, hit = await twice(stand, post(CHAT, ASKED))
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
    stand: Stand, headers: list[tuple[bytes, bytes]], cached: bytes
) -> None:
    await stand.start()
    stand.upstream.script(anything, response(b"{}", 200, headers))
    assert caches(*await twice(stand, request())) == [b"MISS", cached]


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
    stand: Stand, document: dict[str, object], coding: str, cached: bytes
) -> None:
    await stand.start()
    encode: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        "gzip": gzip.compress,
        "deflate": zlib.compress,
    }
    headers = [(b"Content-Encoding", coding.encode())] if coding else []
    body = encode[coding](json.dumps(document).encode())
    stand.upstream.script(anything, response(body, 200, headers))
    miss, again = await twice(stand, request("/v1/batches/b", headers=[("Accept-Encoding", "*")]))
    assert caches(miss, again) == [b"MISS", cached]
    assert miss.body == again.body == body
    completion = await twice(stand, post(CHAT, ASKED))
    assert caches(*completion) == [b"MISS", b"HIT"]


# Cache-Control of the request.


@pytest.mark.parametrize("field", [("Cache-Control", "no-cache"), ("Pragma", "no-cache")])
@pytest_twisted.ensureDeferred
async def test_no_cache_asks_upstream_and_stores_what_it_says(
    stand: Stand, field: tuple[str, str]
) -> None:
    await started(stand)
    first, second = await twice(stand, request(), request(headers=[field]))
    assert caches(first, second) == [b"MISS", b"MISS"]
    assert second.get("Cache-Status") == b"goproxyai; fwd=request"
    third = await stand.ask(request())
    assert (third.get("X-Cache"), third.body) == (b"HIT", second.body)


@pytest_twisted.ensureDeferred
async def test_no_store_neither_reads_nor_stores(stand: Stand) -> None:
    await started(stand)
    unseen = request(headers=[("Cache-Control", "no-store")])
    first, second = await twice(stand, unseen, request())
    assert caches(first, second) == [b"MISS", b"MISS"]
    assert first.get("Cache-Status") == b"goproxyai; fwd=bypass; detail=no-store"
    again, stored = await twice(stand, unseen, request())
    assert again.body != second.body
    assert (stored.get("X-Cache"), stored.body) == (b"HIT", second.body)


@pytest_twisted.ensureDeferred
async def test_max_age_0_is_content_with_nothing_stored(stand: Stand) -> None:
    await started(stand)
    first, second = await twice(stand, request(), request(headers=[("Cache-Control", "max-age=0")]))
    assert caches(first, second) == [b"MISS", b"MISS"]
    assert second.get("Cache-Status") == b"goproxyai; fwd=request"
    assert (await stand.ask(request())).body == second.body


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
    stand: Stand, method: str, target: str, control: str, hit: bool
) -> None:
    await started(stand)
    await stand.ask(request())
    answer = await stand.ask(request(target, method, [("Cache-Control", control)]))
    assert len(stand.upstream.requests) == 1
    if hit:
        assert (answer.status, answer.get("X-Cache")) == (200, b"HIT")
        return
    assert answer.status == 504
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"]) == ("proxy_error", "only_if_cached")
    assert answer.get("X-Cache") == b"MISS"


# Size and time.


@pytest.fixture
def skewed(stand: Stand) -> Stand:
    """A stand whose clock can be set ahead."""
    stand.reactor = Skewed(stand.reactor)
    return stand


def jump(stand: Stand, seconds: float) -> None:
    """Let time pass, for the connections too, which note their deadlines at the last tick."""
    stand.reactor.ahead += seconds
    assert stand.daemon is not None
    stand.daemon.listeners.factory.ticker.now = stand.reactor.seconds()


@pytest_twisted.ensureDeferred
async def test_an_answer_is_served_for_its_time_and_no_longer(skewed: Stand) -> None:
    await started(skewed)
    await skewed.ask(request())
    jump(skewed, 299)
    late = await skewed.ask(request())
    assert (late.get("X-Cache"), late.get("Age")) == (b"HIT", b"299")
    jump(skewed, 1)
    assert caches(await skewed.ask(request())) == [b"MISS"]
    assert len(skewed.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_what_nobody_asks_for_again_is_evicted_all_the_same(
    skewed: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EVICTION_INTERVAL_SECONDS", 0.05)
    await started(skewed, CACHE_TTL="1m")
    await skewed.ask(request())
    assert len(store(skewed)) == 1
    jump(skewed, 60)
    await eventually(skewed.reactor, lambda: len(store(skewed)) == 0)
    assert (store(skewed).bytes, store(skewed).expirations) == (0, 1)


@pytest_twisted.ensureDeferred
async def test_max_age_bounds_the_age_of_what_is_taken(skewed: Stand) -> None:
    await started(skewed)
    await skewed.ask(request())
    jump(skewed, 10)
    content = await skewed.ask(request(headers=[("Cache-Control", "max-age=60")]))
    demanding = await skewed.ask(request(headers=[("Cache-Control", "max-age=9")]))
    assert caches(content, demanding) == [b"HIT", b"MISS"]


THEIRS_TOO = [(b"Age", b"7"), (b"X-Cache", b"theirs")]


@pytest_twisted.ensureDeferred
async def test_a_hit_says_when_it_was_stored_how_old_it_is_and_how_long_it_lasts(
    skewed: Stand,
) -> None:
    await skewed.start()
    skewed.upstream.script(anything, response(b"{}", 200, THEIRS_TOO))
    before = int(time.time())
    miss = await skewed.ask(request())
    after = time.time()
    jump(skewed, 9)
    hit = await skewed.ask(request())
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
async def test_a_cache_that_is_turned_off_does_nothing(stand: Stand, texts: dict[str, str]) -> None:
    await started(stand, **texts)
    for data in (request(), post(CHAT, ASKED)):
        answers = await twice(stand, data)
        assert caches(*answers) == [b"MISS", b"MISS"]
        assert answers[0].get("Cache-Status") == b"goproxyai; fwd=bypass; detail=off"
    cached = await stand.ask(request(headers=[("Cache-Control", "only-if-cached")]))
    assert cached.status == 504
    cleared = await stand.ask(request("/cache", "DELETE"))
    assert cleared.status == 200
    assert json.loads((await stand.ask(request("/stats"))).body)["cache"]["item_count"] == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(("size", "cached"), [(100_000, b"HIT"), (105_000, b"MISS")])
@pytest_twisted.ensureDeferred
async def test_what_is_larger_than_a_tenth_of_the_cache_is_not_stored(
    stand: Stand, size: int, cached: bytes, framing: str
) -> None:
    await stand.start(MAX_CACHE_SIZE="1")
    body = b"x" * size
    pieces = [chunk(body[at : at + 9_999]) for at in range(0, size, 9_999)]
    stand.upstream.script("/v1/length", response(body, content_type=b"text/plain"))
    stand.upstream.script("/v1/chunked", [head(200, [CHUNKED]), *pieces, chunk(b"")])
    answers = await twice(stand, request(f"/v1/{framing}"))
    assert caches(*answers) == [b"MISS", cached]
    assert [answer.body for answer in answers] == [body, body]
    assert store(stand).reserved == 0


@pytest_twisted.ensureDeferred
async def test_the_least_recently_used_makes_room(stand: Stand) -> None:
    await stand.start(MAX_CACHE_SIZE="1")
    stand.upstream.script(anything, response(b"x" * 90_000, content_type=b"text/plain"))
    for number in range(20):
        await stand.ask(request(f"/v1/{number}"))
        assert caches(await stand.ask(request("/v1/0"))) == [b"HIT"]
    assert store(stand).bytes <= 1024 * 1024
    assert store(stand).evictions == 20 - len(store(stand))
    assert caches(await stand.ask(request("/v1/1"))) == [b"MISS"]


@pytest_twisted.ensureDeferred
async def test_a_large_hit_is_written_as_fast_as_the_client_reads(stand: Stand) -> None:
    await stand.start()
    body = bytes(range(256)) * 4096 * 9
    stand.upstream.script("/v1/large", response(body, content_type=b"text/plain"))
    miss = await stand.ask(request("/v1/large"))
    assert len(store(stand)) == 1
    wire = await stand.connect()
    wire.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    wire.stop_reading()
    wire.send(request("/v1/large"))
    assert stand.daemon is not None
    connections = stand.daemon.listeners.factory.connections
    await eventually(stand.reactor, lambda: any(unsent_bytes(c.transport) for c in connections))
    (connection,) = [c for c in connections if unsent_bytes(c.transport)]
    assert not (await stand.logged())[1:], "it is over before it was read"
    peak = unsent_bytes(connection.transport)
    wire.read_again()

    def whole() -> bool:
        nonlocal peak
        peak = max(peak, unsent_bytes(connection.transport))
        return len(wire.came) > len(body)

    await wire.until(whole, 30)
    hit = await wire.answer()
    assert caches(miss, hit) == [b"MISS", b"HIT"]
    assert hit.body == miss.body == body
    assert peak <= 256 * 1024
    wire.send(request("/v1/large/other"))
    assert (await wire.answer()).status == 404


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_in_the_middle_of_a_large_hit_is_noted(stand: Stand) -> None:
    await stand.start()
    stand.upstream.script("/v1/large", response(b"x" * 9_000_000, content_type=b"text/plain"))
    await stand.ask(request("/v1/large"))
    wire = await stand.connect()
    wire.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    wire.stop_reading()
    wire.send(request("/v1/large"))
    assert stand.daemon is not None
    connections = stand.daemon.listeners.factory.connections
    await eventually(stand.reactor, lambda: any(unsent_bytes(c.transport) for c in connections))
    wire.abort()
    await eventually(stand.reactor, lambda: not connections)
    event = (await stand.logged(2))[1]
    assert (event["cache"], event["ended"], event["status"]) == ("HIT", "client_gone", 200)
    assert event["bytes_out"] < 9_000_000


# The pace of a replay.


class Paced(Skewed):
    """A reactor whose timers wait for the test: by :meth:`pass_time`."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.clock = Clock()

    def callLater(self, delay: float, function: Any, *args: Any, **kw: Any) -> Any:
        if delay > 0 and isinstance(getattr(function, "__self__", None), PacedReplay):
            return self.clock.callLater(delay, function, *args, **kw)
        return self._reactor.callLater(delay, function, *args, **kw)

    def pass_time(self, seconds: float) -> None:
        self.ahead += seconds
        self.clock.advance(seconds)


@pytest.fixture
def paced(stand: Stand) -> Paced:
    """The reactor of *stand*, whose paced replays wait for the test."""
    stand.reactor = Paced(stand.reactor)
    return stand.reactor


PACED = [("X-Cache-Replay", "paced")]


async def recorded(stand: Stand, clock: Paced) -> bytes:
    """Let a stream come whose events are ten seconds apart; gives its body."""
    gates = [Pause() for _ in EVENTS]
    steps: list[Any] = [head(200, [SSE_TYPE, CHUNKED])]
    for gate, each in zip(gates, EVENTS, strict=True):
        steps += [gate, chunk(each)]
    stand.upstream.script(CHAT, [*steps, chunk(b"")])
    wire = await stand.connect()
    wire.send(post(CHAT, ASKED))
    for gate, each in zip(gates, EVENTS, strict=True):
        await stand.upstream.wait_for(lambda one: one.paused)
        gate.release()
        await wire.until(lambda each=each: each in wire.came)  # type: ignore[misc]
        clock.pass_time(10.0)
    return (await wire.answer()).body


@pytest_twisted.ensureDeferred
async def test_a_stream_is_replayed_at_once_or_as_it_came(stand: Stand, paced: Paced) -> None:
    await stand.start()
    body = await recorded(stand, paced)
    at_once = await stand.ask(post(CHAT, ASKED))
    assert (at_once.get("X-Cache"), at_once.body) == (b"HIT", body)
    wire = await stand.connect()
    wire.send(post(CHAT, ASKED, PACED))
    for number, each in enumerate(EVENTS[:-1]):
        await wire.until(lambda each=each: each in wire.came)  # type: ignore[misc]
        assert EVENTS[number + 1] not in wire.came
        paced.pass_time(9.0)
        await eventually(stand.reactor, lambda: True)
        assert EVENTS[number + 1] not in wire.came
        paced.pass_time(1.1)
    hit = await wire.answer()
    assert hit.body == body
    assert (hit.get("Transfer-Encoding"), hit.get("Content-Length")) == (b"chunked", None)
    assert b"; detail=paced" in (hit.get("Cache-Status") or b"")
    assert "X-Cache-Replay" not in str(stand.upstream.requests[0].headers)
    wire.send(post(CHAT, ASKED))
    assert caches(await wire.answer()) == [b"HIT"]
    assert [one["cache"] for one in await stand.logged(4)] == ["MISS", "HIT", "HIT", "HIT"]


@pytest_twisted.ensureDeferred
async def test_a_paced_replay_catches_up_and_never_takes_longer_than_the_original(
    stand: Stand, paced: Paced
) -> None:
    await stand.start()
    body = await recorded(stand, paced)
    wire = await stand.connect()
    wire.send(post(CHAT, ASKED, PACED))
    await wire.until(lambda: EVENTS[0] in wire.came)
    paced.pass_time(10.0 * len(EVENTS))
    assert (await wire.answer()).body == body


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_a_paced_replay_leaves_no_timer(
    stand: Stand, paced: Paced
) -> None:
    await stand.start()
    await recorded(stand, paced)
    wire = await stand.connect()
    wire.send(post(CHAT, ASKED, PACED))
    await wire.until(lambda: EVENTS[0] in wire.came)
    wire.abort()
    assert stand.daemon is not None
    await eventually(stand.reactor, lambda: not paced.clock.getDelayedCalls())
    assert (await stand.logged(2))[1]["ended"] == "client_gone"


@pytest_twisted.ensureDeferred
async def test_what_is_no_stream_has_no_pace(stand: Stand) -> None:
    await started(stand)
    asked = post(CHAT, ASKED, PACED)
    miss, hit = await twice(stand, asked)
    assert (caches(miss, hit), hit.body) == ([b"MISS", b"HIT"], miss.body)


# How long: X-Cache-TTL, max-stale, and upstreams that fail.


@pytest.mark.parametrize(
    ("given", "lives", "until"),
    [("90", 89.0, 91.0), ("1h", 3599.0, 3601.0), ("30h", 7199.0, 7201.0), ("junk", 299.0, 301.0)],
)
@pytest_twisted.ensureDeferred
async def test_a_request_says_how_long_its_own_answer_is_kept(
    skewed: Stand, given: str, lives: float, until: float
) -> None:
    await started(skewed, CACHE_MAX_TTL="2h")
    asked = request(headers=[("X-Cache-TTL", given)])
    other = request("/v1/other")
    for data in (asked, other):
        await skewed.ask(data)
    jump(skewed, lives)
    assert caches(await skewed.ask(request())) == [b"HIT"], "it is no part of the key"
    assert caches(await skewed.ask(other)) == [b"HIT" if lives < 300 else b"MISS"]
    jump(skewed, until - lives)
    assert caches(await skewed.ask(asked)) == [b"MISS"]
    sent = [name.lower() for name, _ in skewed.upstream.requests[0].headers]
    assert b"x-cache-ttl" not in sent


@pytest_twisted.ensureDeferred
async def test_a_time_to_live_of_nothing_stores_nothing(stand: Stand) -> None:
    await started(stand)
    asked = request(headers=[("X-Cache-TTL", "0")])
    assert caches(*await twice(stand, asked)) == [b"MISS", b"MISS"]
    assert len(store(stand)) == 0


@pytest_twisted.ensureDeferred
async def test_max_stale_takes_what_has_expired_and_is_still_kept(skewed: Stand) -> None:
    await started(skewed, CACHE_STALE="10m")
    await skewed.ask(request())
    jump(skewed, 360.0)
    for control in ("max-stale=100", "max-stale"):
        stale = await skewed.ask(request(headers=[("Cache-Control", control)]))
        assert stale.get("X-Cache") == b"HIT"
        status = stale.get("Cache-Status") or b""
        assert re.fullmatch(rb"goproxyai; hit; ttl=-(59|60|61)", status)
        assert int(stale.get("Age") or b"") >= 360
    fresh = await skewed.ask(request(headers=[("Cache-Control", "max-stale=10")]))
    assert fresh.get("Cache-Status") == b"goproxyai; fwd=stale"
    assert caches(await skewed.ask(request())) == [b"HIT"]


FAILING = {
    "500": response(b"{}", 500),
    "502": response(b"{}", 502),
    "503": response(b"{}", 503),
    "504 in chunks": [head(504, [CHUNKED]), chunk(b"{}"), Pause()],
    "gone": [Cut()],
    "junk": b"junk\r\n\r\n",
}


@pytest.mark.parametrize("asked", [request(), post(CHAT, ASKED)], ids=["flight", "alone"])
@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
@pytest_twisted.ensureDeferred
async def test_what_has_expired_answers_when_upstream_fails(
    skewed: Stand, failing: Any, asked: bytes
) -> None:
    await started(skewed, CACHE_STALE="10m")
    first = await skewed.ask(asked)
    jump(skewed, 360.0)
    skewed.upstream.script(anything, failing)
    stale = await skewed.ask(asked)
    assert (stale.status, stale.body, stale.get("X-Cache")) == (200, first.body, b"HIT")
    status = stale.get("Cache-Status") or b""
    assert re.fullmatch(rb"goproxyai; hit; ttl=-\d+; detail=stale-if-error", status)
    assert int(stale.get("Age") or b"") >= 360
    logged = (await skewed.logged(2))[1]
    assert logged["cache"] == "STALE"
    assert logged["detail"]
    stats = json.loads((await skewed.ask(request("/stats"))).body)
    assert stats["cache"]["stale_if_error"] == 1
    jump(skewed, 600.0)
    skewed.upstream.script(anything, response(b"{}", 503))
    assert (await skewed.ask(asked)).status == 503


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
@pytest_twisted.ensureDeferred
async def test_what_has_expired_answers_the_same_requests_pipelined_behind_it_too(
    skewed: Stand, failing: Any
) -> None:
    await started(skewed, CACHE_STALE="10m")
    first = await skewed.ask(request())
    jump(skewed, 360.0)
    skewed.upstream.script(anything, failing)
    wire = await skewed.connect()
    wire.send(request() * 3)
    assert [(await wire.answer()).body for _ in range(3)] == [first.body] * 3
    assert len(skewed.upstream.requests) >= 4  # a kept connection that died is tried again


@pytest.mark.parametrize(
    ("fields", "control"),
    [([(b"Cache-Control", b"must-revalidate")], ""), ([], "no-cache")],
    ids=["the answer", "the request"],
)
@pytest_twisted.ensureDeferred
async def test_either_side_may_forbid_what_has_expired(
    skewed: Stand, fields: list[tuple[bytes, bytes]], control: str
) -> None:
    await skewed.start(CACHE_STALE="10m")
    skewed.upstream.script(anything, response(b"{}", headers=fields), times=1)
    await skewed.ask(request())
    jump(skewed, 360.0)
    skewed.upstream.script(anything, response(b"{}", 503))
    headers = [("Cache-Control", control)] if control else []
    assert (await skewed.ask(request(headers=headers))).status == 503


@pytest.mark.parametrize("later", [60.0, 360.0])
@pytest_twisted.ensureDeferred
async def test_max_age_holds_when_upstream_fails(skewed: Stand, later: float) -> None:
    await started(skewed, CACHE_STALE="10m")
    await skewed.ask(request())
    jump(skewed, later)
    skewed.upstream.script(anything, response(b"{}", 503))
    answer = await skewed.ask(request(headers=[("Cache-Control", "max-age=10")]))
    assert answer.status == 503


@pytest_twisted.ensureDeferred
async def test_a_longest_time_of_nothing_lets_no_request_choose(stand: Stand) -> None:
    await started(stand, CACHE_MAX_TTL="0")
    assert caches(*await twice(stand, request(headers=[("X-Cache-TTL", "1")]))) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_without_being_told_nothing_is_kept_for_failures(skewed: Stand) -> None:
    await started(skewed)
    await skewed.ask(request())
    jump(skewed, 301.0)
    skewed.upstream.script(anything, response(b"{}", 503))
    answer = await skewed.ask(request())
    assert (answer.status, answer.get("Cache-Status")) == (503, b"goproxyai; fwd=miss")


@pytest_twisted.ensureDeferred
async def test_all_who_wait_are_answered_with_what_has_expired(skewed: Stand) -> None:
    await started(skewed, CACHE_STALE="10m")
    first = await skewed.ask(request())
    jump(skewed, 360.0)
    gate = Pause()
    skewed.upstream.script(anything, [gate, response(b"{}", 503)])
    wires = [await skewed.connect() for _ in range(3)]
    for wire in wires:
        wire.send(request())
    assert skewed.daemon is not None
    counters = skewed.daemon.admin.stats.counters
    await eventually(skewed.reactor, lambda: counters.coalesced == 2)
    gate.release()
    answers = [await wire.answer() for wire in wires]
    assert [(answer.status, answer.body) for answer in answers] == [(200, first.body)] * 3
    assert len(skewed.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_a_large_answer_that_has_expired_is_written_as_the_client_reads(
    skewed: Stand,
) -> None:
    await skewed.start(CACHE_STALE="10m")
    body = b"x" * 3_000_000
    skewed.upstream.script(anything, response(body), times=1)
    await skewed.ask(request())
    jump(skewed, 360.0)
    skewed.upstream.script(anything, response(b"{}", 503))
    wire = await skewed.connect()
    wire.send(request())
    await wire.until(lambda: len(wire.came) > len(body), 30)
    assert (await wire.answer()).body == body


# Shared on purpose.


@pytest_twisted.ensureDeferred
async def test_a_namespace_is_shared_by_all_who_ask(stand: Stand) -> None:
    await started(stand, CACHE_SHARED="models, embeddings")
    fields = [
        (b"OpenAI-Organization", b"org-mine"),
        (b"x-ratelimit-remaining-requests", b"7"),
        (b"x-request-id", b"req_1"),
        (b"Set-Cookie", b"a=b"),
        (b"X-Other", b"kept"),
    ]
    stand.upstream.script(anything, response(b"{}", headers=fields))
    for one, other in (
        (request("/v1/models", key=MINE), request("/v1/models", key=THEIRS)),
        (
            request("/v1/embeddings", "POST", JSON, b"{}", key=MINE),
            request("/v1/embeddings", "POST", JSON, b"{}", key=THEIRS),
        ),
    ):
        miss, hit = await twice(stand, one, other)
        assert caches(miss, hit) == [b"MISS", b"HIT"]
        assert [name for name, _ in fields if miss.get(name.decode())] == [n for n, _ in fields]
        kept = [pair for pair in fields if pair in hit.headers]
        assert kept == [(b"X-Other", b"kept")]
        assert hit.get("X-Request-Id"), "ours"
    mine, theirs = request("/v1/files", key=MINE), request("/v1/files", key=THEIRS)
    assert caches(*await twice(stand, mine, theirs)) == [b"MISS", b"MISS"]


@pytest_twisted.ensureDeferred
async def test_an_error_of_one_credential_is_nobody_elses_in_a_shared_namespace(
    stand: Stand,
) -> None:
    await started(stand, CACHE_SHARED="models")
    gate = Pause()

    def judged(asked: Request) -> Any:
        wrong = asked.all(b"authorization") == [THEIRS]
        return [gate, response(b"{}", 401)] if wrong else response(b'{"good":1}')

    stand.upstream.script(anything, judged)
    wrong, right = await stand.connect(), await stand.connect()
    wrong.send(request(key=THEIRS))
    await stand.upstream.wait_for(lambda one: one.paused)
    right.send(request(key=MINE))
    assert stand.daemon is not None
    counters = stand.daemon.admin.stats.counters
    await eventually(stand.reactor, lambda: counters.coalesced == 1)
    gate.release()
    assert [(await one.answer()).status for one in (wrong, right)] == [401, 200]
    assert caches(*await twice(stand, request(key=MINE), request(key=THEIRS))) == [b"HIT", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_a_write_in_a_shared_namespace_drops_ones_own_above_it(stand: Stand) -> None:
    await started(stand, CACHE_SHARED="files/public")
    listing, shared = request("/v1/files", key=MINE), request("/v1/files/public", key=THEIRS)
    for data in (listing, shared):
        await stand.ask(data)
    await stand.ask(request("/v1/files/public/a", "DELETE", key=MINE), b"DELETE")
    assert caches(await stand.ask(listing), await stand.ask(shared)) == [b"MISS", b"MISS"]


@pytest_twisted.ensureDeferred
async def test_anybodys_write_drops_what_is_shared(stand: Stand) -> None:
    await started(stand, CACHE_SHARED="models")
    asked = request("/v1/models", key=MINE)
    assert caches(*await twice(stand, asked)) == [b"MISS", b"HIT"]
    await stand.ask(request("/v1/models/ft", "DELETE", key=THEIRS), b"DELETE")
    assert caches(*await twice(stand, asked)) == [b"MISS", b"HIT"]


# Writes, and clearing.

MINE = b"Bearer mine"
THEIRS = b"Bearer theirs"


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH"])
@pytest_twisted.ensureDeferred
async def test_a_write_drops_what_its_credential_has_of_the_path_and_its_parents(
    stand: Stand, method: str
) -> None:
    await started(stand)
    dropped = ["/v1/files/x", "/v1/files/x?a=1", "/v1/files", "/v1/files?limit=2", "/v1/files/"]
    kept = ["/v1/files/y", "/v1/files/x/content", "/v1/models"]
    for key in (MINE, THEIRS):
        for target in dropped + kept:
            await stand.ask(request(target, key=key))
    await stand.ask(request(CHAT, "POST", JSON, ASKED, key=MINE))
    await stand.ask(request("/v1/files/x", method, key=MINE))
    for target in dropped:
        mine, theirs = request(target, key=MINE), request(target, key=THEIRS)
        assert caches(*await twice(stand, mine, theirs)) == [b"MISS", b"HIT"], target
    for target in kept:
        assert caches(await stand.ask(request(target, key=MINE))) == [b"HIT"], target
    assert caches(await stand.ask(request(CHAT, "POST", JSON, ASKED, key=MINE))) == [b"HIT"]


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
    stand: Stand, method: str, target: str, status: int
) -> None:
    await started(stand)
    answer = response(b"", status) if method == "HEAD" else response(b"{}", status)
    stand.upstream.script(f"{method} {target}", answer)
    await stand.ask(request("/v1/files"))
    assert (await stand.ask(request(target, method), method.encode())).status == status
    assert caches(await stand.ask(request("/v1/files"))) == [b"HIT"]


@pytest.mark.parametrize(
    ("method", "target"), [("DELETE", "/v1/files/x"), ("DELETE", "/cache")], ids=["write", "clear"]
)
@pytest.mark.parametrize("streaming", [False, True], ids=["before the head", "inside the body"])
@pytest_twisted.ensureDeferred
async def test_an_answer_that_was_overtaken_is_not_stored(
    stand: Stand, method: str, target: str, streaming: bool
) -> None:
    await started(stand)
    pause = Pause()
    start = [head(200, [(b"Content-Length", b"2")]), b"{"] if streaming else []
    rest = [b"}"] if streaming else [response(b"{}")]
    stand.upstream.script("GET /v1/files", [*start, pause, *rest], times=1)
    wire = await stand.connect()
    wire.send(request("/v1/files"))
    await stand.upstream.wait_for(lambda one: one.paused)
    if streaming:
        await wire.until(lambda: wire.came.endswith(b"{"))
    assert (await stand.ask(request(target, method))).status == 200
    pause.release()
    assert (await wire.answer()).body == b"{}"
    assert len(store(stand)) == store(stand).reserved == 0
    assert caches(*await twice(stand, request("/v1/files"))) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_a_write_of_somebody_else_does_not_overtake(stand: Stand) -> None:
    await started(stand)
    pause = Pause()
    stand.upstream.script("GET /v1/files", [pause, response(b"{}")], times=1)
    wire = await stand.connect()
    wire.send(request("/v1/files", key=MINE))
    await stand.upstream.wait_for(lambda one: one.paused)
    await stand.ask(request("/v1/files/x", "DELETE", key=THEIRS))
    pause.release()
    await wire.answer()
    assert caches(await stand.ask(request("/v1/files", key=MINE))) == [b"HIT"]


@pytest_twisted.ensureDeferred
async def test_clearing_forgets_everything_at_once(stand: Stand) -> None:
    await started(stand)
    asked = [request("/v1/models"), request("/v1/files"), post(CHAT, ASKED)]
    for data in asked:
        await stand.ask(data)
    assert len(store(stand)) == 3
    cleared = await stand.ask(request("/cache", "DELETE"))
    assert json.loads(cleared.body) == {"message": "Cache cleared successfully"}
    assert (len(store(stand)), store(stand).bytes) == (0, 0)
    for data in asked:
        assert caches(*await twice(stand, data)) == [b"MISS", b"HIT"]


@pytest_twisted.ensureDeferred
async def test_clearing_a_path_forgets_whoever_asked_for_it_and_nothing_else(stand: Stand) -> None:
    await started(stand)
    dropped = [request("/v1/models", key=MINE), request("/v1/models?a", key=THEIRS)]
    kept = [request("/v1/models/x"), request("/v1/files"), post(CHAT, ASKED)]
    for data in dropped + kept:
        await stand.ask(data)
    cleared = await stand.ask(request("/cache?path=/v1/models", "DELETE"))
    assert (cleared.status, len(store(stand))) == (200, 3)
    assert json.loads(cleared.body) == {"message": "Cache cleared successfully"}
    for data in kept:
        assert caches(await stand.ask(data)) == [b"HIT"]
    for data in dropped:
        assert caches(await stand.ask(data)) == [b"MISS"]
    await stand.ask(request("/cache?path=%2Fv1%2Fchat%2Fcompletions", "DELETE"))
    assert caches(await stand.ask(post(CHAT, ASKED))) == [b"MISS"]


@pytest.mark.parametrize("path", ["/v1/files/a%20b", "/v1/files/a+b", "/v1/files/a%2Bb"])
@pytest_twisted.ensureDeferred
async def test_a_path_to_clear_is_the_one_that_was_asked_for(stand: Stand, path: str) -> None:
    await started(stand)
    for encoded in (path, path.replace("%", "%25").replace("/", "%2F")):
        await stand.ask(request(path))
        assert (await stand.ask(request(f"/cache?path={encoded}", "DELETE"))).status == 200
        assert len(store(stand)) == 0


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
async def test_clearing_something_unclear_clears_nothing(stand: Stand, query: str) -> None:
    await started(stand)
    await stand.ask(request())
    refused = await stand.ask(request(f"/cache?{query}", "DELETE"))
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (400, "bad_request")
    assert len(store(stand)) == 1


@pytest_twisted.ensureDeferred
async def test_what_was_stored_is_there_again_after_a_restart(stand: Stand, tmp_path: Path) -> None:
    kept = {"CACHE_SNAPSHOT": str(tmp_path / "cache"), "CACHE_SNAPSHOT_KEY": "sixteen-or-more!"}
    await started(stand, **kept)
    asked = [request(), post(CHAT, ASKED)]
    first = [await stand.ask(data) for data in asked]
    assert stand.daemon is not None
    await stand.daemon.stopService()
    await stand.start(**kept)
    again = [await stand.ask(data) for data in asked]
    assert caches(*again) == [b"HIT", b"HIT"]
    assert [answer.body for answer in again] == [answer.body for answer in first]
    await stand.ask(request("/v1/models", "DELETE"), b"DELETE")
    assert caches(*[await stand.ask(data) for data in asked]) == [b"MISS", b"HIT"]
