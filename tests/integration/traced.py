"""A harness whose requests become spans in memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import attrs
import pytest
import pytest_twisted
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, TraceFlags

from goproxyai.telemetry.propagation import extract, header_line, span_in
from goproxyai.telemetry.tracing import Tracing
from tests.support.harness import ProxyHarness, eventually

TRACE_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736
SPAN_ID = 0x00F067AA0BA902B7
CHAT_REQUEST = b'{"model":"gpt-4o-mini","messages":[]}'


def client_span(flags: int = 1, trace_id: int = TRACE_ID, span_id: int = SPAN_ID) -> SpanContext:
    """Return a span that a client names in its request."""
    return SpanContext(trace_id, span_id, True, TraceFlags(flags))


CLIENT_SPAN = client_span()


def traceparent(span: SpanContext = CLIENT_SPAN) -> tuple[str, str]:
    """Return the header field that names *span*."""
    name, _, value = header_line(span).decode().strip().partition(": ")
    return name, value


def identity(span: SpanContext | None) -> tuple[int, int, int] | None:
    """Return trace ID, span ID and flags."""
    return None if span is None else (span.trace_id, span.span_id, span.trace_flags)


def context_of(span: ReadableSpan) -> SpanContext:
    assert span.context is not None
    return span.context


def phases(span: ReadableSpan) -> list[str]:
    """Return the names of the span's events, which must be in order and within the span."""
    times = [each.timestamp for each in span.events]
    assert times == sorted(times)
    assert span.start_time is not None
    assert span.end_time is not None
    assert all(span.start_time <= each <= span.end_time for each in times)
    return [each.name for each in span.events]


def error_type(span: ReadableSpan) -> str | None:
    """Return ``error.type``, with which the span's status must agree."""
    attributes = span.attributes or {}
    assert (span.status.status_code.name == "ERROR") == ("error.type" in attributes)
    return attributes.get("error.type")  # type: ignore[return-value]


@attrs.define(eq=False)
class Traced:
    """A harness with its spans."""

    harness: ProxyHarness
    exporter: InMemorySpanExporter
    tracing: Tracing

    async def spans(self, count: int) -> list[ReadableSpan]:
        """Return the spans by their ends, once *count* requests have ended; fail if more have."""
        harness = self.harness
        await eventually(harness.reactor, lambda: len(harness.events) >= count)
        harness.access_log.flush()
        assert len(harness.events) == count, harness.events
        self.tracing.processor.force_flush()
        return list(self.exporter.get_finished_spans())

    async def span(self) -> ReadableSpan:
        (span,) = await self.spans(1)
        return span

    def sent(self, number: int = 0) -> list[SpanContext | None]:
        """Return the spans that the upstream request of that number names."""
        return [
            span_in(extract(value))
            for value in self.harness.upstream.requests[number].all(b"traceparent")
        ]


@pytest.fixture(autouse=True)
def no_otel_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest_twisted.async_yield_fixture
async def traced(harness: ProxyHarness) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    harness.tracer = Tracing(harness.reactor, lambda: exporter)
    yield Traced(harness, exporter, harness.tracer)
