"""The spans of requests."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from opentelemetry.trace import SpanKind

from tests.integration.secrets_in_requests import (
    CASES,
    SECRETS,
    SETTINGS,
    assert_no_secret,
    script_upstream,
)
from tests.integration.traced import (
    CHAT_REQUEST,
    CLIENT_SPAN,
    Traced,
    context_of,
    error_type,
    identity,
    no_otel_variables,
    phases,
    traced,
    traceparent,
)
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.raw_client import LOOPED_VIA
from tests.support.steps import Close, Pause, Reset

__all__ = ["no_otel_variables", "traced"]  # fixtures

CHUNKED = (b"Transfer-Encoding", b"chunked")
EMBED = b'{"input":"a","model":"text-embedding-3-small"}'


async def request_begun(harness: ProxyHarness) -> None:
    """Wait until the daemon has read the head of a request."""
    assert harness.daemon is not None
    connections = harness.daemon.listeners.factory.connections
    await eventually(harness.reactor, lambda: any(not c.idle for c in connections))


@pytest_twisted.ensureDeferred
async def test_span_of_a_miss_is_the_clients_child_and_upstreams_parent(traced: Traced) -> None:
    harness = await traced.harness.start()
    headers = [traceparent(), ("X-Forwarded-For", "192.0.2.7"), ("X-Request-Id", "mine-1")]
    await harness.ask(post("/v1/chat/completions?a=secret", CHAT_REQUEST, headers))
    span = await traced.span()
    assert (span.name, span.kind) == ("chat gpt-4o-mini", SpanKind.SERVER)
    assert span.parent == CLIENT_SPAN
    assert span.parent is not None
    assert span.parent.is_remote
    assert list(map(identity, traced.sent())) == [identity(span.context)]
    assert context_of(span).trace_id == CLIENT_SPAN.trace_id
    assert context_of(span).span_id != CLIENT_SPAN.span_id
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "client.address": "192.0.2.7",
        "server.address": "127.0.0.1",
        "server.port": harness.upstream_port,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 8,
        "goproxyai.cache": "MISS",
        "goproxyai.request_id": "mine-1",
    }
    assert phases(span) == ["forwarded", "upstream_head", "first_byte"]
    assert error_type(span) is None
    assert span.resource.attributes["service.name"] == "goproxyai"


@pytest_twisted.ensureDeferred
async def test_request_without_traceparent_starts_a_trace(traced: Traced) -> None:
    harness = await traced.harness.start()
    for _ in range(2):
        await harness.ask(request("/v1/models?x"))
    first, second = await traced.spans(2)
    assert first.parent is None
    assert first.name == "GET /v1/models"
    assert list(map(identity, traced.sent())) == [identity(first.context)]
    assert context_of(first).trace_id != context_of(second).trace_id


@pytest_twisted.ensureDeferred
async def test_span_of_a_hit_has_spared_tokens(traced: Traced) -> None:
    harness = await traced.harness.start()
    for _ in range(2):
        await harness.ask(post("/v1/chat/completions", CHAT_REQUEST, [traceparent()]))
    miss, hit = await traced.spans(2)
    assert hit.name == miss.name
    assert hit.parent == miss.parent
    assert context_of(hit) != context_of(miss)
    assert phases(hit) == ["first_byte"]
    attributes = dict(hit.attributes or {})
    assert attributes["goproxyai.cache"] == "HIT"
    assert attributes["gen_ai.request.model"] == "gpt-4o-mini"
    assert attributes["goproxyai.spared.output_tokens"] == 8
    assert not [name for name in attributes if name.startswith(("server.", "gen_ai.usage."))]


@pytest_twisted.ensureDeferred
async def test_span_of_a_coalesced_request_links_to_its_leader(traced: Traced) -> None:
    harness = await traced.harness.start()
    pause = Pause()
    harness.upstream.script("/v1/embeddings", [pause, response(b"{}")])
    wires = [await harness.connect() for _ in range(2)]
    wires[0].send(post("/v1/embeddings", EMBED))
    await harness.upstream.wait_for(lambda one: one.paused)
    wires[1].send(post("/v1/embeddings", EMBED, [traceparent()]))
    assert harness.daemon is not None
    counters = harness.daemon.context.counters
    await eventually(harness.reactor, lambda: counters.coalesced == 1)
    pause.release()
    for wire in wires:
        await wire.answer()
    leader, follower = await traced.spans(2)
    assert [dict(one.attributes or {})["goproxyai.cache"] for one in (leader, follower)] == [
        "MISS", "COALESCED",
    ]  # fmt: skip
    assert follower.parent == CLIENT_SPAN
    assert list(map(identity, traced.sent())) == [identity(leader.context)]
    assert [link.context for link in follower.links] == [leader.context]
    assert not leader.links
    assert phases(follower) == ["first_byte"]
    assert follower.name == "embeddings text-embedding-3-small"


@pytest_twisted.ensureDeferred
async def test_span_of_a_stream_has_first_byte_and_tokens(traced: Traced) -> None:
    harness = await traced.harness.start()
    harness.upstream.api.interval = 0.001
    document = b'{"messages":[],"stream":true,"stream_options":{"include_usage":true},"model":"m"}'
    await harness.ask(post("/v1/chat/completions", document))
    span = await traced.span()
    assert span.name == "chat m"
    assert phases(span) == ["forwarded", "upstream_head", "first_byte"]
    assert span.end_time is not None
    assert span.events[-1].timestamp < span.end_time
    assert (span.attributes or {})["gen_ai.usage.output_tokens"] == 8


@pytest_twisted.ensureDeferred
async def test_cached_and_reasoning_tokens_have_conventional_names(
    traced: Traced,
) -> None:
    harness = await traced.harness.start()
    usage = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
        "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 5}, "total_tokens": 16,
    }  # fmt: skip
    document = json.dumps({"model": "o9-2030", "usage": usage}).encode()
    harness.upstream.script("/v1/responses", response(document))
    await harness.ask(post("/v1/responses", b'{"input":"a","model":"o9"}'))
    span = await traced.span()
    attributes = dict(span.attributes or {})
    assert span.name == "chat o9"
    assert attributes["gen_ai.response.model"] == "o9-2030"
    assert {name: attributes[name] for name in attributes if "usage" in name} == {
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_creation.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 5,
    }


@pytest_twisted.ensureDeferred
async def test_body_after_its_head_has_a_phase_and_names_the_model(
    traced: Traced,
) -> None:
    harness = await traced.harness.start()
    data = post("/v1/embeddings", EMBED)
    for _ in range(2):
        wire = await harness.connect()
        wire.send(data[: -len(EMBED)])
        await request_begun(harness)
        wire.send(EMBED)
        await wire.answer()
        wire.abort()
        await wire.wait_closed()
    miss, hit = await traced.spans(2)
    assert phases(miss) == ["request_read", "forwarded", "upstream_head", "first_byte"]
    assert phases(hit) == ["request_read", "first_byte"]
    assert miss.name == hit.name == "embeddings text-embedding-3-small"


@pytest_twisted.ensureDeferred
async def test_each_attempt_has_a_phase_and_the_same_parent(traced: Traced) -> None:
    harness = await traced.harness.start(RETRY_STATUS="503")
    harness.upstream.script("/v1/models", response(b"{}", 503), times=1)
    answer = await harness.ask(request(headers=[traceparent()]))
    assert answer.status == 200
    span = await traced.span()
    assert phases(span) == ["forwarded", "forwarded", "upstream_head", "first_byte"]
    attempts = [dict(each.attributes or {}) for each in span.events[:2]]
    assert [each["goproxyai.try"] for each in attempts] == [1, 2]
    assert {each["server.port"] for each in attempts} == {harness.upstream_port}
    for number in (0, 1):
        assert list(map(identity, traced.sent(number))) == [identity(span.context)]


@pytest.mark.parametrize(
    ("path", "status", "error", "code"),
    [
        ("/v1/broken", 502, "upstream_unreachable", "upstream_unreachable"),
        ("/v1/failing", 500, "500", None),
        ("/v1/nothing", 404, None, None),
        ("/v1/cut", 200, "upstream_unreachable", "upstream_unreachable"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_server_failures_are_errors_and_client_failures_are_not(
    traced: Traced, path: str, status: int, error: str | None, code: str | None
) -> None:
    harness = await traced.harness.start()
    harness.upstream.script("/v1/broken", [Reset()])
    harness.upstream.script("/v1/failing", response(b"{}", 500))
    harness.upstream.script("/v1/cut", [head(200, [CHUNKED]), chunk(b"12345"), Close()])
    await harness.ask(request(path))
    span = await traced.span()
    attributes = dict(span.attributes or {})
    assert error_type(span) == error
    assert attributes["http.response.status_code"] == status
    assert attributes.get("goproxyai.code") == code
    assert attributes.get("goproxyai.ended") == ("cut" if path == "/v1/cut" else None)
    assert "forwarded" in phases(span)


@pytest.mark.parametrize(
    ("data", "status", "name"),
    [
        (request("/v1/models", "TRACE", [traceparent()]), 405, "HTTP /v1/models"),
        (request("/v1/x", headers=[("Via", LOOPED_VIA), traceparent()]), 508, "GET other"),
        (request("/v1/files", "POST", [("Content-Length", "99999999999"), traceparent()]), 413,
         "POST /v1/files"),
        (request("/v1/models", headers=[traceparent(), ("Cache-Control", "only-if-cached")]), 504,
         "GET /v1/models"),
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_refused_request_has_a_span(
    traced: Traced, data: bytes, status: int, name: str
) -> None:
    harness = await traced.harness.start()
    assert (await harness.ask(data)).status == status
    span = await traced.span()
    assert span.name == name
    assert span.parent == CLIENT_SPAN
    assert (error_type(span) is None) == (status < 500)
    assert phases(span) == ["first_byte"]


@pytest_twisted.ensureDeferred
async def test_rate_limited_request_has_a_span_without_error(traced: Traced) -> None:
    harness = await traced.harness.start(RATE_LIMIT="1")
    for _ in range(2):
        await harness.ask(request())
    span = (await traced.spans(2))[1]
    assert (span.attributes or {})["http.response.status_code"] == 429
    assert error_type(span) is None


@pytest_twisted.ensureDeferred
async def test_system_endpoints_are_not_traced(traced: Traced) -> None:
    harness = await traced.harness.start()
    for path in ("/health", "/stats", "/nowhere"):
        await harness.ask(request(path, headers=[traceparent()]))
    assert await traced.spans(3) == []


@pytest_twisted.ensureDeferred
async def test_client_gone_in_any_phase_has_a_span(traced: Traced) -> None:
    harness = await traced.harness.start()
    harness.upstream.script("/v1/slow", [Pause()])
    harness.upstream.script("/v1/half", [head(200, [CHUNKED]), chunk(b"12345"), Pause()])
    reading, waiting, streaming = [await harness.connect() for _ in range(3)]
    reading.send(request("/v1/embeddings", "POST", [("Content-Length", "100")]) + b"{")
    await request_begun(harness)
    waiting.send(request("/v1/slow"))
    await harness.upstream.wait_for(lambda one: one.paused)
    streaming.send(request("/v1/half"))
    await streaming.until(lambda: b"12345" in streaming.received)
    for number, wire in enumerate((reading, waiting, streaming), 1):
        wire.abort()
        await traced.spans(number)
    spans = await traced.spans(3)
    assert [phases(span) for span in spans] == [
        [], ["forwarded"], ["forwarded", "upstream_head", "first_byte"],
    ]  # fmt: skip
    assert {(span.attributes or {})["goproxyai.ended"] for span in spans} == {"client_gone"}
    assert ["http.response.status_code" in (span.attributes or {}) for span in spans] == [
        False, False, True,
    ]  # fmt: skip
    assert {error_type(span) for span in spans} == {None}


@pytest_twisted.ensureDeferred
async def test_no_span_contains_a_secret(traced: Traced) -> None:
    harness = await traced.harness.start(**SETTINGS)
    script_upstream(harness)
    for case in CASES:
        assert (await harness.ask(case.data)).status == case.status
    document = b'{"prompt":"%b","model":"%b"}' % (SECRETS["body"].encode(), SECRETS["key"].encode())
    await harness.ask(post("/v1/chat/completions", document))
    spans = await traced.spans(len(CASES) + 1)
    texts = [span.to_json() for span in spans]
    assert len(texts) > 10
    assert_no_secret(*texts)
