"""The ticker of the deadlines."""

from __future__ import annotations

import attrs
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from goproxyai.reactor.deadlines import (
    MAX_POSTPONED_SECONDS,
    NEVER,
    TICK_SECONDS,
    Deadline,
    Ticker,
    postponed,
)


@attrs.define(eq=False)
class Watched:
    """Records its ticks, and the length of each standstill.

    :ivar error: raised in each tick.
    :ivar clears: whose watched objects are removed in a tick.
    """

    ticks: list[float] = attrs.field(factory=list)
    error: Exception | None = None
    clears: Ticker | None = None
    standstills: list[float] = attrs.field(factory=list)

    def postpone(self, lost: float, now: float) -> None:
        self.standstills.append(lost)
        if self.error is not None:
            raise self.error

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        if self.clears is not None:
            self.clears.watched.clear()
        if self.error is not None:
            raise self.error


def test_watched_objects_are_ticked_four_times_a_second() -> None:
    clock = Clock()
    ticker, first, second = Ticker(clock), Watched(), Watched()
    ticker.watched |= {first, second}
    ticker.start()
    assert first.ticks == []
    clock.pump([TICK_SECONDS] * 8)
    assert TICK_SECONDS == 0.25
    assert first.ticks == second.ticks == [TICK_SECONDS * i for i in range(1, 9)]
    ticker.watched.discard(second)
    clock.advance(TICK_SECONDS)
    assert (len(first.ticks), len(second.ticks)) == (9, 8)
    ticker.stop()


def test_now_is_the_time_of_the_last_tick() -> None:
    clock = Clock()
    clock.advance(1000)
    ticker = Ticker(clock)
    assert ticker.now == 1000
    clock.advance(5)
    ticker.start()
    assert ticker.now == 1005
    clock.advance(TICK_SECONDS / 2)
    assert ticker.now == 1005
    clock.advance(TICK_SECONDS / 2)
    assert ticker.now == 1005 + TICK_SECONDS
    ticker.stop()


def test_standstill_postpones_deadlines_and_skips_one_tick() -> None:
    clock, watched = Clock(), Watched()
    ticker = Ticker(clock)
    ticker.watched.add(watched)
    ticker.start()
    clock.advance(100)
    assert (watched.ticks, watched.standstills) == ([], [100 - TICK_SECONDS])
    clock.advance(TICK_SECONDS)
    assert (watched.ticks, len(watched.standstills)) == ([100 + TICK_SECONDS], 1)
    ticker.stop()


def test_short_delay_is_no_standstill() -> None:
    clock, watched = Clock(), Watched()
    ticker = Ticker(clock)
    ticker.watched.add(watched)
    ticker.start()
    clock.advance(1)
    assert (watched.ticks, watched.standstills) == ([1], [])
    ticker.stop()


def test_reactor_that_is_always_late_skips_every_other_tick() -> None:
    clock, watched = Clock(), Watched()
    ticker = Ticker(clock)
    ticker.watched.add(watched)
    ticker.start()
    clock.pump([2] * 6)
    assert (watched.ticks, len(watched.standstills)) == ([4, 8, 12], 3)
    ticker.stop()


def test_standstill_moves_deadline_by_the_lost_time_within_bounds() -> None:
    assert postponed(100.0, lost=50.0, now=145.0) == 150.0
    assert postponed(100.0, lost=1000.0, now=1090.0) == 1100.0
    assert postponed(100.0, lost=50.0, now=110.0) == 110.0 + MAX_POSTPONED_SECONDS
    assert postponed(200.0, lost=50.0, now=110.0) == 200.0
    assert postponed(NEVER, lost=50.0, now=110.0) == NEVER


def test_deadline_expires_once() -> None:
    clock, expired = Clock(), []
    deadline = Deadline(clock, 5.0, lambda: expired.append(clock.seconds()))
    clock.pump([2.5, 2.5, 5.0])
    assert expired == [5.0]
    deadline.cancel()
    assert clock.getDelayedCalls() == []


def test_cancelled_deadline_does_not_expire() -> None:
    clock, expired = Clock(), []
    Deadline(clock, 5.0, lambda: expired.append(True)).cancel()
    clock.advance(5.0)
    assert expired == []


def test_standstill_restarts_a_deadline_once() -> None:
    clock, expired = Clock(), []
    deadline = Deadline(clock, 5.0, lambda: expired.append(True))
    clock.advance(60.0)
    assert expired == []
    clock.advance(4.9)
    assert expired == []
    clock.advance(60.0)
    assert expired == [True]
    deadline = Deadline(clock, 5.0, lambda: expired.append(True))
    clock.advance(60.0)
    deadline.cancel()
    assert clock.getDelayedCalls() == []


def test_stopped_ticker_leaves_no_delayed_call_and_may_be_stopped_again() -> None:
    clock, watched = Clock(), Watched()
    ticker = Ticker(clock)
    ticker.watched.add(watched)
    ticker.stop()
    ticker.start()
    ticker.stop()
    ticker.stop()
    clock.pump([TICK_SECONDS] * 4)
    assert watched.ticks == []
    assert clock.getDelayedCalls() == []


def test_watched_set_may_change_during_a_tick() -> None:
    clock, all_watched = Clock(), [Watched() for _ in range(5)]
    ticker = Ticker(clock)
    for watched in all_watched:
        watched.clears = ticker
    ticker.watched.update(all_watched)
    ticker.start()
    clock.pump([TICK_SECONDS] * 3)
    assert {watched.ticks[0] for watched in all_watched if watched.ticks} == {TICK_SECONDS}
    assert ticker.watched == set()
    ticker.stop()


def test_error_in_a_tick_is_logged_and_the_others_are_ticked(failures: list[LogEvent]) -> None:
    clock, all_watched = Clock(), [Watched() for _ in range(5)]
    error = all_watched[2].error = RuntimeError("planted")
    ticker = Ticker(clock)
    ticker.watched.update(all_watched)
    ticker.start()
    clock.pump([TICK_SECONDS] * 3)
    assert [len(watched.ticks) for watched in all_watched] == [3] * 5
    assert [event["log_failure"].value for event in failures] == [error] * 3
    failures.clear()
    ticker.stop()


def test_error_in_postponing_is_logged(failures: list[LogEvent]) -> None:
    clock, first, second = Clock(), Watched(), Watched()
    error = first.error = RuntimeError("planted")
    ticker = Ticker(clock)
    ticker.watched |= {first, second}
    ticker.start()
    clock.advance(100)
    assert len(second.standstills) == 1
    assert [event["log_failure"].value for event in failures] == [error]
    failures.clear()
    ticker.stop()
