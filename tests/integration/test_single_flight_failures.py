"""Disconnected clients and failed upstream requests of a single flight."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from tests.integration.cached_requests import CHUNKED, store_of
from tests.integration.concurrent_requests import (
    answers_of,
    assert_all_released,
    flights_of,
    send_concurrently,
    wait_for_pauses,
)
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, eventually, request
from tests.support.requests import Request
from tests.support.steps import Close, Pause, Reset

# Disconnected clients.


@pytest.mark.parametrize("when", ["before the header", "inside the body"])
@pytest_twisted.ensureDeferred
async def test_disconnect_of_leader_does_not_affect_followers(
    harness: ProxyHarness, when: str
) -> None:
    await harness.start()
    gate = Pause()
    if when == "before the header":
        script = [gate, response(b"abcdef", content_type=b"text/plain")]
    else:
        script = [head(200, [(b"Content-Length", b"6")]), b"abc", gate, b"def"]
    harness.upstream.script("/v1/models", script)
    leader, first, second = await send_concurrently(harness, [request()] * 3)
    await wait_for_pauses(harness)
    leader.abort()
    await leader.wait_closed()
    await eventually(harness.reactor, lambda: len(harness.events) or harness.access_log.pending)
    third = await harness.connect()
    third.send(request())
    gate.release()
    answers = await answers_of([first, second, third])
    assert [answer.body for answer in answers] == [b"abcdef"] * 3
    assert len(harness.upstream.requests) == 1
    assert not harness.upstream.requests[0].lost
    assert (await harness.ask(request())).get("X-Cache") == b"HIT"
    await assert_all_released(harness)
    assert (await harness.logged())[0]["ended"] == "client_gone"


@pytest.mark.parametrize("when", ["before the header", "inside the body"])
@pytest_twisted.ensureDeferred
async def test_disconnect_of_last_subscriber_aborts_upstream_request(
    harness: ProxyHarness, when: str
) -> None:
    await harness.start()
    start = [] if when == "before the header" else [head(200, [(b"Content-Length", b"6")]), b"abc"]
    harness.upstream.script("/v1/models", [*start, Pause()])
    clients = await send_concurrently(harness, [request()] * 3)
    await wait_for_pauses(harness)
    for client in clients:
        assert not harness.upstream.requests[0].lost
        client.abort()
        await client.wait_closed()
    await harness.upstream.wait_for(lambda received: received.lost)
    await assert_all_released(harness)
    assert [each["ended"] for each in await harness.logged(3)] == ["client_gone"] * 3


@pytest.mark.parametrize(
    "answer",
    [
        response(b'{"private to":"A"}', headers=[(b"Cache-Control", b"private")]),
        response(b'{"error":"bad key"}', 401),
    ],
    ids=["private", "bad key"],
)
@pytest_twisted.ensureDeferred
async def test_response_for_disconnected_leader_is_not_sent_to_follower(
    harness: ProxyHarness, answer: bytes
) -> None:
    await harness.start(CACHE_SHARED="models")
    gate = Pause()

    def by_credential(received: Request) -> Any:
        of_leader = received.all(b"authorization") == [b"Bearer A"]
        return [gate, answer] if of_leader else response(b'{"for":"B"}')

    harness.upstream.script("/v1/models", by_credential)
    leader, follower = await send_concurrently(
        harness, [request(key=b"Bearer A"), request(key=b"Bearer B")]
    )
    await wait_for_pauses(harness)
    (flight,) = flights_of(harness)
    await eventually(harness.reactor, lambda: len(flight) == 2)
    leader.abort()
    await eventually(harness.reactor, lambda: len(flight) == 1)
    gate.release()
    assert (await follower.answer()).body == b'{"for":"B"}'
    await assert_all_released(harness)


# Upstream failures.


@pytest_twisted.ensureDeferred
async def test_truncated_response_is_cut_for_all_and_not_stored(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script("/v1/models", [head(200, [CHUNKED]), chunk(b"abc"), gate, Reset()])
    clients = await send_concurrently(harness, [request()] * 3)
    await wait_for_pauses(harness)
    await clients[2].until(lambda: b"abc" in clients[2].received)
    gate.release()
    answers = await answers_of(clients)
    assert [(answer.body, answer.cut) for answer in answers] == [(b"abc", True)] * 3
    assert len(store_of(harness)) == 0
    await assert_all_released(harness)
    assert [each["ended"] for each in await harness.logged(3)] == ["cut"] * 3


@pytest_twisted.ensureDeferred
async def test_failure_before_header_is_answered_to_all(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, Close()])
    clients = await send_concurrently(harness, [request()] * 5)
    await wait_for_pauses(harness)
    gate.release()
    answers = await answers_of(clients)
    assert {(answer.status, answer.body) for answer in answers} == {(502, answers[0].body)}
    assert b"upstream_unreachable" in answers[0].body
    assert len(harness.upstream.requests) == 1
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_unreachable_upstream_is_a_502_for_all(harness: ProxyHarness) -> None:
    await harness.start(upstream="http://127.0.0.1:9")
    # Not `send_concurrently`: the first request may fail before the last one is sent.
    answers = await gatherResults([ensureDeferred(harness.ask(request())) for _ in range(3)])
    assert [answer.status for answer in answers] == [502] * 3
    await assert_all_released(harness)


@pytest.mark.parametrize("status", [404, 429, 500])
@pytest_twisted.ensureDeferred
async def test_error_status_of_upstream_is_shared_and_not_stored(
    harness: ProxyHarness, status: int
) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, response(b'{"error":1}', status)])
    clients = await send_concurrently(harness, [request()] * 3)
    await wait_for_pauses(harness)
    gate.release()
    answers = await answers_of(clients)
    assert [(answer.status, answer.body) for answer in answers] == [(status, b'{"error":1}')] * 3
    assert len(harness.upstream.requests) == 1
    assert len(store_of(harness)) == 0
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_407_of_upstream_is_a_502_for_all(harness: ProxyHarness) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, response(b"{}", 407)])
    clients = await send_concurrently(harness, [request()] * 2)
    await wait_for_pauses(harness)
    gate.release()
    answers = await answers_of(clients)
    assert [answer.status for answer in answers] == [502, 502]
    assert b"egress_proxy_refused" in answers[0].body
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_request_pipelined_after_failed_one_is_sent_upstream(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/models", [Close()], times=1)
    client = await harness.connect()
    client.send(request() * 2)
    assert [(await client.answer()).status for _ in range(2)] == [502, 200]
    await assert_all_released(harness)


# Stale responses after an upstream failure.


async def start_with_stale_response(harness: ProxyHarness, failure: Any) -> Pause:
    """Start a daemon that has a stale response to ``/v1/models``; upstream will send *failure*.

    :returns: the pause before *failure*.
    """
    await harness.start(CACHE_TTL="10s", CACHE_STALE="1h")
    harness.upstream.script("/v1/models", response(b'{"a":1}'), times=1)
    await harness.ask(request())
    harness.advance(15.0)
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, failure])
    return gate


@pytest.mark.parametrize("failure", [response(b"{}", 500), Close()], ids=["status", "cut"])
@pytest_twisted.ensureDeferred
async def test_request_pipelined_after_stale_response_also_gets_it(
    skewed_harness: ProxyHarness, failure: Any
) -> None:
    harness = skewed_harness
    gate = await start_with_stale_response(harness, failure)
    client = await harness.connect()
    client.send(request() + request())
    await wait_for_pauses(harness)
    gate.release()
    assert [(await client.answer()).body for _ in range(2)] == [b'{"a":1}'] * 2
    await assert_all_released(harness)


@pytest.mark.parametrize("failure", [response(b"{}", 500), Close()], ids=["status", "cut"])
@pytest_twisted.ensureDeferred
async def test_clearing_pipelined_after_stale_response_does_not_affect_follower(
    skewed_harness: ProxyHarness, failure: Any
) -> None:
    harness = skewed_harness
    gate = await start_with_stale_response(harness, failure)
    clients = await send_concurrently(harness, [request() + request("/cache", "DELETE"), request()])
    await wait_for_pauses(harness)
    await eventually(harness.reactor, lambda: harness.daemon.context.counters.coalesced)
    gate.release()
    assert [answer.body for answer in await answers_of(clients)] == [b'{"a":1}'] * 2
    assert (await clients[0].answer()).body == b'{"message":"Cache cleared successfully"}'
    await assert_all_released(harness)
