"""The span of a finished request, from its event and its trace."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanContext, TraceFlags

from goproxyai.messages.redaction import redacted_target
from goproxyai.telemetry.counters import ROUTES
from goproxyai.telemetry.outcome import CacheOutcome, Ending
from goproxyai.telemetry.propagation import header_line
from goproxyai.telemetry.spans import MAX_ATTEMPTS, RequestTrace, request_kind, span_of
from goproxyai.usage.usage import Details, Usage, requested_model
from tests.unit.telemetry.samples import make_event

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "_OTHER")
SPAN = SpanContext(1, 2, False, TraceFlags(1))


@given(st.binary(max_size=40), st.binary(max_size=60).map(lambda end: b"/v1/" + end))
def test_span_names_are_few(method: bytes, target: bytes) -> None:
    kind = request_kind(method, redacted_target(target))
    if kind.operation:
        assert kind.name == kind.operation
        return
    known, _, route = kind.name.partition(" ")
    assert known == ("HTTP" if kind.method == "_OTHER" else kind.method)
    assert kind.method in METHODS
    assert route in (*ROUTES, "other")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        (b"POST", "/v1/chat/completions", ("POST", "chat", "chat", True)),
        (b"POST", "/v1/chat/completions?x", ("POST", "chat", "chat", True)),
        (b"GET", "/v1/chat/completions", ("GET", "", "GET /v1/chat/completions", False)),
        (b"POST", "/v1/images/edits", ("POST", "", "POST /v1/images", True)),
        (b"BREW", "/v1/x", ("_OTHER", "", "HTTP other", False)),
    ],
)
def test_kind_of_a_request(method: bytes, path: str, expected: tuple[str, str, str, bool]) -> None:
    assert request_kind(method, path) == expected


@given(st.binary())
def test_model_of_any_body_is_short_and_visible(body: bytes) -> None:
    assert re.fullmatch(r"[\x21-\x7e]{0,100}", requested_model(body))


@pytest.mark.parametrize("size", [10, 100_000])
def test_model_is_found_at_both_ends_of_a_body(size: int) -> None:
    filling = b"x" * size
    assert requested_model(b'{"model":"m","input":"%b"}' % filling) == "m"
    assert requested_model(b'{"input":"%b","model":"m"}' % filling) == "m"
    assert requested_model(b'{"input":"\\"model\\":\\"no\\"%b"}' % filling) == ""


def test_attempts_of_a_trace_are_bounded() -> None:
    trace = RequestTrace(SPAN, None, True, False)
    for number in range(MAX_ATTEMPTS + 5):
        assert trace.forwarded(float(number), "http://a", None) == header_line(SPAN)
    assert len(trace.attempts) == MAX_ATTEMPTS


def test_unsampled_trace_keeps_no_attempts_and_no_model() -> None:
    trace = RequestTrace(SPAN, None, False, True)
    trace.read(0.0, b'{"model":"m"}')
    assert trace.forwarded(0.0, "http://a", b'{"model":"m"}') == header_line(SPAN)
    assert (trace.attempts, trace.model) == ([], "")


def test_leader_without_a_trace_is_not_linked() -> None:
    trace = RequestTrace(SPAN, None, True, True)
    trace.coalesced(None)
    assert trace.leader is None


@pytest.mark.parametrize(
    ("cache", "prefix"),
    [(CacheOutcome.MISS, "gen_ai.usage."), (CacheOutcome.STALE, "goproxyai.spared.")],
)
def test_tokens_are_named_by_whether_upstream_bills_them(cache: CacheOutcome, prefix: str) -> None:
    trace = RequestTrace(SPAN, None, True, True)
    event = make_event(cache=cache, usage=Usage("m", 5, 7, 0, 0), trace=trace)
    attributes = span_of(event, trace, 0.0, Resource.get_empty()).attributes or {}
    tokens = {name: value for name, value in attributes.items() if name.endswith("_tokens")}
    assert tokens == {f"{prefix}input_tokens": 5, f"{prefix}output_tokens": 7}


def test_details_of_billed_tokens_are_attributes() -> None:
    trace = RequestTrace(SPAN, None, True, True)
    usage = Usage("m", 90, 70, 0, 0, Details(cache_write=5, audio_prompt=6, rejected_prediction=7))
    event = make_event(cache=CacheOutcome.MISS, usage=usage, trace=trace)
    attributes = span_of(event, trace, 0.0, Resource.get_empty()).attributes or {}
    assert {name: value for name, value in attributes.items() if ".usage." in name} == {
        "gen_ai.usage.input_tokens": 90,
        "gen_ai.usage.output_tokens": 70,
        "gen_ai.usage.cache_creation.input_tokens": 5,
        "goproxyai.usage.audio_prompt": 6,
        "goproxyai.usage.rejected_prediction": 7,
    }


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": 404}, None),
        ({"status": 503, "code": "circuit_open"}, "circuit_open"),
        ({"status": 500}, "500"),
        ({"ending": Ending.CUT}, "cut"),
        ({"ending": Ending.CLIENT_GONE, "status": 499}, None),
    ],
)
def test_error_type_of_an_event(fields: dict[str, object], error: str | None) -> None:
    trace = RequestTrace(SPAN, None, True, True)
    span = span_of(make_event(trace=trace, **fields), trace, 0.0, Resource.get_empty())
    assert (span.attributes or {}).get("error.type") == error


@given(
    st.dictionaries(st.sampled_from(["method", "upstream_request_id"]), st.binary()),
    st.binary().map(redacted_target),
    st.floats(0, 1e6),
    st.integers(0, 599),
    st.sampled_from(Ending),
    st.binary(),
)
def test_span_of_any_event_can_be_encoded(
    raw: dict[str, bytes], path: str, seconds: float, status: int, ending: Ending, body: bytes
) -> None:
    trace = RequestTrace(SPAN, None, True, True)
    trace.read(0.5, body)
    trace.forwarded(0.5, "https://api.test", None)
    event = make_event(
        seconds=seconds, upstream_seconds=seconds, status=status, path=path, ending=ending,
        trace=trace, **raw,
    )  # fmt: skip
    span = span_of(event, trace, 1.0, Resource.get_empty())
    assert encode_spans([span]).SerializeToString()
