"""The fields of a request's log line."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.telemetry.events import (
    MAX_UPSTREAM_ID_BYTES,
    Batch,
    Event,
    finished_events,
    request_lines,
    timestamp,
)
from goproxyai.telemetry.outcome import CacheOutcome, Ending, RequestOutcome
from goproxyai.telemetry.records import Columns
from goproxyai.usage.totals import KINDS
from goproxyai.usage.usage import Details, Usage
from tests.unit.telemetry.samples import UNIX_TIME, make_event

BATCH = Batch(UNIX_TIME)
HIT_FIELDS = {
    "time": UNIX_TIME + 0.25,
    "method": "GET",
    "path": "/v1/models?limit",
    "status": 200,
    "cache": "HIT",
    "client": "192.0.2.1",
    "bytes_in": 1,
    "bytes_out": 2,
    "ms": {"total": 1.25},
    "ended": "ok",
    "request_id": "id-1",
}


def test_fields_of_a_hit_are_the_required_ones() -> None:
    assert make_event().fields(BATCH) == HIT_FIELDS


def test_fields_of_a_failed_miss_have_all_optional_ones() -> None:
    event = make_event(
        cache=CacheOutcome.MISS, status=502, code="upstream_timeout", detail="d",
        ending=Ending.CUT, seconds=2.0, upstream_seconds=0.5, first_byte_seconds=0.75,
        upstream_request_id=b"req_1", usage=Usage("m", 1, 2, 3, 4),
    )  # fmt: skip
    assert event.fields(Batch(UNIX_TIME, slow=0.5, sample=0.1)) == HIT_FIELDS | {
        "status": 502,
        "cache": "MISS",
        "ms": {"total": 2000.0, "upstream": 500.0, "proxy": 250.0, "first_byte": 750.0},
        "ended": "cut",
        "code": "upstream_timeout",
        "detail": "d",
        "upstream_request_id": "req_1",
        "tokens": {"model": "m", "prompt": 1, "completion": 2, "cached": 3, "reasoning": 4},
        "slow": True,
    }


def test_log_line_has_only_the_details_that_are_reported() -> None:
    usage = Usage("m", 9, 2, 3, 0, Details(cache_write=4, accepted_prediction=1))
    assert make_event(usage=usage).fields(Batch(UNIX_TIME))["tokens"] == {
        "model": "m", "prompt": 9, "completion": 2, "cached": 3, "reasoning": 0,
        "cache_write": 4, "accepted_prediction": 1,
    }  # fmt: skip
    everything = Usage("m", 9, 2, 3, 0, Details(*range(1, len(Details._fields) + 1)))
    tokens = make_event(usage=everything).fields(Batch(UNIX_TIME))["tokens"]
    assert tuple(tokens) == ("model", *KINDS)


@pytest.mark.parametrize(("status", "sample"), [(200, 0.1), (404, None), (502, None)])
def test_sampled_event_carries_the_share_unless_notable(status: int, sample: float | None) -> None:
    fields = make_event(status=status).fields(Batch(UNIX_TIME, sample=0.1))
    assert fields.get("sample") == sample


def test_cache_field_of_a_bypass_is_its_reason() -> None:
    event = make_event(cache=CacheOutcome.BYPASS, bypass_reason="no-store")
    assert event.fields(BATCH)["cache"] == "no-store"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"", b""),
        (b"req_1", b"req_1"),
        (b"\xe9" * 1000, b"\xe9" * MAX_UPSTREAM_ID_BYTES),
        (b"echo of sk-abcdefgh", b"echo of sk-***"),
    ],
)
def test_upstream_request_id_is_bounded_and_has_no_credential(given: bytes, kept: bytes) -> None:
    outcome = RequestOutcome(upstream_request_id=given)
    record = (0.0, b"GET", "/", 200, "192.0.2.1", "", 0, 0, 0.0, b"id", None, outcome)
    (event,) = finished_events(Columns.of([record]))
    assert event.upstream_request_id == kept
    assert event.fields(BATCH).get("upstream_request_id", "") == kept.decode("latin-1")


@given(st.floats(0, 1e6))
def test_milliseconds_are_rounded_to_microseconds(seconds: float) -> None:
    total = make_event(seconds=seconds).fields(BATCH)["ms"]["total"]
    assert total == pytest.approx(seconds * 1000, abs=0.00051)
    assert total == round(total, 3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.25, "2023-11-14T22:13:20.250Z"),
        (1_700_000_000.9999, "2023-11-14T22:13:20.999Z"),
    ],
)
def test_timestamp_is_rfc_3339_with_milliseconds(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text


_SECONDS = st.floats(0, 1e6)
_EVENTS = st.builds(
    make_event,
    method=st.sampled_from([b"GET", b"POST", b"\xff"]),
    status=st.sampled_from([200, 502]),
    cache=st.sampled_from(CacheOutcome),
    ending=st.sampled_from(Ending),
    seconds=_SECONDS,
    bypass_reason=st.sampled_from(["", "header"]),
    client_subject=st.sampled_from(["", "CN=a"]),
    upstream_seconds=st.just(-1.0) | _SECONDS,
    upstream_request_id=st.sampled_from([b"", b"req\xe9"]),
    first_byte_seconds=st.just(-1.0) | _SECONDS,
    usage=st.none() | st.builds(Usage.of, st.just("m"), st.tuples(*[st.integers(0, 2)] * 12)),
)


@given(st.lists(_EVENTS), st.floats(0, 2e6), st.sampled_from([0.1, 1.0]))
def test_lines_of_a_batch_are_those_of_its_events(
    events: list[Event], slow: float, sample: float
) -> None:
    batch = Batch(UNIX_TIME, slow, sample)
    each = [line for event in events for line in request_lines([event], batch)]
    assert request_lines(events, batch) == each
    for line, event in zip(each, events, strict=True):
        assert (line.ms.upstream is None) == (event.upstream_seconds < 0)
        assert (line.ms.proxy is None) == (event.upstream_seconds < 0)
        assert (line.ms.first_byte is None) == (event.first_byte_seconds < 0)
        assert line.slow == (event.waited >= slow)
        assert (line.sample is None) == (sample == 1 or event.is_notable(slow))
        assert (line.tokens is None) == (event.usage is None)
        if line.tokens is not None and event.usage is not None:
            assert msgspec.structs.astuple(line.tokens) == ("m", *event.usage.counts())
