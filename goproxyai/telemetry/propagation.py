"""W3C Trace Context (https://www.w3.org/TR/trace-context-2/), by OpenTelemetry's propagator.

Only ``traceparent`` goes through the propagator. ``tracestate`` is relayed byte for byte as any
other end-to-end field: the SDK would drop entries, and write invalid ones to the log.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

MAX_TRACEPARENT_BYTES: Final = 512
"""A longer value is invalid. The SDK has the same bound, and writes a log line for each."""

NO_PARENT: Final = Context()

_PROPAGATOR = TraceContextTextMapPropagator()


def extract(traceparent: bytes | None) -> Context:
    """Return the context with the remote span that a request names.

    :param traceparent: value as received, repeated lines joined by commas.
    :returns: :data:`NO_PARENT` if the value is absent or invalid.
    """
    if traceparent is None or len(traceparent) > MAX_TRACEPARENT_BYTES:
        return NO_PARENT
    return _PROPAGATOR.extract({"traceparent": [traceparent.decode("latin-1")]}, NO_PARENT)


def span_in(context: Context) -> SpanContext | None:
    """Return the span of *context*, ``None`` if there is none."""
    span = get_current_span(context).get_span_context()
    return span if span.is_valid else None


def header_line(span: SpanContext) -> bytes:
    """Return the header line that names *span* as the parent."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(NonRecordingSpan(span), NO_PARENT))
    return b"traceparent: %b\r\n" % carrier["traceparent"].encode("ascii")
