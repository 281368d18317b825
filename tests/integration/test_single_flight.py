"""Identical requests in flight share one upstream request."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.integration.cached_requests import CHAT, CHUNKED, SSE_TYPE
from tests.integration.concurrent_requests import (
    answers_of,
    assert_all_released,
    flights_of,
    send_concurrently,
    wait_for_pauses,
)
from tests.integration.reference_cycles import assert_no_cycles
from tests.support.answers import chunk, event, head, response, sse
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.requests import Request
from tests.support.steps import Pause

EMBEDDINGS = "/v1/embeddings"
DONE = b"data: [DONE]\n\n"
MISS = b"goproxyai; fwd=miss"
COLLAPSED = b"goproxyai; fwd=miss; collapsed"


@pytest_twisted.ensureDeferred
async def test_identical_requests_share_one_upstream_request(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    body = b'{"data":[{"embedding":"' + b"A" * 8_000 + b'"}]}'
    harness.upstream.script(EMBEDDINGS, [gate, response(body, headers=[(b"Set-Cookie", b"a=b")])])
    clients = await send_concurrently(harness, [post(EMBEDDINGS, b'{"input":"x"}')] * 200)
    await wait_for_pauses(harness)
    gate.release()
    answers = await answers_of(clients)
    assert len(harness.upstream.requests) == 1
    assert {(answer.status, answer.body) for answer in answers} == {(200, body)}
    cache_status = [answer.get("Cache-Status") for answer in answers]
    assert (cache_status.count(MISS), cache_status.count(COLLAPSED)) == (1, 199)
    assert [answer.get("X-Cache") for answer in answers] == [b"MISS"] * 200
    with_cookie = [answer for answer in answers if answer.get("Set-Cookie")]
    assert [answer.get("Cache-Status") for answer in with_cookie] == [MISS]
    await assert_all_released(harness)
    assert (await harness.ask(post(EMBEDDINGS, b'{"input":"x"}'))).get("X-Cache") == b"HIT"
    events = await harness.logged(201)
    assert sorted({each["cache"] for each in events}) == ["COALESCED", "HIT", "MISS"]
    stats = (await harness.ask(request("/stats"))).body
    assert b'"coalesced":199' in stats
    assert b'"misses":1,' in stats


@pytest_twisted.ensureDeferred
async def test_late_subscribers_receive_whole_stream(harness: ProxyHarness) -> None:
    await harness.start(COALESCE="all")
    events = [event({"n": n, "text": "x" * 50}) for n in range(50)]
    gates = [Pause() for _ in events]
    steps: list[Any] = [head(200, [SSE_TYPE, CHUNKED])]
    for gate, each in zip(gates, events, strict=True):
        steps += [gate, chunk(each)]
    harness.upstream.script(CHAT, [*steps, chunk(DONE), chunk(b"")])
    data = post(CHAT, b'{"stream":true}')
    clients = []
    for number, gate in enumerate(gates):
        client = await harness.connect()
        client.send(data)
        clients.append(client)
        latest = events[number - 1] if number else b""
        await client.until(lambda client=client, latest=latest: latest in client.received)
        await wait_for_pauses(harness)
        gate.release()
    answers = await answers_of(clients)
    assert len(harness.upstream.requests) == 1
    assert {answer.body for answer in answers} == {b"".join([*events, DONE])}
    assert {answer.cut for answer in answers} == {False}
    assert [answer.get("Transfer-Encoding") for answer in answers] == [b"chunked"] * 50
    await assert_all_released(harness)
    hit = await harness.ask(data)
    assert (hit.get("X-Cache"), hit.body) == (b"HIT", answers[0].body)


@pytest.mark.parametrize(
    ("data", "shared"),
    [
        (request("/v1/models"), True),
        (post(EMBEDDINGS, b'{"input":"x"}'), True),
        (post(CHAT, b'{"temperature":0}'), True),
        (post(CHAT, b'{"seed":7}'), True),
        (post("/v1/completions", b'{"seed":7}'), True),
        (post(CHAT, b'{"temperature":1}'), False),
        (request("/v1/models", headers=[("Cache-Control", "no-cache")]), False),
        (request("/v1/models", headers=[("Cookie", "a=b")]), False),
        (post("/v1/files", b"{}"), False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_only_requests_with_reproducible_response_share(
    harness: ProxyHarness, data: bytes, shared: bool
) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script(lambda _: True, [gate, response(b"{}")])
    clients = await send_concurrently(harness, [data] * 2)
    await wait_for_pauses(harness, 1 if shared else 2)
    gate.release()
    assert [answer.status for answer in await answers_of(clients)] == [200, 200]
    assert len(harness.upstream.requests) == (1 if shared else 2)
    await assert_all_released(harness)


@pytest.mark.parametrize(
    "other",
    [
        request("/v1/models", key=b"Bearer sk-other"),
        request("/v1/models?x"),
        request("/v1/models", headers=[("Accept", "text/plain")]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_requests_with_different_cache_keys_do_not_share(
    harness: ProxyHarness, other: bytes
) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script(lambda _: True, [gate, response(b"{}")])
    clients = await send_concurrently(harness, [request("/v1/models"), other])
    await wait_for_pauses(harness, 2)
    gate.release()
    await answers_of(clients)
    assert len(harness.upstream.requests) == 2


@pytest.mark.parametrize("mode", ["off", "all"])
@pytest_twisted.ensureDeferred
async def test_coalesce_setting_selects_shared_requests(harness: ProxyHarness, mode: str) -> None:
    await harness.start(COALESCE=mode)
    gate = Pause()
    harness.upstream.script(lambda _: True, [gate, response(b"{}")])
    clients = await send_concurrently(harness, [post(CHAT, b'{"temperature":1}')] * 2)
    await wait_for_pauses(harness, 1 if mode == "all" else 2)
    gate.release()
    await answers_of(clients)
    assert len(harness.upstream.requests) == (1 if mode == "all" else 2)


@pytest.mark.parametrize(
    "invalidation", [request("/v1/files/x", "DELETE"), request("/cache", "DELETE")]
)
@pytest_twisted.ensureDeferred
async def test_request_after_write_or_clearing_does_not_join_older_flight(
    harness: ProxyHarness, invalidation: bytes
) -> None:
    await harness.start()
    gate = Pause()

    def old_then_new(received: Request) -> Any:
        return [gate, response(b"old")] if received.number == 1 else response(b"new")

    harness.upstream.script("GET /v1/files", old_then_new)
    harness.upstream.script("DELETE /v1/files/x", response(b"{}"))
    (earlier,) = await send_concurrently(harness, [request("/v1/files")])
    await wait_for_pauses(harness)
    assert (await harness.ask(invalidation)).status == 200
    later = await harness.connect()
    later.send(request("/v1/files"))
    await harness.upstream.wait_until(lambda: len(harness.upstream.requests) >= 2)
    gate.release()
    assert (await earlier.answer()).body == b"old"
    assert (await later.answer()).body == b"new"
    assert (await harness.ask(request("/v1/files"))).get("X-Cache") in (b"HIT", b"MISS")
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_http_1_0_follower_receives_same_body_unchunked(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, *sse([event(1), DONE], 0)])
    http_1_0 = request().replace(b"HTTP/1.1", b"HTTP/1.0")
    clients = await send_concurrently(harness, [request(), http_1_0])
    await wait_for_pauses(harness)
    gate.release()
    leader, follower = await answers_of(clients)
    assert leader.body == follower.body == event(1) + DONE
    assert follower.get("Transfer-Encoding") is None
    assert follower.get("Connection") == b"close"


@pytest_twisted.ensureDeferred
async def test_interim_response_reaches_only_the_leader(harness: ProxyHarness) -> None:
    await harness.start()
    before_hints, before_response = Pause(), Pause()
    hints = head(103, [(b"Set-Cookie", b"a=b"), (b"OpenAI-Organization", b"of-the-leader")])
    script = [before_hints, hints, before_response, response(b"{}")]
    harness.upstream.script("/v1/models", script)
    leader, follower = await send_concurrently(harness, [request()] * 2)
    await wait_for_pauses(harness)
    before_hints.release()
    await leader.until(lambda: b"of-the-leader" in leader.received)
    before_response.release()
    await follower.until(lambda: follower.received.endswith(b"{}"))
    assert follower.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"103 Early Hints" not in follower.received
    assert (await leader.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_interim_response_is_dropped_after_the_leader_left(harness: ProxyHarness) -> None:
    await harness.start()
    before_hints = Pause()
    hints = head(103, [(b"Set-Cookie", b"a=b")])
    harness.upstream.script("/v1/models", [before_hints, hints, response(b"{}")])
    leader, follower = await send_concurrently(harness, [request()] * 2)
    await wait_for_pauses(harness)
    leader.abort()
    await eventually(harness.reactor, lambda: [len(each) for each in flights_of(harness)] == [1])
    before_hints.release()
    await follower.until(lambda: follower.received.endswith(b"{}"))
    assert follower.received.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest_twisted.ensureDeferred
async def test_follower_receives_age_of_upstream(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, response(b"{}", headers=[(b"Age", b"7")])])
    clients = await send_concurrently(harness, [request()] * 2)
    await wait_for_pauses(harness)
    gate.release()
    assert [answer.all("Age") for answer in await answers_of(clients)] == [[b"7"], [b"7"]]


@pytest_twisted.ensureDeferred
async def test_flight_leaves_no_reference_cycle(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, *sse([event(1), DONE], 0)])
    clients = await send_concurrently(harness, [request()] * 3)
    await wait_for_pauses(harness)
    with assert_no_cycles():
        gate.release()
        await answers_of(clients)
