"""Request directives, lifetime, size and headers of hits."""

from __future__ import annotations

import json
import re
import socket
import time
from datetime import datetime

import pytest
import pytest_twisted

from goproxyai.daemon import eviction
from goproxyai.reactor.socket_write import unsent_bytes
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

# Request directives.


@pytest.mark.parametrize("field", [("Cache-Control", "no-cache"), ("Pragma", "no-cache")])
@pytest_twisted.ensureDeferred
async def test_no_cache_is_forwarded_and_replaces_stored_response(
    harness: ProxyHarness, field: tuple[str, str]
) -> None:
    await start_numbered(harness)
    first, second = await ask_twice(harness, request(), request(headers=[field]))
    assert x_cache(first, second) == [b"MISS", b"MISS"]
    assert second.get("Cache-Status") == b"goproxyai; fwd=request"
    third = await harness.ask(request())
    assert (third.get("X-Cache"), third.body) == (b"HIT", second.body)


@pytest_twisted.ensureDeferred
async def test_no_store_bypasses_cache(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    unseen = request(headers=[("Cache-Control", "no-store")])
    first, second = await ask_twice(harness, unseen, request())
    assert x_cache(first, second) == [b"MISS", b"MISS"]
    assert first.get("Cache-Status") == b"goproxyai; fwd=bypass; detail=no-store"
    again, stored = await ask_twice(harness, unseen, request())
    assert again.body != second.body
    assert (stored.get("X-Cache"), stored.body) == (b"HIT", second.body)


@pytest_twisted.ensureDeferred
async def test_max_age_0_accepts_no_stored_response(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    first, second = await ask_twice(
        harness, request(), request(headers=[("Cache-Control", "max-age=0")])
    )
    assert x_cache(first, second) == [b"MISS", b"MISS"]
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
async def test_only_if_cached_is_never_forwarded(
    harness: ProxyHarness, method: str, target: str, control: str, hit: bool
) -> None:
    await start_numbered(harness)
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
async def test_response_is_a_hit_until_it_expires(skewed_harness: ProxyHarness) -> None:
    await start_numbered(skewed_harness)
    await skewed_harness.ask(request())
    advance(skewed_harness, 299)
    late = await skewed_harness.ask(request())
    assert (late.get("X-Cache"), late.get("Age")) == (b"HIT", b"299")
    advance(skewed_harness, 1)
    assert x_cache(await skewed_harness.ask(request())) == [b"MISS"]
    assert len(skewed_harness.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_expired_entry_is_removed_without_a_request(
    skewed_harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "EVICTION_INTERVAL_SECONDS", 0.05)
    await start_numbered(skewed_harness, CACHE_TTL="1m")
    await skewed_harness.ask(request())
    assert len(store_of(skewed_harness)) == 1
    advance(skewed_harness, 60)
    await eventually(skewed_harness.reactor, lambda: len(store_of(skewed_harness)) == 0)
    assert (store_of(skewed_harness).bytes, store_of(skewed_harness).expirations) == (0, 1)


@pytest_twisted.ensureDeferred
async def test_max_age_limits_age_of_hit(skewed_harness: ProxyHarness) -> None:
    await start_numbered(skewed_harness)
    await skewed_harness.ask(request())
    advance(skewed_harness, 10)
    lenient = await skewed_harness.ask(request(headers=[("Cache-Control", "max-age=60")]))
    strict = await skewed_harness.ask(request(headers=[("Cache-Control", "max-age=9")]))
    assert x_cache(lenient, strict) == [b"HIT", b"MISS"]


UPSTREAM_FIELDS = [(b"Age", b"7"), (b"X-Cache", b"theirs")]


@pytest_twisted.ensureDeferred
async def test_hit_states_storage_time_age_and_remaining_ttl(
    skewed_harness: ProxyHarness,
) -> None:
    await skewed_harness.start()
    skewed_harness.upstream.script(any_request, response(b"{}", 200, UPSTREAM_FIELDS))
    before = int(time.time())
    miss = await skewed_harness.ask(request())
    after = time.time()
    advance(skewed_harness, 9)
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
async def test_disabled_cache_stores_nothing(harness: ProxyHarness, texts: dict[str, str]) -> None:
    await start_numbered(harness, **texts)
    for data in (request(), post(CHAT, QUESTION)):
        answers = await ask_twice(harness, data)
        assert x_cache(*answers) == [b"MISS", b"MISS"]
        assert answers[0].get("Cache-Status") == b"goproxyai; fwd=bypass; detail=off"
    cached = await harness.ask(request(headers=[("Cache-Control", "only-if-cached")]))
    assert cached.status == 504
    cleared = await harness.ask(request("/cache", "DELETE"))
    assert cleared.status == 200
    assert json.loads((await harness.ask(request("/stats"))).body)["cache"]["item_count"] == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(("size", "cached"), [(100_000, b"HIT"), (105_000, b"MISS")])
@pytest_twisted.ensureDeferred
async def test_response_above_a_tenth_of_the_cache_is_not_stored(
    harness: ProxyHarness, size: int, cached: bytes, framing: str
) -> None:
    await harness.start(MAX_CACHE_SIZE="1")
    body = b"x" * size
    pieces = [chunk(body[at : at + 9_999]) for at in range(0, size, 9_999)]
    harness.upstream.script("/v1/length", response(body, content_type=b"text/plain"))
    harness.upstream.script("/v1/chunked", [head(200, [CHUNKED]), *pieces, chunk(b"")])
    answers = await ask_twice(harness, request(f"/v1/{framing}"))
    assert x_cache(*answers) == [b"MISS", cached]
    assert [answer.body for answer in answers] == [body, body]
    assert store_of(harness).reserved == 0


@pytest_twisted.ensureDeferred
async def test_least_recently_used_response_is_evicted(harness: ProxyHarness) -> None:
    await harness.start(MAX_CACHE_SIZE="1")
    harness.upstream.script(any_request, response(b"x" * 90_000, content_type=b"text/plain"))
    for number in range(20):
        await harness.ask(request(f"/v1/{number}"))
        assert x_cache(await harness.ask(request("/v1/0"))) == [b"HIT"]
    assert store_of(harness).bytes <= 1024 * 1024
    assert store_of(harness).evictions == 20 - len(store_of(harness))
    assert x_cache(await harness.ask(request("/v1/1"))) == [b"MISS"]


@pytest_twisted.ensureDeferred
async def test_large_hit_is_written_as_the_client_reads(harness: ProxyHarness) -> None:
    await harness.start()
    body = bytes(range(256)) * 4096 * 9
    harness.upstream.script("/v1/large", response(body, content_type=b"text/plain"))
    miss = await harness.ask(request("/v1/large"))
    assert len(store_of(harness)) == 1
    wire = await harness.connect()
    wire.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    wire.pause_reading()
    wire.send(request("/v1/large"))
    assert harness.daemon is not None
    connections = harness.daemon.listeners.factory.connections
    await eventually(harness.reactor, lambda: any(unsent_bytes(c.transport) for c in connections))
    (connection,) = [c for c in connections if unsent_bytes(c.transport)]
    assert not (await harness.logged())[1:], "the hit is complete before the client reads"
    peak = unsent_bytes(connection.transport)
    wire.resume_reading()

    def whole() -> bool:
        nonlocal peak
        peak = max(peak, unsent_bytes(connection.transport))
        return wire.received_size > len(body)

    await wire.until(whole, 30)
    hit = await wire.answer()
    assert x_cache(miss, hit) == [b"MISS", b"HIT"]
    assert hit.body == miss.body == body
    assert peak <= 256 * 1024
    wire.send(request("/v1/large/other"))
    assert (await wire.answer()).status == 404


@pytest_twisted.ensureDeferred
async def test_client_that_disconnects_during_large_hit_is_logged(
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
