"""The access log: every request leaves one event."""

from __future__ import annotations

import time

import pytest
import pytest_twisted

from goproxyai.telemetry.log_output import LogOutput, OpenedLog
from tests.integration.logged_events import events_of, values
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.raw_client import LOOPED_VIA
from tests.support.steps import Close, Pause, Reset
from tests.unit.telemetry.samples import MemoryWriter

ASKED = b'{"model":"gpt-4o-mini","messages":[]}'
CHUNKED = (b"Transfer-Encoding", b"chunked")


@pytest_twisted.ensureDeferred
async def test_event_of_a_miss_has_all_fields(harness: ProxyHarness) -> None:
    await harness.start()
    before = time.time()
    data = post("/v1/chat/completions?a=secret&b", ASKED, [("X-Forwarded-For", "192.0.2.7")])
    answer = await harness.ask(data)
    after = time.time()
    (event,) = await events_of(harness, 1)
    times, when = event.pop("ms"), event.pop("time")
    assert event == {
        "method": "POST",
        "path": "/v1/chat/completions?a&b",
        "status": 200,
        "cache": "MISS",
        "client": "192.0.2.7",
        "bytes_in": len(ASKED),
        "bytes_out": len(answer.body),
        "ended": "ok",
        "request_id": answer.get("X-Proxy-Request-Id").decode(),
        "upstream_request_id": "req_000001",
        "tokens": {
            "model": "gpt-4o-mini", "prompt": 1, "completion": 8, "cached": 0, "reasoning": 0,
        },
    }  # fmt: skip
    assert before - 1 <= when <= after + 1
    assert set(times) == {"total", "upstream", "proxy"}
    assert 0 < times["upstream"] <= times["total"] < 10_000
    assert times["proxy"] == pytest.approx(times["total"] - times["upstream"], abs=0.01)


@pytest_twisted.ensureDeferred
async def test_event_of_a_hit_has_no_upstream_fields(harness: ProxyHarness) -> None:
    await harness.start()
    answers = [await harness.ask(request()) for _ in range(2)]
    event = (await events_of(harness, 2))[1]
    assert values(event, "status", "cache", "ended") == [200, "HIT", "ok"]
    assert values(event, "bytes_in", "bytes_out") == [0, len(answers[1].body)]
    assert set(event["ms"]) == {"total"}
    assert "upstream_request_id" not in event
    assert "code" not in event


@pytest.mark.parametrize(
    ("data", "cache"),
    [
        (request("/v1/files", "POST", body=b"x"), "path"),
        (request("/v1/files", "DELETE"), "method"),
        (request(headers=[("X-Custom", "1")]), "header"),
        (request(headers=[("Cache-Control", "no-store")]), "no-store"),
        (request(headers=[("Cache-Control", "no-cache")]), "MISS"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_cache_field_names_the_bypass_reason(
    harness: ProxyHarness, data: bytes, cache: str
) -> None:
    await harness.start()
    await harness.ask(data)
    assert (await events_of(harness, 1))[0]["cache"] == cache


@pytest_twisted.ensureDeferred
async def test_rate_limited_request_has_an_event(harness: ProxyHarness) -> None:
    await harness.start(RATE_LIMIT="1")
    await harness.ask(request())
    answer = await harness.ask(request())
    event = (await events_of(harness, 2))[1]
    assert values(event, "status", "cache", "client") == [429, "-", "127.0.0.1"]
    assert event["bytes_out"] == len(answer.body)


@pytest.mark.parametrize(
    ("data", "status", "code", "path"),
    [
        (request("/nowhere?key=secret"), 404, "not_found", "/nowhere?key"),
        (request("/v1%2fmodels"), 404, "not_found", "/v1%2fmodels"),
        (request("/health", "POST"), 405, "method_not_allowed", "/health"),
        (request("/v1/x", "TRACE"), 405, "method_not_allowed", "/v1/x"),
        (request("/stats", headers=[("X-Forwarded-For", "203.0.113.9")]), 403, "admin_forbidden",
         "/stats"),
        (request(headers=[("Cache-Control", "only-if-cached")]), 504, "only_if_cached",
         "/v1/models"),
        (request(headers=[("Via", LOOPED_VIA)]), 508, "loop_detected", "/v1/models"),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "bad_request", "/v1/models"),
        (b"GET /v1/../x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request", "/v1/../x"),
        (b"GET /v1/" + b"x" * 17_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long",
         "/v1/" + "x" * 505 + "..."),
        (request(headers=[("X-Long", "y" * 66_000)]), 431, "headers_too_large", "/v1/models"),
        (request("/v1/files", "POST", [("Content-Length", "99999999999")]), 413,
         "request_too_large", "/v1/files"),
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_refused_request_has_an_event_with_its_code(
    harness: ProxyHarness, data: bytes, status: int, code: str, path: str
) -> None:
    await harness.start()
    assert (await harness.ask(data)).status == status
    (event,) = await events_of(harness, 1)
    assert values(event, "status", "code", "cache", "ended") == [status, code, "-", "ok"]
    assert event["path"] == path
    assert event["method"] == data.partition(b" ")[0].decode()


@pytest_twisted.ensureDeferred
async def test_invalid_bytes_have_an_event(harness: ProxyHarness) -> None:
    await harness.start()
    wire = await harness.connect()
    wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert (await wire.answer()).status == 400
    (event,) = await events_of(harness, 1)
    assert values(event, "method", "status", "code") == ["-", 400, "bad_request"]


@pytest_twisted.ensureDeferred
async def test_system_endpoint_has_an_event(harness: ProxyHarness) -> None:
    await harness.start()
    answer = await harness.ask(request("/health?x=secret"))
    (event,) = await events_of(harness, 1)
    assert values(event, "method", "path", "status", "cache") == ["GET", "/health?x", 200, "-"]
    assert values(event, "bytes_out", "client") == [len(answer.body), "127.0.0.1"]


@pytest_twisted.ensureDeferred
async def test_event_of_an_upstream_error_has_its_request_id(harness: ProxyHarness) -> None:
    await harness.start()
    await harness.ask(request("/v1/nothing"))
    (event,) = await events_of(harness, 1)
    assert values(event, "status", "upstream_request_id") == [404, "req_000001"]
    assert "code" not in event


@pytest_twisted.ensureDeferred
async def test_event_of_an_upstream_failure_has_the_cause(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/broken", [Reset()])
    assert (await harness.ask(request("/v1/broken"))).status == 502
    (event,) = await events_of(harness, 1)
    assert values(event, "status", "code", "ended") == [502, "upstream_unreachable", "ok"]
    assert event["detail"].startswith("Connection")
    assert "upstream" not in event["ms"]


@pytest_twisted.ensureDeferred
async def test_client_gone_before_the_answer_is_a_499(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/slow", [Pause()])
    wire = await harness.connect()
    wire.send(post("/v1/slow", ASKED))
    await harness.upstream.wait_for(lambda one: one.paused)
    wire.abort()
    (event,) = await events_of(harness, 1)
    assert values(event, "status", "ended", "cache") == [499, "client_gone", "path"]
    assert values(event, "bytes_in", "bytes_out") == [len(ASKED), 0]


@pytest_twisted.ensureDeferred
async def test_client_gone_during_the_answer_keeps_its_status(harness: ProxyHarness) -> None:
    await harness.start()
    stream = [head(200, [CHUNKED, (b"x-request-id", b"req_9")]), chunk(b"12345"), Pause()]
    harness.upstream.script("/v1/slow", stream)
    wire = await harness.connect()
    wire.send(request("/v1/slow"))
    await wire.until(lambda: b"12345" in wire.received)
    wire.abort()
    (event,) = await events_of(harness, 1)
    assert values(event, "status", "ended", "bytes_out") == [200, "client_gone", 5]
    assert event["upstream_request_id"] == "req_9"


@pytest_twisted.ensureDeferred
async def test_client_gone_during_its_request_has_an_event(harness: ProxyHarness) -> None:
    await harness.start()
    wire = await harness.connect()
    wire.send(request("/v1/embeddings", "POST", [("Content-Length", "100")]) + b"{")
    assert harness.daemon is not None
    connections = harness.daemon.listeners.factory.connections
    await eventually(harness.reactor, lambda: any(not c.idle for c in connections))
    wire.abort()
    (event,) = await events_of(harness, 1)
    assert values(event, "status", "ended", "bytes_in") == [499, "client_gone", 1]
    assert not list(harness.upstream.requests)


@pytest_twisted.ensureDeferred
async def test_answer_cut_by_upstream_has_an_event(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/cut", [head(200, [CHUNKED]), chunk(b"12345"), Close()])
    assert (await harness.ask(request("/v1/cut"))).cut
    (event,) = await events_of(harness, 1)
    assert values(event, "status", "ended", "bytes_out") == [200, "cut", 5]
    assert event["code"] == "upstream_unreachable"


@pytest_twisted.ensureDeferred
async def test_each_pipelined_request_has_one_event(harness: ProxyHarness) -> None:
    await harness.start()
    wire = await harness.connect()
    paths = ["/health", "/nowhere", "/v1/models", "/v1/x"]
    wire.send(b"".join(map(request, paths)))
    for _ in paths:
        await wire.answer()
    assert sorted(event["path"] for event in await events_of(harness, 4)) == paths


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (b"id status=500 code=draining", '"id status=500 code=draining"'),
        (b"\x9b2J\x85", '"\\x9b2J\\x85"'),
        (b"\xe2\x80\xae", '"\xe2\\x80\xae"'),
        (b'"', '"\\""'),
    ],
)
@pytest_twisted.ensureDeferred
async def test_request_id_forges_nothing_in_a_text_log(
    harness: ProxyHarness, given: bytes, shown: str
) -> None:
    await harness.start()
    writer = MemoryWriter()
    output = LogOutput(lambda _: OpenedLog(writer, False), False, "info").open()
    harness.access_log.write_to(output.requests)
    harness.upstream.script("/v1/x", response(b"{}", headers=[(b"X-Request-Id", given)]))
    await harness.ask(request("/v1/x", headers=[("X-Request-Id", given.decode("latin-1"))]))
    harness.access_log.flush()
    line = writer.getvalue()
    assert line.count("\n") == 1
    assert line.removesuffix("\n").isprintable()
    assert line.endswith(f" upstream_request_id={shown}\n")
