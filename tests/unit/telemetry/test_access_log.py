"""The access log: batches, failures, sampling, and what its events may contain."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs

from goproxyai.cache.entry import new_entry
from goproxyai.daemon.log_setup import log_request_events
from goproxyai.telemetry.access_log import (
    FLUSH_SECONDS,
    MAX_WAITING,
    AccessLog,
)
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.failure_log import MAX_OF_CAUSE
from goproxyai.telemetry.outcome import (
    CLIENT_CLOSED_REQUEST,
    CacheOutcome,
    Ending,
    RequestOutcome,
    hit_outcome,
)
from goproxyai.telemetry.spans import RequestTrace
from goproxyai.usage.usage import UnreadResponse, Usage
from tests.unit.telemetry.samples import FinishedExchange

HIT = RequestOutcome(CacheOutcome.HIT)
SECRET = "Zq8secret"


class Tracer:
    """Keeps the events that it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def ended(self, events: list[Event], batch: Batch) -> None:
        self.events += events


def access_log(clock: Clock, batches: list[list[Event]], **options: Any) -> AccessLog:
    return AccessLog(clock, Counters(), lambda events, _: batches.append(events), **options)


def recorded(exchange: Any, outcome: RequestOutcome, **options: Any) -> Event:
    """Return the event of one request."""
    batches: list[list[Event]] = []
    log = access_log(Clock(), batches, **options)
    log.record(exchange, "192.0.2.1", outcome)
    log.flush()
    ((event,),) = batches
    return event


# Batches.


def test_events_are_written_in_batches_after_a_delay() -> None:
    clock, batches = Clock(), []
    log = access_log(clock, batches)
    for _ in range(3):
        log.record(FinishedExchange(), "c", HIT)
    assert batches == []
    assert log.pending == 3
    clock.advance(FLUSH_SECONDS)
    assert [len(batch) for batch in batches] == [3]
    assert clock.getDelayedCalls() == []
    log.flush()
    assert len(batches) == 1


def test_full_batch_is_written_at_once() -> None:
    clock, batches = Clock(), []
    log = access_log(clock, batches)
    for _ in range(MAX_WAITING + 1):
        log.record(FinishedExchange(), "c", HIT)
    assert [len(batch) for batch in batches] == [MAX_WAITING]
    log.flush()
    assert [len(batch) for batch in batches] == [MAX_WAITING, 1]
    assert clock.getDelayedCalls() == []


def test_batch_that_cannot_be_written_is_counted(failures: list[LogEvent]) -> None:
    def fail(events: list[Event], batch: Batch) -> None:
        raise OSError(28, "planted")

    counters = Counters()
    log = AccessLog(Clock(), counters, fail)
    for _ in range(MAX_WAITING):
        log.record(FinishedExchange(), "c", HIT)
    assert counters.finished.count == MAX_WAITING
    assert len(failures) == 1
    failures.clear()


def test_new_writer_gets_only_later_events() -> None:
    before: list[list[Event]] = []
    after: list[list[Event]] = []
    log = access_log(Clock(), before)
    log.record(FinishedExchange(), "c", HIT)
    log.write_to(lambda events, _: after.append(events))
    log.record(FinishedExchange(), "c", HIT)
    log.write_to(None)
    log.record(FinishedExchange(), "c", HIT)
    log.flush()
    assert [len(batch) for batch in before + after] == [1, 1]


def test_failed_requests_are_kept_without_a_writer() -> None:
    log = AccessLog(Clock(), Counters(), None)
    for number in range(MAX_OF_CAUSE + 5):
        outcome = RequestOutcome(code="circuit_open")
        log.record(FinishedExchange(status=503, body_bytes_sent=number), "c", outcome)
        log.record(FinishedExchange(), "c", HIT)
    log.flush()
    kept = [event.bytes_out for event, _ in log.failures.recent]
    assert kept == list(range(5, MAX_OF_CAUSE + 5))


@pytest.mark.parametrize(
    ("exchange", "outcome", "written"),
    [
        (FinishedExchange(), HIT, False),
        (FinishedExchange(status=404), HIT, True),
        (FinishedExchange(), RequestOutcome(ending=Ending.CUT), True),
        (FinishedExchange(), RequestOutcome(ending=Ending.CLIENT_GONE), True),
        (FinishedExchange(started_at=-20.0), HIT, True),
        (FinishedExchange(started_at=-20.0), RequestOutcome(first_byte_seconds=1.0), False),
    ],
)
def test_sample_contains_all_notable_events(
    exchange: Any, outcome: RequestOutcome, written: bool
) -> None:
    batches: list[list[Event]] = []
    log = access_log(Clock(), batches, slow=10.0, sample=0.0)
    log.record(exchange, "c", outcome)
    log.flush()
    assert len(batches[0]) == written


# The fields of events.


def test_event_has_the_fields_of_exchange_and_outcome() -> None:
    clock = Clock()
    clock.advance(5)
    batches: list[list[Event]] = []
    log = access_log(clock, batches)
    exchange = FinishedExchange(
        started_at=2.0, method=b"POST", target=b"/v1/files?after=x", status=0
    )
    outcome = RequestOutcome(
        CacheOutcome.BYPASS, "path", "upstream_timeout", "detail", Ending.CLIENT_GONE, 0.5,
        b"req_1", 0.75, Usage("m", 1, 2, 3, 4),
    )  # fmt: skip
    log.record(exchange, "192.0.2.1", outcome)
    log.flush()
    assert batches == [[
        Event(
            2.0, b"POST", "/v1/files?after", CLIENT_CLOSED_REQUEST, "192.0.2.1", "", 3, 5, 3.0,
            b"id-1", None, CacheOutcome.BYPASS, "path", "upstream_timeout", "detail",
            Ending.CLIENT_GONE, 0.5, b"req_1", 0.75, Usage("m", 1, 2, 3, 4),
        )
    ]]  # fmt: skip
    assert batches[0][0].cache_label == "path"


def test_hit_outcome_equals_the_outcome_by_keywords() -> None:
    entry = new_entry(b"k", 200, b"", b"{}", 0.0, 1.0, 0, None)
    outcome = hit_outcome(entry)
    assert outcome == RequestOutcome(CacheOutcome.HIT, usage_source=entry)
    assert type(outcome) is RequestOutcome


secrets = st.text("abcdefXYZ019-_", min_size=1).map(lambda text: f"{SECRET}{text}")
paths = st.text("/v1chatfiles.-%2", max_size=40).map(lambda text: f"/v1/{text}")


@st.composite
def targets(draw: Any) -> bytes:
    """Targets with secrets as query values, in origin or absolute form."""
    pairs = [f"p{number}={draw(secrets)}" for number in range(draw(st.integers(0, 3)))]
    fragment = draw(st.sampled_from(["", "#", f"#{SECRET}"]))
    origin = draw(st.sampled_from(["", f"http://{SECRET}@host", f"http://u:{SECRET}@host:80"]))
    query = "?" + "&".join(pairs) if pairs else ""
    return f"{origin}{draw(paths)}{query}{fragment}".encode()


sources = st.sampled_from([
    UnreadResponse(b'{"x":"%b"}' % SECRET.encode()),
    UnreadResponse(b'{"x":"%b","usage":{"prompt_tokens":1,"total_tokens":1}}' % SECRET.encode()),
    new_entry(b"k", 200, SECRET.encode(), SECRET.encode(), 0.0, 1.0, 0, None),
    Usage("m", 1, 2, 0, 0),
    None,
])  # fmt: skip
outcomes = st.builds(
    RequestOutcome,
    st.sampled_from(CacheOutcome),
    st.sampled_from(["", "path", "header"]),
    st.sampled_from(["", "upstream_timeout"]),
    ending=st.sampled_from(Ending),
    usage_source=sources,
    upstream_seconds=st.just(-1.0) | st.floats(0, 1e6),
    first_byte_seconds=st.just(-1.0) | st.floats(0, 1e6),
)


def contents(value: object) -> list[str]:
    """Return the texts of *value*, and of the attributes of a trace in it."""
    if isinstance(value, RequestTrace):
        return [repr(getattr(value, name)) for name in RequestTrace.__slots__]
    if isinstance(value, tuple):
        return [text for each in value for text in contents(each)]
    return [repr(value), str(value)]


@given(
    st.lists(st.tuples(targets(), st.binary(max_size=8), outcomes), min_size=1, max_size=8),
    secrets,
)
def test_events_contain_no_query_value_and_no_body(
    requests: list[tuple[bytes, bytes, RequestOutcome]], secret: str
) -> None:
    written: list[list[Event]] = []
    log = access_log(Clock(), written, slow=0.0)
    log.tracer = tracer = Tracer()
    for target, method, outcome in requests:
        trace = RequestTrace(None, None, True, True)  # type: ignore[arg-type]  # only its body counts
        trace.read(0.0, b'{"model":"gpt-4o","prompt":"%b"}' % secret.encode())
        log.record(FinishedExchange(target=target, method=method, trace=trace), "c", outcome)
    for record in log._waiting:
        *fields, outcome = record
        assert SECRET not in " ".join(contents((*fields, *outcome[:-1])))
    log.flush()
    failures = [event for event, _ in log.failures.recent]
    events = [*written[0], *tracer.events, *failures]
    assert len(events) >= 2 * len(requests)
    for event in events:
        assert SECRET not in " ".join(contents(event))


@given(targets(), outcomes)
def test_events_for_the_operators_logger_contain_no_query_value_and_no_body(
    target: bytes, outcome: RequestOutcome
) -> None:
    event = recorded(FinishedExchange(target=target), outcome)
    with capturedLogs() as logged:
        log_request_events([event], Batch(0.0))
    assert len(logged) == 1
    assert SECRET not in repr(logged)
