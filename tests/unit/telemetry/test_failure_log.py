"""The failed requests that the dashboard shows."""

from __future__ import annotations

from typing import Any

from goproxyai.telemetry.events import Batch
from goproxyai.telemetry.failure_cause import FailureCause
from goproxyai.telemetry.failure_log import (
    MAX_OF_CAUSE,
    SERIES_GAP_SECONDS,
    FailureLog,
    merged_groups,
)
from goproxyai.telemetry.outcome import CacheOutcome
from tests.unit.telemetry.samples import UNIX_TIME, make_event

BATCH = Batch(UNIX_TIME)


def log_of(*times: float, **fields: Any) -> FailureLog:
    log = FailureLog()
    defaults = {"status": 429, "cache": CacheOutcome.MISS, "seconds": 0.0}
    log.add([make_event(began=began, **(defaults | fields)) for began in times], BATCH)
    return log


def test_group_has_first_and_last_failure_of_its_cause() -> None:
    log = log_of(1.0, 5.0, upstream_request_id=b"req_1", detail="why", method=b"POST")
    (group,) = log.groups()
    assert group == {
        "cause": FailureCause.UPSTREAM_429,
        "first_seen": UNIX_TIME + 1,
        "last_seen": UNIX_TIME + 5,
        "status": 429,
        "method": "POST",
        "path": "/v1/models?limit",
        "detail": "why",
        "request_id": "id-1",
        "upstream_request_id": "req_1",
    }


def test_series_after_a_long_gap_is_a_new_one() -> None:
    later = 6.0 + SERIES_GAP_SECONDS
    (group,) = log_of(1.0, 5.0, later).groups()
    assert group["first_seen"] == UNIX_TIME + later
    (group,) = log_of(1.0, 5.0, later - 1).groups()
    assert group["first_seen"] == UNIX_TIME + 1


def test_stored_failure_keeps_the_last_request_id_of_upstream() -> None:
    log = log_of(1.0, upstream_request_id=b"req_1")
    hit = make_event(began=2.0, status=429, cache=CacheOutcome.HIT)
    log.add([hit], BATCH)
    (group,) = log.groups()
    assert group["upstream_request_id"] == "req_1"
    log.add([hit._replace(began=2.0 + 2 * SERIES_GAP_SECONDS)], BATCH)
    (group,) = log.groups()
    assert group["upstream_request_id"] == "", "of another series"


def test_own_pages_and_successes_are_no_failures() -> None:
    log = log_of(1.0, path="/dashboard", status=403, cache=CacheOutcome.NONE)
    log.add([make_event(), make_event(status=499)], BATCH)
    assert not log.groups()
    assert not log.recent


def test_requests_beyond_the_rate_limit_are_grouped_only() -> None:
    log = log_of(1.0, cache=CacheOutcome.NONE)
    assert [group["cause"] for group in log.groups()] == [FailureCause.RATE_LIMITED]
    assert not log.recent


def test_failures_are_bounded() -> None:
    log = log_of(*range(3 * MAX_OF_CAUSE))
    assert len(log.recent) == MAX_OF_CAUSE
    assert log.recent[-1][0].began == 3 * MAX_OF_CAUSE - 1
    for status in range(400, 600):
        log.add([make_event(status=status, cache=CacheOutcome.MISS)], BATCH)
    assert len(log.groups()) <= len(FailureCause)
    assert len(log.recent) <= MAX_OF_CAUSE * len(FailureCause)


def test_frequent_cause_does_not_displace_others_and_order_is_kept() -> None:
    log = log_of(1.0, status=500)
    log.add([make_event(began=9.0, status=500, cache=CacheOutcome.MISS)], BATCH)
    flood = [make_event(began=5.0, status=503, code="circuit_open") for _ in range(500)]
    log.add(flood, BATCH)
    times = [event.began for event, _ in log.recent]
    assert times == [1.0, *[5.0] * MAX_OF_CAUSE, 9.0]


def test_groups_of_processes_are_merged_by_cause() -> None:
    def group(cause: str, first: float, last: float) -> dict[str, Any]:
        return {
            "cause": cause, "first_seen": first, "last_seen": last, "detail": str(last),
            "upstream_request_id": f"req_{last}",
        }  # fmt: skip

    one, other = group("upstream_429", 10.0, 20.0), group("upstream_429", 5.0, 30.0)
    merged = {**other, "first_seen": 5.0}
    assert merged_groups([one, other, group("upstream_401", 1.0, 2.0)]) == [
        merged,
        group("upstream_401", 1.0, 2.0),
    ]
    assert merged_groups([other, one]) == [merged]
    without = {**other, "upstream_request_id": ""}
    assert merged_groups([one, without])[0]["upstream_request_id"] == "req_20.0"
    much_later = group("upstream_429", 20_000.0, 30_000.0)
    assert merged_groups([one, much_later]) == merged_groups([much_later, one]) == [much_later]
