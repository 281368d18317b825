"""The arithmetic of deadlines, without connections."""

from __future__ import annotations

import pytest

from goproxyai.http11.connection_deadlines import (
    BODY_GRACE_SECONDS,
    HEAD_TIMEOUT_SECONDS,
    MAX_CONNECTION_AGE_SECONDS,
    MIN_BODY_BYTES_PER_SECOND,
    POOLED_SECONDS,
    READER_STALL_SECONDS,
    ClientDeadlines,
    ServerDeadlines,
    Timeouts,
)
from goproxyai.reactor.deadlines import NEVER


def test_new_connection_waits_for_a_head() -> None:
    assert ServerDeadlines(100.0).expires_at == 100.0 + HEAD_TIMEOUT_SECONDS


def test_tick_returns_the_time_since_the_last_one() -> None:
    deadlines = ServerDeadlines(100.0)
    assert [deadlines.tick(now) for now in (100.25, 101.0, 101.0)] == [0.25, 0.75, 0.0]


@pytest.mark.parametrize("received", [0, 1_000, 1_000_000])
def test_body_may_take_the_grace_period_and_the_time_of_its_bytes(received: int) -> None:
    deadlines = ServerDeadlines(0.0)
    deadlines.start_body(100.0)
    latest = 100.0 + BODY_GRACE_SECONDS + received / MIN_BODY_BYTES_PER_SECOND
    assert deadlines.body_is_too_slow(received, latest + 0.01)
    assert not deadlines.body_is_too_slow(received, latest)


def test_fast_body_earns_one_grace_period() -> None:
    deadlines = ServerDeadlines(0.0)
    deadlines.start_body(0.0)
    assert not deadlines.body_is_too_slow(1_000_000, 1.0)
    assert not deadlines.body_is_too_slow(1_000_000, 1.0 + BODY_GRACE_SECONDS)
    assert deadlines.body_is_too_slow(1_000_000, 1.1 + BODY_GRACE_SECONDS)


def test_postponed_body_has_more_time() -> None:
    deadlines = ServerDeadlines(0.0)
    deadlines.start_body(0.0)
    deadlines.postpone_body(500.0)
    assert not deadlines.body_is_too_slow(0, 500.0 + BODY_GRACE_SECONDS)


def test_reader_is_stalled_if_it_takes_nothing() -> None:
    deadlines = ServerDeadlines(0.0)
    assert not deadlines.reader_is_stalled(100, 60, 0.0)
    assert not deadlines.reader_is_stalled(100, 60, READER_STALL_SECONDS - 1)
    assert deadlines.reader_is_stalled(900, 860, READER_STALL_SECONDS)


def test_reader_that_takes_a_byte_is_not_stalled() -> None:
    deadlines = ServerDeadlines(0.0)
    assert not deadlines.reader_is_stalled(100, 60, 0.0)
    assert not deadlines.reader_is_stalled(100, 59, READER_STALL_SECONDS)
    assert not deadlines.reader_is_stalled(100, 59, READER_STALL_SECONDS + 1)


def test_reader_without_unsent_bytes_is_not_stalled() -> None:
    deadlines = ServerDeadlines(0.0)
    for now in (0.0, 1e3, 1e6):
        assert not deadlines.reader_is_stalled(100, 0, now)


def test_change_is_reported_once() -> None:
    deadlines = ServerDeadlines(0.0)
    assert [deadlines.has_changed(), deadlines.has_changed()] == [True, False]
    deadlines.expires_at = NEVER
    assert [deadlines.has_changed(), deadlines.has_changed()] == [True, False]


def test_standstill_postpones_all_deadlines_of_a_client() -> None:
    deadlines = ServerDeadlines(100.0)
    deadlines.start_body(100.0)
    assert not deadlines.reader_is_stalled(100, 60, 100.0)
    deadlines.postpone(1000.0, 1100.25)
    assert deadlines.expires_at == 100.0 + 1000.0 + HEAD_TIMEOUT_SECONDS
    assert not deadlines.body_is_too_slow(0, 1100.0 + BODY_GRACE_SECONDS)
    assert deadlines.body_is_too_slow(0, 1100.1 + BODY_GRACE_SECONDS)
    assert not deadlines.reader_is_stalled(100, 60, 1129.0)
    assert deadlines.reader_is_stalled(100, 60, 1131.0)
    assert deadlines.tick(1100.5) == 0.25


def test_request_progress_extends_the_wait() -> None:
    deadlines = ClientDeadlines(Timeouts(head=30.0, idle=5.0), 0.0)
    deadlines.sending, deadlines.bytes_written = True, 100
    deadlines.check_request_progress(60, 0, True, 10.0)
    assert (deadlines.awaited, deadlines.expires_at) == (
        "the upstream to read the request body", 15.0,
    )  # fmt: skip
    deadlines.check_request_progress(60, 0, True, 12.0)
    assert deadlines.expires_at == 15.0
    deadlines.check_request_progress(50, 0, True, 12.0)
    assert deadlines.expires_at == 17.0


def test_complete_request_waits_for_the_response_head() -> None:
    deadlines = ClientDeadlines(Timeouts(head=30.0, idle=5.0), 0.0)
    deadlines.sending = True
    deadlines.check_request_progress(0, 0, True, 10.0)
    assert (deadlines.sending, deadlines.expires_at) == (True, 15.0)
    deadlines.check_request_progress(0, 0, False, 10.0)
    assert (deadlines.sending, deadlines.awaited, deadlines.expires_at) == (
        False, "the response head", 40.0,
    )  # fmt: skip


def test_bytes_that_the_upstream_takes_from_the_kernel_are_progress() -> None:
    deadlines = ClientDeadlines(Timeouts(head=30.0, idle=5.0), 0.0)
    deadlines.sending, deadlines.bytes_written = True, 100
    deadlines.check_request_progress(60, 40, True, 10.0)
    deadlines.check_request_progress(60, 40, True, 12.0)
    assert deadlines.expires_at == 15.0
    deadlines.check_request_progress(60, 30, True, 12.0)
    assert deadlines.expires_at == 17.0


def test_wait_for_the_response_head_starts_again_while_the_kernel_sends() -> None:
    deadlines = ClientDeadlines(Timeouts(head=30.0, idle=5.0), 0.0)
    deadlines.sending, deadlines.bytes_written = True, 100
    for now, unacknowledged, expected in [(10.0, 90, 40.0), (20.0, 90, 40.0), (30.0, 80, 60.0)]:
        deadlines.check_request_progress(0, unacknowledged, False, now)
        assert (deadlines.sending, deadlines.expires_at) == (True, expected)
    deadlines.check_request_progress(0, 0, False, 31.0)
    assert (deadlines.sending, deadlines.expires_at) == (False, 61.0)


def test_written_request_that_is_not_sent_waits_for_progress() -> None:
    deadlines = ClientDeadlines(Timeouts(head=30.0, idle=5.0), 0.0)
    deadlines.sending = True
    deadlines.await_response_head(0.0)
    deadlines.check_request_progress(60, 0, False, 1.0)
    assert deadlines.awaited == "the upstream to read the request body"


@pytest.mark.parametrize(("is_post", "seconds"), [(False, 30.0), (True, 600.0)])
def test_post_waits_for_the_generation_of_its_response(is_post: bool, seconds: float) -> None:
    deadlines = ClientDeadlines(Timeouts(head=30.0, idle=5.0, generation=600.0), 0.0)
    deadlines.is_post = is_post
    deadlines.await_response_head(10.0)
    assert deadlines.expires_at == 10.0 + seconds


def test_generation_takes_as_long_as_a_head_unless_it_is_set() -> None:
    assert Timeouts(head=30.0, idle=5.0).generation == 30.0


def test_changed_timeouts_apply_to_the_next_wait() -> None:
    timeouts = Timeouts(head=30.0, idle=5.0)
    deadlines = ClientDeadlines(timeouts, 0.0)
    deadlines.await_response_body(0.0)
    timeouts.idle = 7.0
    assert deadlines.expires_at == 5.0
    deadlines.await_response_body(0.0)
    assert deadlines.expires_at == 7.0


@pytest.mark.parametrize(
    ("announced", "seconds"),
    [
        (None, POOLED_SECONDS),
        (b"timeout=5", 4.0),
        (b"max=100, Timeout = 5", 4.0),
        (b"max=100,timeout=5", 4.0),
        (b'timeout="20", max=3', 19.0),
        (b"timeout=600", POOLED_SECONDS),
        (b"max=5", POOLED_SECONDS),
        (b"xtimeout=5", POOLED_SECONDS),
        (b"timeout=soon", POOLED_SECONDS),
        (b"", POOLED_SECONDS),
    ],
)
def test_idle_time_ends_a_second_before_the_announced_one(
    announced: bytes | None, seconds: float
) -> None:
    deadlines = ClientDeadlines(Timeouts(head=30.0, idle=5.0), 100.0)
    assert deadlines.await_next_request(announced, 200.0)
    assert deadlines.expires_at == 200.0 + seconds


@pytest.mark.parametrize("announced", [b"timeout=1", b"timeout=0"])
def test_connection_is_not_kept_for_the_last_second(announced: bytes) -> None:
    deadlines = ClientDeadlines(Timeouts(head=30.0, idle=5.0), 100.0)
    assert not deadlines.await_next_request(announced, 200.0)


def test_old_connection_is_not_kept() -> None:
    deadlines = ClientDeadlines(Timeouts(head=30.0, idle=5.0), 100.0)
    retires_at = 100.0 + MAX_CONNECTION_AGE_SECONDS
    assert deadlines.await_next_request(None, retires_at - 10.0)
    assert deadlines.expires_at == retires_at
    assert not deadlines.await_next_request(None, retires_at)
