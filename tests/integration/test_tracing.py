"""A span for each request, in the client's trace; and a collector that may do as it likes."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from goproxyai.config.settings import Settings
from goproxyai.daemon.tracer import make_tracer
from goproxyai.messages.redaction import redacted_target
from goproxyai.messages.trace_context import TraceParent, parse_traceparent
from goproxyai.proxy.relayed_routes import RELAYED
from goproxyai.telemetry import tracing
from goproxyai.telemetry.counters import ROUTES
from goproxyai.telemetry.log_output import LogOutput
from goproxyai.telemetry.outcome import Ending
from goproxyai.telemetry.spans import MAX_ATTEMPTS, RequestTrace, kind_of, span_of
from goproxyai.telemetry.tracing import COMPLAINT_SECONDS, Complaints, Tracing
from goproxyai.usage.usage import requested_model
from tests.integration.test_access_log import SECRETS, TROUBLES, an_event, assert_no_secret
from tests.process.daemon_process import (
    FEW_CONNECTIONS,
    ON_LOOPBACK,
    DaemonProcess,
    Start,
    command,
    environment,
    get,
    start,
)
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.ports import free_port
from tests.support.serving import loopback
from tests.support.steps import Close, Pause, Reset

__all__ = ["start"]  # a fixture

CLIENTS = TraceParent(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, 1)
CHUNKED = (b"Transfer-Encoding", b"chunked")
ASKED = b'{"model":"gpt-4o-mini","messages":[]}'
EMBED = b'{"input":"a","model":"text-embedding-3-small"}'


def told(parent: TraceParent = CLIENTS) -> tuple[str, str]:
    """The header of a client's."""
    name, _, value = parent.header_line().decode().strip().partition(": ")
    return name, value


@pytest.fixture(autouse=True)
def no_stray_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@attrs.define(eq=False)
class Traced:
    """A stand whose requests become spans in memory."""

    harness: ProxyHarness
    exporter: InMemorySpanExporter
    tracing: Tracing

    async def spans(self, count: int) -> list[ReadableSpan]:
        """The spans in the order of their ends, once *count* requests are over; never more."""
        harness = self.harness
        assert harness.daemon is not None
        await eventually(harness.reactor, lambda: len(harness.events) >= count)
        harness.access_log.flush()
        assert len(harness.events) == count, harness.events
        self.tracing.processor.force_flush()
        return list(self.exporter.get_finished_spans())

    async def span(self) -> ReadableSpan:
        (span,) = await self.spans(1)
        return span

    def sent(self, number: int = 0) -> list[TraceParent | None]:
        """What the upstream's request of that number said of its trace."""
        return [
            parse_traceparent(value)
            for value in self.harness.upstream.requests[number].all(b"traceparent")
        ]


@pytest_twisted.async_yield_fixture
async def traced(harness: ProxyHarness) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    harness.tracer = Tracing(harness.reactor, lambda: exporter)
    yield Traced(harness, exporter, harness.tracer)


def context(span: ReadableSpan) -> TraceParent:
    assert span.context is not None
    return TraceParent(span.context.trace_id, span.context.span_id, span.context.trace_flags)


def parent(span: ReadableSpan) -> TraceParent | None:
    found = span.parent
    return None if found is None else TraceParent(*found[:2], found.trace_flags)


def phases(span: ReadableSpan) -> list[str]:
    """Their names; they are in order, and within the span."""
    times = [each.timestamp for each in span.events]
    assert times == sorted(times)
    assert span.start_time is not None
    assert span.end_time is not None
    assert all(span.start_time <= each <= span.end_time for each in times)
    return [each.name for each in span.events]


def failed(span: ReadableSpan) -> str | None:
    """The type of its error; its status says the same."""
    attributes = span.attributes or {}
    assert (span.status.status_code.name == "ERROR") == ("error.type" in attributes)
    return attributes.get("error.type")  # type: ignore[return-value]


async def at_work(harness: ProxyHarness) -> None:
    """Wait for the head of a request to be in."""
    assert harness.daemon is not None
    connections = harness.daemon.listeners.factory.connections
    await eventually(harness.reactor, lambda: any(c._active for c in connections))


# A span a request.


@pytest_twisted.ensureDeferred
async def test_a_miss_is_a_span_of_the_clients_trace_and_upstreams_parent(traced: Traced) -> None:
    harness = await traced.harness.start()
    headers = [told(), ("X-Forwarded-For", "192.0.2.7"), ("X-Request-Id", "mine-1")]
    await harness.ask(post("/v1/chat/completions?a=secret", ASKED, headers))
    span = await traced.span()
    assert (span.name, span.kind) == ("chat gpt-4o-mini", SpanKind.SERVER)
    assert parent(span) == CLIENTS
    assert span.parent is not None
    assert span.parent.is_remote
    assert traced.sent() == [context(span)]
    assert context(span).trace_id == CLIENTS.trace_id
    assert context(span).span_id != CLIENTS.span_id
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
    assert failed(span) is None
    assert span.resource.attributes["service.name"] == "goproxyai"


@pytest_twisted.ensureDeferred
async def test_a_request_without_a_trace_begins_one(traced: Traced) -> None:
    harness = await traced.harness.start()
    for _ in range(2):
        await harness.ask(request("/v1/models?x"))
    first, second = await traced.spans(2)
    assert parent(first) is None
    assert first.name == "GET /v1/models"
    assert traced.sent() == [context(first)]
    assert context(first).trace_id != context(second).trace_id


@pytest_twisted.ensureDeferred
async def test_a_hit_is_a_span_whose_tokens_were_spared(traced: Traced) -> None:
    harness = await traced.harness.start()
    for _ in range(2):
        await harness.ask(post("/v1/chat/completions", ASKED, [told()]))
    miss, hit = await traced.spans(2)
    assert hit.name == miss.name
    assert parent(hit) == parent(miss)
    assert context(hit) != context(miss)
    assert phases(hit) == ["first_byte"]
    attributes = dict(hit.attributes or {})
    assert attributes["goproxyai.cache"] == "HIT"
    assert attributes["gen_ai.request.model"] == "gpt-4o-mini"
    assert attributes["goproxyai.spared.output_tokens"] == 8
    assert not [name for name in attributes if name.startswith(("server.", "gen_ai.usage."))]


@pytest_twisted.ensureDeferred
async def test_a_request_that_rides_along_is_linked_to_the_one_that_went(traced: Traced) -> None:
    harness = await traced.harness.start()
    pause = Pause()
    harness.upstream.script("/v1/embeddings", [pause, response(b"{}")])
    wires = [await harness.connect() for _ in range(2)]
    wires[0].send(post("/v1/embeddings", EMBED))
    await harness.upstream.wait_for(lambda one: one.paused)
    wires[1].send(post("/v1/embeddings", EMBED, [told()]))
    assert harness.daemon is not None
    counters = harness.daemon.context.counters
    await eventually(harness.reactor, lambda: counters.coalesced == 1)
    pause.release()
    for wire in wires:
        await wire.answer()
    leads, rides = await traced.spans(2)
    assert [dict(one.attributes or {})["goproxyai.cache"] for one in (leads, rides)] == [
        "MISS", "COALESCED",
    ]  # fmt: skip
    assert parent(rides) == CLIENTS
    assert traced.sent() == [context(leads)]
    assert [link.context for link in rides.links] == [leads.context]
    assert not leads.links
    assert phases(rides) == ["first_byte"]
    assert rides.name == "embeddings text-embedding-3-small"


@pytest_twisted.ensureDeferred
async def test_a_stream_is_told_with_its_first_byte_and_its_tokens(traced: Traced) -> None:
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
async def test_cached_and_reasoning_tokens_have_the_names_of_the_conventions(
    traced: Traced,
) -> None:
    harness = await traced.harness.start()
    usage = {
        "input_tokens": 9, "input_tokens_details": {"cached_tokens": 4},
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
        "gen_ai.usage.reasoning.output_tokens": 5,
    }


@pytest_twisted.ensureDeferred
async def test_a_body_that_came_behind_its_head_is_told_and_read_for_its_model(
    traced: Traced,
) -> None:
    harness = await traced.harness.start()
    data = post("/v1/embeddings", EMBED)
    for _ in range(2):
        wire = await harness.connect()
        wire.send(data[: -len(EMBED)])
        await at_work(harness)
        wire.send(EMBED)
        await wire.answer()
        wire.abort()
        await wire.wait_closed()
    miss, hit = await traced.spans(2)
    assert phases(miss) == ["request_read", "forwarded", "upstream_head", "first_byte"]
    assert phases(hit) == ["request_read", "first_byte"]
    assert miss.name == hit.name == "embeddings text-embedding-3-small"


@pytest_twisted.ensureDeferred
async def test_every_try_is_told_and_has_the_same_parent(traced: Traced) -> None:
    harness = await traced.harness.start(RETRY_STATUS="503")
    harness.upstream.script("/v1/models", response(b"{}", 503), times=1)
    answer = await harness.ask(request(headers=[told()]))
    assert answer.status == 200
    span = await traced.span()
    assert phases(span) == ["forwarded", "forwarded", "upstream_head", "first_byte"]
    tries = [dict(each.attributes or {}) for each in span.events[:2]]
    assert [each["goproxyai.try"] for each in tries] == [1, 2]
    assert {each["server.port"] for each in tries} == {harness.upstream_port}
    assert traced.sent(0) == traced.sent(1) == [context(span)]


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
async def test_a_failure_of_a_servers_is_an_error_and_one_of_a_clients_is_not(
    traced: Traced, path: str, status: int, error: str | None, code: str | None
) -> None:
    harness = await traced.harness.start()
    harness.upstream.script("/v1/broken", [Reset()])
    harness.upstream.script("/v1/failing", response(b"{}", 500))
    harness.upstream.script("/v1/cut", [head(200, [CHUNKED]), chunk(b"12345"), Close()])
    await harness.ask(request(path))
    span = await traced.span()
    attributes = dict(span.attributes or {})
    assert failed(span) == error
    assert attributes["http.response.status_code"] == status
    assert attributes.get("goproxyai.code") == code
    assert attributes.get("goproxyai.ended") == ("cut" if path == "/v1/cut" else None)
    assert "forwarded" in phases(span)


@pytest.mark.parametrize(
    ("data", "status", "name"),
    [
        (request("/v1/models", "TRACE", [told()]), 405, "HTTP /v1/models"),
        (request("/v1/x", headers=[("Via", "1.1 goproxyai"), told()]), 508, "GET other"),
        (request("/v1/files", "POST", [("Content-Length", "99999999999"), told()]), 413,
         "POST /v1/files"),
        (request("/v1/models", headers=[told(), ("Cache-Control", "only-if-cached")]), 504,
         "GET /v1/models"),
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_what_the_proxy_refuses_is_a_span_too(
    traced: Traced, data: bytes, status: int, name: str
) -> None:
    harness = await traced.harness.start()
    assert (await harness.ask(data)).status == status
    span = await traced.span()
    assert span.name == name
    assert parent(span) == CLIENTS
    assert (failed(span) is None) == (status < 500)
    assert phases(span) == ["first_byte"]


@pytest_twisted.ensureDeferred
async def test_what_the_rate_limit_refuses_is_a_span_and_no_error(traced: Traced) -> None:
    harness = await traced.harness.start(RATE_LIMIT="1")
    for _ in range(2):
        await harness.ask(request())
    span = (await traced.spans(2))[1]
    assert (span.attributes or {})["http.response.status_code"] == 429
    assert failed(span) is None


@pytest_twisted.ensureDeferred
async def test_the_systems_own_endpoints_are_not_traced(traced: Traced) -> None:
    harness = await traced.harness.start()
    for path in ("/health", "/stats", "/nowhere"):
        await harness.ask(request(path, headers=[told()]))
    assert await traced.spans(3) == []


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_in_whatever_phase_leaves_a_span(traced: Traced) -> None:
    harness = await traced.harness.start()
    harness.upstream.script("/v1/slow", [Pause()])
    harness.upstream.script("/v1/half", [head(200, [CHUNKED]), chunk(b"12345"), Pause()])
    reading, waiting, streaming = [await harness.connect() for _ in range(3)]
    reading.send(request("/v1/embeddings", "POST", [("Content-Length", "100")]) + b"{")
    await at_work(harness)
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
    assert {failed(span) for span in spans} == {None}


@pytest_twisted.ensureDeferred
async def test_no_secret_is_in_any_span_whatever_fails(traced: Traced) -> None:
    harness = await traced.harness.start(ADMIN_TOKEN=SECRETS["token"], REQUEST_TIMEOUT="200ms")
    answer = SECRETS["answer"].encode()
    harness.upstream.script("/v1/fine", response(answer, 200, [(b"Set-Cookie", answer)]))
    harness.upstream.script("/v1/broken", [Reset()])
    harness.upstream.script("/v1/garbage", b"HTTP/1.1 2x0 " + answer + b"\r\n\r\n")
    harness.upstream.script("/v1/slow", [Pause()])
    harness.upstream.script("/v1/cut", [head(200, [CHUNKED]), chunk(answer), Close()])
    for trouble in TROUBLES:
        assert (await harness.ask(trouble.data)).status == trouble.status
    document = b'{"prompt":"%b","model":"%b"}' % (SECRETS["body"].encode(), SECRETS["key"].encode())
    await harness.ask(post("/v1/chat/completions", document))
    spans = await traced.spans(len(TROUBLES) + 1)
    texts = [span.to_json() for span in spans]
    assert len(texts) > 10
    assert_no_secret(*texts)


# What of a trace goes on to upstream.


@pytest_twisted.ensureDeferred
async def test_what_is_not_sampled_is_no_span_but_goes_on_with_its_trace(traced: Traced) -> None:
    harness = await traced.harness.start()
    quiet = CLIENTS._replace(flags=0)
    await harness.ask(post("/v1/chat/completions", ASKED, [told(quiet)]))
    assert await traced.spans(1) == []
    (sent,) = traced.sent()
    assert sent is not None
    assert (sent.trace_id, sent.flags) == (CLIENTS.trace_id, 0)
    assert sent.span_id != CLIENTS.span_id


@pytest_twisted.ensureDeferred
async def test_the_sampler_is_the_one_that_the_environment_names(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    harness = await traced.harness.start()
    await harness.ask(request())
    assert await traced.spans(1) == []
    (sent,) = traced.sent()
    assert sent is not None
    assert sent.flags == 0


@pytest_twisted.ensureDeferred
async def test_a_trace_that_was_drawn_at_random_goes_on_as_such(traced: Traced) -> None:
    harness = await traced.harness.start()
    for flags in (3, 2):
        await harness.ask(request(f"/v1/{flags}", headers=[told(CLIENTS._replace(flags=flags))]))
    assert [sent.flags for n in (0, 1) for sent in traced.sent(n) if sent is not None] == [3, 2]


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "00-" + "0" * 32 + "-00f067aa0ba902b7-01")],
        [("traceparent", told()[1].upper())],
        [("traceparent", "ff" + told()[1][2:])],
        [("traceparent", told()[1] + "-more")],
        [told(), told()],
        [told(), ("Traceparent", "00-" + "1" * 32 + "-" + "1" * 16 + "-01")],
        [("traceparent", "x" * 8000)],
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_traceparent_is_as_good_as_none_and_does_not_go_on(
    traced: Traced, headers: list[tuple[str, str]]
) -> None:
    harness = await traced.harness.start()
    await harness.ask(request(headers=headers))
    span = await traced.span()
    assert parent(span) is None
    assert traced.sent() == [context(span)]
    assert context(span).trace_id != CLIENTS.trace_id


@pytest_twisted.ensureDeferred
async def test_requests_of_one_connection_each_have_a_trace_of_their_own(traced: Traced) -> None:
    harness = await traced.harness.start()
    wire = await harness.connect()
    parents = [CLIENTS._replace(trace_id=number, span_id=number) for number in (1, 2, 3)]
    for each in parents:
        wire.send(request(headers=[told(each), ("tracestate", f"a={each.trace_id}"),
                                   ("Cache-Control", "no-store")]))  # fmt: skip
        await wire.answer()
    spans = await traced.spans(3)
    assert [parent(span) for span in spans] == parents
    assert [traced.sent(number) for number in range(3)] == [[context(span)] for span in spans]
    states = [one.all(b"tracestate") for one in harness.upstream.requests]
    assert states == [[b"a=1"], [b"a=2"], [b"a=3"]]


@pytest_twisted.ensureDeferred
async def test_tracestate_goes_on_as_it_came(traced: Traced) -> None:
    harness = await traced.harness.start()
    states = [b"rojo=00f067aa0ba902b7", b"congo=t61rcWkgMzE"]
    headers = [told(), *[("tracestate", state.decode()) for state in states]]
    await harness.ask(request(headers=headers))
    assert harness.upstream.requests[0].all(b"tracestate") == states
    assert traced.sent() == [context(await traced.span())]


@pytest_twisted.ensureDeferred
async def test_where_nobody_traces_the_clients_own_traceparent_goes_on(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    await harness.ask(request(headers=[told(), ("tracestate", "a=b")]))
    (asked,) = harness.upstream.requests
    assert asked.all(b"traceparent") == [told()[1].encode()]
    assert asked.all(b"tracestate") == [b"a=b"]


@given(
    st.binary(max_size=80) | st.from_regex(rb"[0-9a-fF]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.?")
)
@example(told()[1].encode())
@example(told()[1].encode() + b"\n")
@example(b"01" + told()[1].encode()[2:] + b"-new")
@example(b"01" + told()[1].encode()[2:] + b"new")
def test_a_traceparent_is_read_as_the_standard_has_it(value: bytes) -> None:
    found = parse_traceparent(value)
    parts = value.strip(b" \t").split(b"-")
    good = (
        [len(part) for part in parts[:4]] == [2, 32, 16, 2]
        and not set(b"".join(parts[:4])) - set(b"0123456789abcdef")
        and parts[0] != b"ff"
        and (len(parts) == 4 or parts[0] != b"00")
        and int(parts[1], 16) > 0
        and int(parts[2], 16) > 0
    )
    assert (found is not None) == good
    if found is not None:
        assert found[:2] == (int(parts[1], 16), int(parts[2], 16))
        assert parse_traceparent(found.header_line().partition(b": ")[2].rstrip()) == found


@given(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.integers(0, 3))
def test_a_span_is_named_so_that_it_is_read_again(trace: int, span: int, flags: int) -> None:
    named = TraceParent(trace, span, flags)
    assert (
        parse_traceparent(named.header_line().removeprefix(b"traceparent: ").removesuffix(b"\r\n"))
        == named
    )


# Names.


@given(st.binary(max_size=40), st.binary(max_size=60).map(lambda end: b"/v1/" + end))
def test_plain_names_are_few_whatever_is_asked_for(method: bytes, target: bytes) -> None:
    kind = kind_of(method, target)
    if kind.operation:
        assert kind.plain == kind.operation
        return
    known, _, route = kind.plain.partition(" ")
    assert known == ("HTTP" if kind.method == "_OTHER" else kind.method)
    assert kind.method in (*RELAYED.methods, "_OTHER")
    assert route in (*ROUTES, "other")


@given(st.binary())
def test_the_model_of_any_body_is_short_and_visible(body: bytes) -> None:
    assert re.fullmatch(r"[\x21-\x7e]{0,100}", requested_model(body))


@pytest.mark.parametrize("size", [10, 100_000])
def test_the_model_is_found_at_either_end_of_a_large_body(size: int) -> None:
    filling = b"x" * size
    assert requested_model(b'{"model":"m","input":"%b"}' % filling) == "m"
    assert requested_model(b'{"input":"%b","model":"m"}' % filling) == "m"
    assert requested_model(b'{"input":"\\"model\\":\\"no\\"%b"}' % filling) == ""


def test_what_is_noted_of_a_request_is_bounded() -> None:
    followed = RequestTrace(CLIENTS, None, True, False)
    for number in range(MAX_ATTEMPTS + 5):
        assert followed.forwarded(float(number), "http://a", None) == CLIENTS.header_line()
    assert len(followed.tries) == MAX_ATTEMPTS


@given(
    st.dictionaries(st.sampled_from(["method", "upstream_request_id"]), st.binary()),
    st.binary().map(redacted_target),
    st.floats(0, 1e6),
    st.integers(0, 599),
    st.sampled_from(Ending),
    st.binary(),
)
def test_whatever_is_asked_for_is_a_span_that_can_be_sent(
    raw: dict[str, bytes], path: str, seconds: float, status: int, ending: Ending, body: bytes
) -> None:
    followed = RequestTrace(CLIENTS, None, True, True)
    followed.read(0.5, body)
    followed.forwarded(0.5, "https://api.test", None)
    event = an_event(
        seconds=seconds, upstream_seconds=seconds, status=status, path=path, ending=ending,
        trace=followed, **raw,
    )  # fmt: skip
    span = span_of(event, followed, 1.0, Resource.get_empty())
    assert encode_spans([span]).SerializeToString()


# Complaints.


class _Reactor(Clock):
    """A clock in whose thread everybody is."""

    def callFromThread(self, function: Any, *given: Any, **named: Any) -> None:
        function(*given, **named)


@attrs.define(eq=False)
class Heard:
    """What became of complaints.

    :ivar log: as the daemon writes it.
    """

    reactor: _Reactor
    log: io.StringIO

    def lines(self) -> list[str]:
        return self.log.getvalue().splitlines()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    heard = Heard(_Reactor(), io.StringIO())
    output = LogOutput(lambda: heard.log, False, "info").open()
    monkeypatch.setattr(tracing, "_log", Logger(namespace="tracing", observer=output))
    complaints = Complaints(heard.reactor)
    complaints.listen()
    yield heard
    complaints.leave()
    assert logging.getLogger("opentelemetry").propagate


def test_each_kind_of_complaint_is_a_line_a_minute(heard: Heard) -> None:
    log = logging.getLogger("opentelemetry.some.exporter")
    for number in range(5):
        log.warning("failed, code %s", number)
        log.error("gave up")
        log.info("went well")
    first, second = heard.lines()
    assert first.endswith("warn [tracing] failed, code 0")
    assert second.endswith("error [tracing] gave up")
    heard.reactor.advance(COMPLAINT_SECONDS)
    log.warning("failed, code %s", 7)
    assert len(heard.lines()) == 3


def test_a_complaint_is_one_line_without_a_traceback_or_a_query(heard: Heard) -> None:
    try:
        raise ValueError("no answer\nfrom http://u:pass@c/v1/traces?key=Zq8secret (refused)")
    except ValueError:
        logging.getLogger("urllib3.pool").exception("it\nbroke %s", "x" * 1000)
        logging.getLogger("opentelemetry.sdk").exception("it broke")
    lines = heard.lines()
    assert len(lines) == 2
    assert max(map(len, lines)) < 700
    assert "ValueError" in lines[1]
    assert "Traceback" not in "".join(lines)
    assert "Zq8secret" not in "".join(lines)
    assert "pass@" not in "".join(lines)


def test_the_exporters_own_credentials_are_not_repeated(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Zq8secret value")
    tracing.OTLPSpanExporter().shutdown()
    (line,) = heard.lines()
    assert "OTEL_EXPORTER_OTLP_HEADERS" in line
    assert "Zq8secret" not in line


def test_kinds_of_complaints_are_not_remembered_without_end() -> None:
    complaints = Complaints(_Reactor())
    for number in range(tracing.MOST_KINDS + 10):
        complaints.handle(logging.makeLogRecord({"msg": f"odd {number}", "levelno": 20}))
    assert len(complaints._said) <= tracing.MOST_KINDS


# Begin and end.


class _Hanging(SpanExporter):
    """Sends nothing until it is let, or shut down."""

    def __init__(self) -> None:
        self.begun, self.let = threading.Event(), threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.begun.set()
        self.let.wait(20)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.let.set()


@pytest_twisted.ensureDeferred
async def test_a_collector_that_hangs_keeps_nobody_waiting_and_the_end_for_a_moment_only(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "STOP_SECONDS", 0.1)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    exporter = _Hanging()
    traced = harness.tracer = Tracing(harness.reactor, lambda: exporter)
    await harness.start()
    for _ in range(3):
        assert (await harness.ask(request())).status == 200
        await eventually(harness.reactor, lambda: len(harness.events) and exporter.begun.is_set())
    await harness.stop()
    assert exporter.let.is_set()
    await deferToThread(traced.processor._batch_processor._worker_thread.join, 20)


@pytest_twisted.ensureDeferred
async def test_spans_that_wait_are_bounded(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "2")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    exporter = _Hanging()
    traced = harness.tracer = Tracing(harness.reactor, lambda: exporter)
    await harness.start()
    for number in range(9):
        assert (await harness.ask(request(f"/v1/models?{number}"))).status == 200
    await harness.logged(9)
    assert len(traced.processor._batch_processor._queue) <= 2
    exporter.let.set()


@pytest.mark.parametrize("disabled", ["true", " TRUE "])
def test_a_machine_that_disables_opentelemetry_has_no_traces(
    monkeypatch: pytest.MonkeyPatch, disabled: str
) -> None:
    settings = Settings.from_texts({"TRACING": "otlp"})
    assert make_tracer(Clock(), settings) is not None
    monkeypatch.setenv("OTEL_SDK_DISABLED", disabled)
    assert make_tracer(Clock(), settings) is None


# The daemon as a process.


class _Taker(BaseHTTPRequestHandler):
    """Takes what the daemon sends."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Collector:
    """Speaks OTLP over HTTP, on loopback, in a thread of its own."""

    def __init__(self) -> None:
        self._server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Taker)
        self._server.taken = []
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def spans(self) -> list[Any]:
        """What has come."""
        return [
            span
            for _, message in self._server.taken
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resources(self) -> list[dict[str, str]]:
        return [
            {each.key: each.value.string_value for each in resource.resource.attributes}
            for _, message in self._server.taken
            for resource in message.resource_spans
        ]

    @property
    def paths(self) -> set[str]:
        return {path for path, _ in self._server.taken}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def tracing_to(port: int, upstream: str, **more: str) -> dict[str, str]:
    """Settings; whatever proxy this machine uses, the collector is reached without."""
    return {
        "no_proxy": "127.0.0.1",
        "TRACING": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OPENAI_API_URL": upstream,
        **more,
    }


@pytest_twisted.ensureDeferred
async def test_spans_reach_a_collector_and_the_last_ones_at_the_end(
    harness: ProxyHarness, start: Start, collector: Collector
) -> None:
    harness.upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    proxy, proxy_port = await harness.egress()
    settings = tracing_to(collector.port, "http://api.openai.test") | {
        "PROXY_URL": f"http://127.0.0.1:{proxy_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=x",
    }
    process = start(**settings)
    (port,) = await deferToThread(process.listening)
    await deferToThread(get, port, "/v1/models")
    assert collector.spans() == []
    process.send(signal.SIGTERM)
    assert await deferToThread(process.ended) in (0, -signal.SIGTERM)
    (span,) = collector.spans()
    assert collector.paths == {"/v1/traces"}
    assert (span.name, span.kind) == ("GET /v1/models", 2)  # SPAN_KIND_SERVER
    assert [event.name for event in span.events] == ["forwarded", "upstream_head", "first_byte"]
    (sent,) = harness.upstream.requests[0].all(b"traceparent")
    assert sent == b"00-%b-%b-01" % (span.trace_id.hex().encode(), span.span_id.hex().encode())
    assert [one.target for one in proxy.requests] == [b"http://api.openai.test/v1/models"]
    (resource,) = collector.resources()
    assert resource["service.name"] == "goproxyai"
    assert resource["deployment.environment.name"] == "x"
    assert process.err == ""
    assert {line["level"] for line in process.log} == {"info"}


@pytest_twisted.ensureDeferred
async def test_spans_are_sent_from_the_background_too(
    harness: ProxyHarness, tmp_path: Path, collector: Collector
) -> None:
    upstream = f"http://127.0.0.1:{await harness.upstream.listen(loopback(harness.reactor))}"
    pid, log = tmp_path / "it.pid", tmp_path / "twistd.log"
    arguments = command(twistd=(f"--pidfile={pid}",))
    arguments.remove("--nodaemon")
    settings = tracing_to(
        collector.port, upstream, OTEL_BSP_SCHEDULE_DELAY="10", OTEL_SERVICE_NAME="edge",
        LISTEN=ON_LOOPBACK, MAX_CONNECTIONS=FEW_CONNECTIONS,
    )  # fmt: skip
    process = DaemonProcess(tmp_path, arguments, settings)
    assert await deferToThread(process.ended) == 0  # the one in front
    number = int(pid.read_text())
    try:
        await eventually(harness.reactor, lambda: "listening on" in log.read_text())
        (port,) = re.findall(r"listening on [^\n]*?port=(\d+)", log.read_text())
        await deferToThread(get, int(port), "/v1/models")
        await eventually(harness.reactor, collector.spans)
    finally:
        os.kill(number, signal.SIGTERM)
        await eventually(harness.reactor, lambda: not pid.exists())
    assert {resource["service.name"] for resource in collector.resources()} == {"edge"}
    assert {json.loads(line)["level"] for line in log.read_text().splitlines()} == {"info"}


@pytest_twisted.ensureDeferred
async def test_a_collector_that_is_not_there_disturbs_nobody(
    harness: ProxyHarness, start: Start
) -> None:
    upstream = f"http://127.0.0.1:{await harness.upstream.listen(loopback(harness.reactor))}"
    process = start(**tracing_to(free_port(), upstream, OTEL_BSP_SCHEDULE_DELAY="1"))
    (port,) = await deferToThread(process.listening)
    for number in range(5):
        status, _ = await deferToThread(get, port, f"/v1/models?{number}")
        assert status == 401  # it has no key
    await deferToThread(process.until, lambda: "goproxyai.telemetry.tracing" in process.out)
    process.send(signal.SIGTERM)
    assert await deferToThread(process.ended) in (0, -signal.SIGTERM)
    assert process.err == ""
    complaints = [line for line in process.log if line["level"] != "info"]
    assert {line["source"] for line in complaints} == {"goproxyai.telemetry.tracing"}
    assert len(complaints) <= 3
    assert "retrying" in complaints[0]["message"]
    assert "Traceback" not in process.out


def refused(directory: Path, **settings: str) -> str:
    """The one line with which a start ends."""
    done = subprocess.run(
        command(),
        env=environment(LISTEN=ON_LOOPBACK, LOG_LEVEL="error", TRACING="otlp", **settings),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    logged = [json.loads(line)["message"] for line in done.stdout.splitlines()]
    (line,) = logged + done.stderr.splitlines()  # there is a log by then, or there is none yet
    return line


def test_without_the_extra_the_start_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    missing = "raise ModuleNotFoundError('No module', name='opentelemetry')"
    (tmp_path / "opentelemetry" / "__init__.py").write_text(missing)
    line = refused(tmp_path)
    assert line == "goproxyai: TRACING is otlp, expected goproxyai[otel] to be installed"


def test_a_bad_variable_of_opentelemetrys_ends_the_start_with_one_line(tmp_path: Path) -> None:
    line = refused(tmp_path, OTEL_BSP_MAX_QUEUE_SIZE="0")
    assert line.startswith("goproxyai: TRACING is otlp, expected good OTEL_* variables (")
    assert "max_queue_size" in line


BUILT = """
import sys
from twisted.internet import reactor
from goproxyai import plugin as tap
options = tap.Options({"LISTEN": "tcp:0", "TRACING": sys.argv[1]})
options.parseOptions([])
tap.makeService(options)
print(any(name.startswith(("opentelemetry", "google", "requests")) for name in sys.modules))
print(sys.getswitchinterval())
"""


@pytest.mark.parametrize(("tracing", "built"), [("off", "False 0.005"), ("otlp", "True 0.0005")])
def test_nothing_of_opentelemetry_is_there_where_nobody_traces(tracing: str, built: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILT, tracing],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.split() == built.split()
