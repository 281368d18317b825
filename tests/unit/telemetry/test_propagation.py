"""``traceparent`` is read and written as W3C Trace Context requires."""

from __future__ import annotations

import logging

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext, TraceFlags

from goproxyai.telemetry.propagation import (
    MAX_TRACEPARENT_BYTES,
    extract,
    header_line,
    span_in,
)

VALUE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

field_values = st.binary(max_size=80) | st.from_regex(
    rb"[0-9a-fF]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.?"
)


@given(field_values.filter(lambda value: b"\n" not in value))  # the HTTP parser refuses it
@example(VALUE)
@example(b" \t" + VALUE + b"\t")
@example(b"01" + VALUE[2:] + b"-new")
@example(b"01" + VALUE[2:] + b"new")
@example(VALUE + b", " + VALUE)
def test_valid_traceparent_and_no_other_is_extracted(value: bytes) -> None:
    span = span_in(extract(value))
    parts = value.strip(b" \t").split(b"-")
    valid = (
        [len(part) for part in parts[:4]] == [2, 32, 16, 2]
        and not set(b"".join(parts[:4])) - set(b"0123456789abcdef")
        and parts[0] != b"ff"
        and (len(parts) == 4 or parts[0] != b"00")
        and int(parts[1], 16) > 0
        and int(parts[2], 16) > 0
    )
    assert (span is not None) == valid
    if span is not None:
        assert span.is_remote
        assert (span.trace_id, span.span_id) == (int(parts[1], 16), int(parts[2], 16))
        assert span.trace_flags == int(parts[3], 16)


@given(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.integers(0, 3))
def test_written_header_line_is_read_back(trace_id: int, span_id: int, flags: int) -> None:
    span = SpanContext(trace_id, span_id, False, TraceFlags(flags))
    line = header_line(span)
    assert line == b"traceparent: 00-%032x-%016x-%02x\r\n" % (trace_id, span_id, flags)
    read = span_in(extract(line.removeprefix(b"traceparent: ").removesuffix(b"\r\n")))
    assert read is not None
    assert (read.trace_id, read.span_id, read.trace_flags) == (trace_id, span_id, flags)


@pytest.mark.parametrize("value", [None, b"", b"x" * (MAX_TRACEPARENT_BYTES + 1), b"\xff" * 55])
def test_absent_or_invalid_traceparent_logs_nothing(
    value: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "opentelemetry"):
        assert span_in(extract(value)) is None
    assert caplog.records == []
