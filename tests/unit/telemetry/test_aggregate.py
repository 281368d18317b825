"""Counting a batch gives the same counters as counting each request by itself."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from goproxyai.cache.entry import new_entry
from goproxyai.telemetry.access_log import AccessLog
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.outcome import SAVED_OUTCOMES, CacheOutcome, Ending, RequestOutcome
from goproxyai.usage.usage import UnreadResponse, Usage
from tests.unit.telemetry.samples import FinishedExchange

BODY = b'{"model":"m","usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
ENTRY = new_entry(b"k", 200, b"", b"{}", 0.0, 1.0, 0, None, Usage("m", 3, 2, 0, 0))

seconds = st.sampled_from([0.0, 0.0002, 0.02, 3.0, 50.0])
unknown_or_seconds = st.just(-1.0) | seconds


@st.composite
def requests(draw: Any) -> tuple[FinishedExchange, RequestOutcome]:
    cache = draw(st.sampled_from(CacheOutcome))
    if cache in SAVED_OUTCOMES:
        source = draw(st.sampled_from([ENTRY, Usage("n", 1, 1, 0, 0), None]))
    else:
        # A fresh object: an unread answer is counted once.
        source = draw(st.sampled_from([BODY, b"{}", Usage("n", 1, 1, 0, 0), None]))
        source = UnreadResponse(source) if isinstance(source, bytes) else source
    outcome = RequestOutcome(
        cache,
        draw(st.sampled_from(["path", "header"])) if cache is CacheOutcome.BYPASS else "",
        draw(st.sampled_from(["", "", "upstream_timeout", "not_found"])),
        "",
        draw(st.sampled_from(Ending)),
        draw(unknown_or_seconds),
        b"",
        draw(unknown_or_seconds),
        source,
    )
    exchange = FinishedExchange(
        started_at=-draw(seconds),
        method=draw(st.sampled_from([b"GET", b"POST", b"BREW"])),
        target=draw(st.sampled_from([b"/v1/models?a=1", b"/v1/models?a=2", b"/x", b"*"])),
        status=draw(st.sampled_from([0, 200, 404, 429, 502])),
        body_bytes_sent=draw(st.integers(0, 9)),
        received=draw(st.integers(0, 9)),
    )
    return exchange, outcome


def counted(batches: list[list[tuple[FinishedExchange, RequestOutcome]]]) -> Counters:
    counters = Counters()
    log = AccessLog(Clock(), counters, None, slow=2.0)
    for batch in batches:
        for exchange, outcome in batch:
            log.record(exchange, "c", outcome)  # type: ignore[arg-type]
        log.flush()
    return counters


@given(st.lists(requests(), min_size=1, max_size=20))
def test_batch_counts_like_single_requests(
    batch: list[tuple[FinishedExchange, RequestOutcome]],
) -> None:
    together = counted([batch])
    alone = [
        (exchange, outcome._replace(usage_source=UnreadResponse(BODY)))
        if isinstance(outcome.usage_source, UnreadResponse) and outcome.usage_source.usage()
        else (exchange, outcome)
        for exchange, outcome in batch
    ]
    one_by_one = counted([[each] for each in alone])
    summaries = together.summary(), one_by_one.summary()
    for summary in summaries:
        for name in ("time", "first_byte_time", "upstream_time", "overhead"):
            summary["requests"][name] = {
                key: round(value, 1) for key, value in summary["requests"][name].items()
            }
    assert summaries[0] == summaries[1]
    assert together.finished.outcomes == one_by_one.finished.outcomes
    for cache in CacheOutcome:
        buckets = [each.durations.request[cache].counts() for each in (together, one_by_one)]
        assert buckets[0] == buckets[1]


def one(outcome: RequestOutcome, **fields: Any) -> Counters:
    return counted([[(FinishedExchange(**fields), outcome)]])


def test_bypass_is_counted_by_its_reason_and_timed_as_a_bypass() -> None:
    counters = one(RequestOutcome(CacheOutcome.BYPASS, "header"), started_at=-1.0)
    assert counters.finished.outcomes == {("/v1/models", "GET", 200, "header"): 1}
    assert counters.durations.request[CacheOutcome.BYPASS].count == 1


def test_own_page_is_timed_until_its_first_byte() -> None:
    outcome = RequestOutcome(first_byte_seconds=0.25)
    counters = one(outcome, started_at=-3600.0, target=b"/dashboard/events")
    assert counters.durations.request[CacheOutcome.NONE].longest == 0.25
    assert counters.finished.slow == 0


def test_forwarded_times_leave_out_requests_without_an_upstream_answer() -> None:
    forwarded = RequestOutcome(CacheOutcome.MISS, upstream_seconds=0.5)
    refused = RequestOutcome(CacheOutcome.MISS, code="upstream_timeout")
    counters = counted(
        [[(FinishedExchange(started_at=-2.0), each) for each in (forwarded, refused)]]
    )
    durations = counters.durations
    assert durations.first_byte.count == durations.upstream.count == durations.overhead.count == 1
    assert (durations.upstream.total, durations.overhead.total) == (0.5, 1.5)


def test_unread_answer_counts_as_used_and_entry_as_saved() -> None:
    miss = RequestOutcome(CacheOutcome.MISS, usage_source=UnreadResponse(BODY))
    hit = RequestOutcome(CacheOutcome.HIT, usage_source=ENTRY)
    counters = counted([[(FinishedExchange(), each) for each in (miss, hit, hit)]])
    tokens = counters.tokens
    assert tokens.total("used")["prompt"] == 3
    assert tokens.total("saved")["prompt"] == 6


def test_usage_of_a_forwarded_request_was_counted_by_its_meter() -> None:
    outcome = RequestOutcome(CacheOutcome.MISS, usage_source=Usage("m", 3, 2, 0, 0))
    assert one(outcome).tokens.total("used")["prompt"] == 0


def test_unread_answer_without_usage_is_silent() -> None:
    counters = one(RequestOutcome(CacheOutcome.MISS, usage_source=UnreadResponse(b"{}")))
    assert counters.tokens.unknown == {"silent": 1, "cut": 0, "left": 0}
