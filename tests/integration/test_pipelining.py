"""Pipelined requests through the daemon."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from tests.support.answers import response
from tests.support.harness import ProxyHarness, request
from tests.support.steps import Close, Pause

pytestmark = pytest.mark.usefixtures("collect_garbage")

OK = b"HTTP/1.1 200 OK\r\n"


@pytest_twisted.ensureDeferred
async def test_pipelined_hit_waits_for_the_response_before_it(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    hit = await harness.ask(request())
    gate = Pause()
    harness.upstream.script("/v1/slow", [gate, response(b"slow")])
    client = await harness.connect()
    client.send(request("/v1/slow") + request() + request("/v1/files", "POST", body=b"x" * 10))
    await harness.upstream.wait_for(lambda seen: seen.paused)
    assert len(harness.upstream.requests) == 2
    assert client.received == b""
    gate.release()
    answers = [await client.answer() for _ in range(3)]
    assert [each.get("X-Cache") for each in answers] == [b"MISS", b"HIT", b"MISS"]
    assert [answers[0].body, answers[1].body] == [b"slow", hit.body]
    assert json.loads(answers[2].body)["bytes"] == 10


@pytest_twisted.ensureDeferred
async def test_many_pipelined_requests_get_their_responses(harness: ProxyHarness) -> None:
    await harness.start(CACHE_TTL="0")
    harness.upstream.script(
        lambda _: True, lambda seen: response(seen.target, headers=[(b"X-N", seen.target[-3:])])
    )
    client = await harness.connect()
    targets = [f"/v1/{number:03}" for number in range(100)]
    client.send(b"".join(map(request, targets)))
    answers = [await client.answer() for _ in targets]
    assert [each.body.decode() for each in answers] == targets
    assert harness.upstream.connections_made == 1


@pytest_twisted.ensureDeferred
async def test_broken_response_drops_pipelined_requests(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("/v1/cut", [OK + b"Content-Length: 9\r\n\r\npart", Close()])
    client = await harness.connect()
    client.send(request("/v1/cut") + request())
    await client.wait_closed()
    assert b'"object": "list"' not in client.received
    await harness.upstream.wait_closed()
