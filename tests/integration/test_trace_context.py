"""W3C Trace Context between client, proxy and upstream."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.integration.traced import (
    CHAT_REQUEST,
    CLIENT_SPAN,
    Traced,
    client_span,
    context_of,
    identity,
    no_otel_variables,
    traced,
    traceparent,
)
from tests.support.harness import ProxyHarness, post, request

__all__ = ["no_otel_variables", "traced"]  # fixtures


@pytest_twisted.ensureDeferred
async def test_unsampled_request_has_no_span_but_continues_the_trace(traced: Traced) -> None:
    harness = await traced.harness.start()
    quiet = client_span(flags=0)
    await harness.ask(post("/v1/chat/completions", CHAT_REQUEST, [traceparent(quiet)]))
    assert await traced.spans(1) == []
    (sent,) = traced.sent()
    assert sent is not None
    assert (sent.trace_id, sent.trace_flags) == (CLIENT_SPAN.trace_id, 0)
    assert sent.span_id != CLIENT_SPAN.span_id


@pytest_twisted.ensureDeferred
async def test_sampler_is_the_configured_one(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    harness = await traced.harness.start()
    await harness.ask(request())
    assert await traced.spans(1) == []
    (sent,) = traced.sent()
    assert sent is not None
    assert sent.trace_flags == 0


@pytest_twisted.ensureDeferred
async def test_random_flag_is_passed_on(traced: Traced) -> None:
    harness = await traced.harness.start()
    for flags in (3, 2):
        await harness.ask(request(f"/v1/{flags}", headers=[traceparent(client_span(flags=flags))]))
    assert [sent.trace_flags for n in (0, 1) for sent in traced.sent(n) if sent is not None] == [
        3,
        2,
    ]


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "00-" + "0" * 32 + "-00f067aa0ba902b7-01")],
        [("traceparent", traceparent()[1].upper())],
        [("traceparent", "ff" + traceparent()[1][2:])],
        [("traceparent", traceparent()[1] + "-more")],
        [traceparent(), traceparent()],
        [traceparent(), ("Traceparent", "00-" + "1" * 32 + "-" + "1" * 16 + "-01")],
        [("traceparent", "x" * 8000)],
    ],
)
@pytest_twisted.ensureDeferred
async def test_invalid_traceparent_is_replaced(
    traced: Traced, headers: list[tuple[str, str]]
) -> None:
    harness = await traced.harness.start()
    await harness.ask(request(headers=headers))
    span = await traced.span()
    assert span.parent is None
    assert list(map(identity, traced.sent())) == [identity(span.context)]
    assert context_of(span).trace_id != CLIENT_SPAN.trace_id


@pytest_twisted.ensureDeferred
async def test_requests_of_one_connection_have_separate_traces(traced: Traced) -> None:
    harness = await traced.harness.start()
    wire = await harness.connect()
    parents = [client_span(trace_id=number, span_id=number) for number in (1, 2, 3)]
    for each in parents:
        wire.send(request(headers=[traceparent(each), ("tracestate", f"a={each.trace_id}"),
                                   ("Cache-Control", "no-store")]))  # fmt: skip
        await wire.answer()
    spans = await traced.spans(3)
    assert [span.parent for span in spans] == parents
    for number, span in enumerate(spans):
        assert list(map(identity, traced.sent(number))) == [identity(span.context)]
    states = [one.all(b"tracestate") for one in harness.upstream.requests]
    assert states == [[b"a=1"], [b"a=2"], [b"a=3"]]


@pytest_twisted.ensureDeferred
async def test_tracestate_is_relayed_byte_for_byte(traced: Traced) -> None:
    harness = await traced.harness.start()
    states = [b"rojo=00f067aa0ba902b7", b"congo=t61rcWkgMzE"]
    headers = [traceparent(), *[("tracestate", state.decode()) for state in states]]
    await harness.ask(request(headers=headers))
    assert harness.upstream.requests[0].all(b"tracestate") == states
    span = await traced.span()
    assert list(map(identity, traced.sent())) == [identity(span.context)]


@pytest_twisted.ensureDeferred
async def test_traceparent_is_relayed_without_tracing(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    await harness.ask(request(headers=[traceparent(), ("tracestate", "a=b")]))
    (asked,) = harness.upstream.requests
    assert asked.all(b"traceparent") == [traceparent()[1].encode()]
    assert asked.all(b"tracestate") == [b"a=b"]
