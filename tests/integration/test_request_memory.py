"""The budget of requests and responses in progress, in a daemon between real sockets."""

from __future__ import annotations

import gc
import json

import pytest
import pytest_twisted

from goproxyai.admin.refusals import draining
from goproxyai.http11.request_body import LARGE_BODY_BYTES, RequestBody
from goproxyai.http11.server_connection import ServerConnection
from goproxyai.limits.request_memory import Holding, RequestMemory
from goproxyai.proxy import shared_body
from tests.integration.cached_requests import CHAT, start_numbered, x_cache
from tests.integration.concurrent_requests import (
    assert_all_released,
    large_answers,
    send_concurrently,
    stall,
    wait_for_pauses,
)
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.prompt import PROMPT_SECONDS
from tests.support.requests import Request
from tests.support.steps import Answer, Pause

CHUNKED = (b"Transfer-Encoding", b"chunked")
JSON_TYPE = (b"Content-Type", b"application/json")
MIB = 1 << 20
LARGE_BODY = b'"' + b"x" * 300_000 + b'"'


def memory_of(harness: ProxyHarness) -> RequestMemory:
    assert harness.daemon is not None
    return harness.daemon.context.memory


def use_share(harness: ProxyHarness, share: float) -> Holding:
    """Hold a share of the budget, as other requests would."""
    holding = Holding(memory_of(harness))
    holding.hold(int(memory_of(harness).max_bytes * share))
    return holding


@pytest_twisted.ensureDeferred
async def test_body_is_streamed_past_the_cache_when_memory_is_tight(harness: ProxyHarness) -> None:
    await start_numbered(harness, MAX_REQUEST_MEMORY="4")
    use_share(harness, 0.76)
    answer = await harness.ask(post(CHAT, LARGE_BODY))
    assert answer.status == 200
    assert answer.get("Cache-Status") == b"goproxyai; fwd=bypass; detail=memory"
    assert harness.upstream.requests[0].body == LARGE_BODY


@pytest_twisted.ensureDeferred
async def test_body_that_is_being_collected_is_streamed_when_memory_becomes_tight(
    harness: ProxyHarness,
) -> None:
    await start_numbered(harness, MAX_REQUEST_MEMORY="4")
    client = await harness.connect()
    data = post(CHAT, LARGE_BODY)
    client.send(data[:150_000])
    await eventually(harness.reactor, lambda: memory_of(harness).used > 100_000)
    use_share(harness, 0.8)
    client.send(data[150_000:])
    answer = await client.answer()
    assert answer.get("Cache-Status") == b"goproxyai; fwd=bypass; detail=memory"
    assert harness.upstream.requests[0].body == LARGE_BODY


@pytest_twisted.ensureDeferred
async def test_request_that_is_refused_while_its_body_is_collected_is_not_forwarded(
    harness: ProxyHarness,
) -> None:
    await start_numbered(harness, MAX_REQUEST_MEMORY="4")
    assert (await harness.ask(request("/v1/models"))).status == 200  # leaves a pooled connection
    client = await harness.connect()
    data = post(CHAT, LARGE_BODY)
    client.send(data[:150_000])
    await eventually(harness.reactor, lambda: memory_of(harness).used > 100_000)
    use_share(harness, 1.1)
    client.send(data[150_000:151_000])
    answer = await client.answer()
    assert (answer.status, answer.get("Connection")) == (503, b"close")
    await eventually(harness.reactor, lambda: not len(harness.pool), PROMPT_SECONDS)
    _, refusal = await harness.logged(2)
    assert (refusal["status"], refusal["code"]) == (503, "overloaded")


@pytest_twisted.ensureDeferred
async def test_requests_are_refused_when_memory_is_full(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    holding = use_share(harness, 0.95)
    refused = await harness.ask(request("/v1/models"))
    assert refused.status == 503
    assert json.loads(refused.body)["error"]["code"] == "overloaded"
    assert refused.get("Retry-After") == b"1"
    assert (await harness.ask(request("/health"))).status == 200
    holding.hold(0)
    assert (await harness.ask(request("/v1/models"))).status == 200
    refusal, _, _ = await harness.logged(3)
    assert (refusal["status"], refusal["code"]) == (503, "overloaded")


@pytest_twisted.ensureDeferred
async def test_request_body_is_released_at_the_response_head(harness: ProxyHarness) -> None:
    await harness.start()
    before_head, after_head = Pause(), Pause()
    script = [before_head, head(200, [CHUNKED]), after_head, chunk(b"x"), chunk(b"")]
    harness.upstream.script(CHAT, script)
    client = await harness.connect()
    client.send(post(CHAT, LARGE_BODY))
    await wait_for_pauses(harness)
    assert memory_of(harness).used >= len(LARGE_BODY)
    before_head.release()
    await client.until(lambda: b"\r\n\r\n" in client.received)
    assert memory_of(harness).used < len(LARGE_BODY)
    after_head.release()
    assert (await client.answer()).body == b"x"
    assert harness.upstream.requests[0].body == LARGE_BODY


@pytest_twisted.ensureDeferred
async def test_request_body_is_not_held_while_a_client_reads_a_hit(harness: ProxyHarness) -> None:
    await harness.start()
    answer = response(b'{"x":"' + b"y" * 5 * MIB + b'"}')
    harness.upstream.script(CHAT, answer)
    data = post(CHAT, LARGE_BODY)
    assert (await harness.ask(data)).status == 200
    slow = await harness.connect()
    slow.pause_reading()
    slow.send(data)
    assert harness.daemon is not None
    replayed = harness.daemon.context.replayed
    await eventually(harness.reactor, lambda: len(replayed))
    assert memory_of(harness).used < len(LARGE_BODY)
    slow.resume_reading()
    assert x_cache(await slow.answer()) == [b"HIT"]
    assert len(replayed) == 0


@pytest_twisted.ensureDeferred
async def test_requests_that_cannot_share_are_sent_with_their_body(harness: ProxyHarness) -> None:
    await harness.start(COALESCE="all")
    pause, others = Pause(), Pause()

    def script(asked: Request) -> Answer:
        answer = response(b"%d" % asked.number, headers=[(b"Cache-Control", b"no-store")])
        return [pause if asked.number == 1 else others, answer]

    harness.upstream.script(CHAT, script)
    clients = await send_concurrently(harness, [post(CHAT, LARGE_BODY)] * 3)
    await wait_for_pauses(harness)
    shared = memory_of(harness)  # the three share one body
    await eventually(harness.reactor, lambda: 0 < shared.used < 2 * len(LARGE_BODY))
    pause.release()
    await wait_for_pauses(harness, 2)
    assert len(LARGE_BODY) <= shared.used < 2 * len(LARGE_BODY)
    others.release()
    answers = [await client.answer() for client in clients]
    assert sorted(answer.body for answer in answers) == [b"1", b"2", b"3"]
    assert [each.body for each in harness.upstream.requests] == [LARGE_BODY] * 3
    gc.collect()
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_shared_body_is_counted_when_the_cache_removes_it_before_a_subscriber_has_read_it(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel's socket buffers take 4 MiB, the default limit.
    monkeypatch.setattr(shared_body, "MAX_SHARED_BYTES", 9 * MIB)
    await harness.start()
    gate = Pause()
    size = 8 * MIB
    harness.upstream.script(
        "/v1/models", [head(200, [CHUNKED]), chunk(b"-"), gate, chunk(b"x" * size), chunk(b"")]
    )
    slow, fast = await send_concurrently(harness, [request()] * 2)
    await wait_for_pauses(harness)
    stall(slow)
    gate.release()
    await large_answers([fast], size)
    assert memory_of(harness).used < MIB
    assert harness.daemon is not None
    harness.daemon.context.store.clear()
    assert memory_of(harness).used > size
    slow.resume_reading()
    (answer,) = await large_answers([slow], size)
    assert len(answer.body) == size + 1
    await assert_all_released(harness)


@pytest_twisted.ensureDeferred
async def test_request_that_fails_before_the_turn_of_its_large_body_is_not_forwarded(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_numbered(harness)
    continue_later = ServerConnection.continue_later

    def end_in_between(connection: ServerConnection, body: RequestBody) -> None:
        continue_later(connection, body)
        connection.shut_down(draining())

    monkeypatch.setattr(ServerConnection, "continue_later", end_in_between)
    client = await harness.connect()
    client.send(post(CHAT, b"x" * LARGE_BODY_BYTES))
    assert (await client.answer()).status == 503
    await client.wait_closed()
    assert (await harness.ask(request("/v1/models"))).status == 200
    assert [each.method for each in harness.upstream.requests] == [b"GET"]
    refusal, _ = await harness.logged(2)
    assert refusal["code"] == "draining"
