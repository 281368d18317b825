"""Requested lifetimes, and expired responses that are served."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import pytest_twisted

from tests.integration.cached_requests import (
    CHAT,
    CHUNKED,
    QUESTION,
    advance,
    any_request,
    ask_twice,
    start_numbered,
    store_of,
    x_cache,
)
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.steps import Close, Pause


@pytest.mark.parametrize(
    ("given", "lives", "until"),
    [("90", 89.0, 91.0), ("1h", 3599.0, 3601.0), ("30h", 7199.0, 7201.0), ("junk", 299.0, 301.0)],
)
@pytest_twisted.ensureDeferred
async def test_request_sets_ttl_of_its_response(
    skewed_harness: ProxyHarness, given: str, lives: float, until: float
) -> None:
    await start_numbered(skewed_harness, CACHE_MAX_TTL="2h")
    asked = request(headers=[("X-Cache-TTL", given)])
    other = request("/v1/other")
    for data in (asked, other):
        await skewed_harness.ask(data)
    advance(skewed_harness, lives)
    assert x_cache(await skewed_harness.ask(request())) == [b"HIT"], (
        "the field is not part of the key"
    )
    assert x_cache(await skewed_harness.ask(other)) == [b"HIT" if lives < 300 else b"MISS"]
    advance(skewed_harness, until - lives)
    assert x_cache(await skewed_harness.ask(asked)) == [b"MISS"]
    sent = [name.lower() for name, _ in skewed_harness.upstream.requests[0].headers]
    assert b"x-cache-ttl" not in sent


@pytest_twisted.ensureDeferred
async def test_ttl_of_zero_stores_nothing(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    asked = request(headers=[("X-Cache-TTL", "0")])
    assert x_cache(*await ask_twice(harness, asked)) == [b"MISS", b"MISS"]
    assert len(store_of(harness)) == 0


@pytest_twisted.ensureDeferred
async def test_max_stale_accepts_expired_response(
    skewed_harness: ProxyHarness,
) -> None:
    await start_numbered(skewed_harness, CACHE_STALE="10m")
    await skewed_harness.ask(request())
    advance(skewed_harness, 360.0)
    for control in ("max-stale=100", "max-stale"):
        stale = await skewed_harness.ask(request(headers=[("Cache-Control", control)]))
        assert stale.get("X-Cache") == b"HIT"
        status = stale.get("Cache-Status") or b""
        assert re.fullmatch(rb"goproxyai; hit; ttl=-(59|60|61)", status)
        assert int(stale.get("Age") or b"") >= 360
    fresh = await skewed_harness.ask(request(headers=[("Cache-Control", "max-stale=10")]))
    assert fresh.get("Cache-Status") == b"goproxyai; fwd=stale"
    assert x_cache(await skewed_harness.ask(request())) == [b"HIT"]


FAILING = {
    "500": response(b"{}", 500),
    "502": response(b"{}", 502),
    "503": response(b"{}", 503),
    "504 in chunks": [head(504, [CHUNKED]), chunk(b"{}"), Pause()],
    "closed": [Close()],
    "junk": b"junk\r\n\r\n",
}


@pytest.mark.parametrize("asked", [request(), post(CHAT, QUESTION)], ids=["shared", "not shared"])
@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
@pytest_twisted.ensureDeferred
async def test_expired_response_is_served_when_upstream_fails(
    skewed_harness: ProxyHarness, failing: Any, asked: bytes
) -> None:
    await start_numbered(skewed_harness, CACHE_STALE="10m")
    first = await skewed_harness.ask(asked)
    advance(skewed_harness, 360.0)
    skewed_harness.upstream.script(any_request, failing)
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
    advance(skewed_harness, 600.0)
    skewed_harness.upstream.script(any_request, response(b"{}", 503))
    assert (await skewed_harness.ask(asked)).status == 503


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
@pytest_twisted.ensureDeferred
async def test_expired_response_is_served_for_pipelined_requests(
    skewed_harness: ProxyHarness, failing: Any
) -> None:
    await start_numbered(skewed_harness, CACHE_STALE="10m")
    first = await skewed_harness.ask(request())
    advance(skewed_harness, 360.0)
    skewed_harness.upstream.script(any_request, failing)
    wire = await skewed_harness.connect()
    wire.send(request() * 3)
    assert [(await wire.answer()).body for _ in range(3)] == [first.body] * 3
    assert (
        len(skewed_harness.upstream.requests) >= 4
    )  # a request on a broken kept connection is retried


@pytest.mark.parametrize(
    ("fields", "control"),
    [([(b"Cache-Control", b"must-revalidate")], ""), ([], "no-cache")],
    ids=["response", "request"],
)
@pytest_twisted.ensureDeferred
async def test_request_or_response_may_forbid_stale_response(
    skewed_harness: ProxyHarness, fields: list[tuple[bytes, bytes]], control: str
) -> None:
    await skewed_harness.start(CACHE_STALE="10m")
    skewed_harness.upstream.script(any_request, response(b"{}", headers=fields), times=1)
    await skewed_harness.ask(request())
    advance(skewed_harness, 360.0)
    skewed_harness.upstream.script(any_request, response(b"{}", 503))
    headers = [("Cache-Control", control)] if control else []
    assert (await skewed_harness.ask(request(headers=headers))).status == 503


@pytest.mark.parametrize("later", [60.0, 360.0])
@pytest_twisted.ensureDeferred
async def test_max_age_applies_when_upstream_fails(
    skewed_harness: ProxyHarness, later: float
) -> None:
    await start_numbered(skewed_harness, CACHE_STALE="10m")
    await skewed_harness.ask(request())
    advance(skewed_harness, later)
    skewed_harness.upstream.script(any_request, response(b"{}", 503))
    answer = await skewed_harness.ask(request(headers=[("Cache-Control", "max-age=10")]))
    assert answer.status == 503


@pytest_twisted.ensureDeferred
async def test_max_ttl_of_zero_ignores_requested_ttl(harness: ProxyHarness) -> None:
    await start_numbered(harness, CACHE_MAX_TTL="0")
    assert x_cache(*await ask_twice(harness, request(headers=[("X-Cache-TTL", "1")]))) == [
        b"MISS",
        b"HIT",
    ]


@pytest_twisted.ensureDeferred
async def test_expired_response_is_not_served_by_default(
    skewed_harness: ProxyHarness,
) -> None:
    await start_numbered(skewed_harness)
    await skewed_harness.ask(request())
    advance(skewed_harness, 301.0)
    skewed_harness.upstream.script(any_request, response(b"{}", 503))
    answer = await skewed_harness.ask(request())
    assert (answer.status, answer.get("Cache-Status")) == (503, b"goproxyai; fwd=miss")


@pytest_twisted.ensureDeferred
async def test_expired_response_is_served_to_all_subscribers(
    skewed_harness: ProxyHarness,
) -> None:
    await start_numbered(skewed_harness, CACHE_STALE="10m")
    first = await skewed_harness.ask(request())
    advance(skewed_harness, 360.0)
    gate = Pause()
    skewed_harness.upstream.script(any_request, [gate, response(b"{}", 503)])
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
async def test_large_expired_response_is_written_as_the_client_reads(
    skewed_harness: ProxyHarness,
) -> None:
    await skewed_harness.start(CACHE_STALE="10m")
    body = b"x" * 3_000_000
    answer = response(body, content_type=b"text/plain")
    skewed_harness.upstream.script(any_request, answer, times=1)
    await skewed_harness.ask(request())
    advance(skewed_harness, 360.0)
    skewed_harness.upstream.script(any_request, response(b"{}", 503))
    wire = await skewed_harness.connect()
    wire.send(request())
    await wire.until(lambda: wire.received_size > len(body), 30)
    assert (await wire.answer()).body == body
