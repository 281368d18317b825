"""Deadlines of replies: one timer, and a read before the judgement."""

from __future__ import annotations

import pytest

from goproxyai.state.reply_timer import NEVER, ReplyTimer
from tests.support.turn_clock import TURN_SECONDS, TurnClock


class Fixture:
    """Replies by the times at which they are due."""

    def __init__(self) -> None:
        self.clock = TurnClock()
        self.expected: list[float] = []
        self.overdue: list[float] = []
        self.judgements: list[float] = []
        self.timer = ReplyTimer(self.clock, self._judge)

    def _judge(self, read_until: float) -> float:
        self.judgements.append(read_until)
        self.overdue += [due for due in self.expected if due <= read_until]
        self.expected = [due for due in self.expected if due > read_until]
        return min(self.expected, default=NEVER)

    def expect(self, due: float) -> None:
        self.expected.append(due)
        self.timer.expect(due)


@pytest.fixture
def fixture() -> Fixture:
    return Fixture()


def test_reply_is_judged_after_the_read_that_follows_its_deadline(fixture: Fixture) -> None:
    fixture.expect(1.0)
    fixture.clock.advance(1.0)
    assert fixture.judgements == []
    fixture.clock.advance(TURN_SECONDS)
    assert (fixture.overdue, fixture.judgements) == ([1.0], [1.0])
    assert fixture.clock.getDelayedCalls() == []


def test_reply_that_became_due_during_the_read_is_not_judged_with_it(fixture: Fixture) -> None:
    fixture.expect(1.0)
    fixture.expect(1.5)
    fixture.clock.advance(1.0)
    fixture.clock.advance(0.6)
    assert fixture.overdue == [1.0]
    fixture.clock.advance(TURN_SECONDS)
    fixture.clock.advance(TURN_SECONDS)
    assert fixture.overdue == [1.0, 1.5]


def test_late_timer_judges_all_that_was_due_when_it_fired(fixture: Fixture) -> None:
    for due in (1.0, 1.5, 9.0):
        fixture.expect(due)
    fixture.clock.advance(3.0)
    fixture.clock.advance(TURN_SECONDS)
    assert (fixture.overdue, fixture.judgements) == ([1.0, 1.5], [3.0])


def test_earlier_deadline_moves_the_only_timer(fixture: Fixture) -> None:
    fixture.expect(5.0)
    fixture.expect(1.0)
    fixture.expect(7.0)
    assert [each.getTime() for each in fixture.clock.getDelayedCalls()] == [1.0]
    fixture.clock.advance(1.0)
    fixture.clock.advance(TURN_SECONDS)
    assert [each.getTime() for each in fixture.clock.getDelayedCalls()] == [5.0]


def test_deadline_in_the_past_is_judged_after_a_read(fixture: Fixture) -> None:
    fixture.clock.advance(4.0)
    fixture.expect(1.0)
    fixture.clock.advance(TURN_SECONDS)
    assert fixture.overdue == []
    fixture.clock.advance(TURN_SECONDS)
    assert fixture.overdue == [1.0]


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_stopped_timer_judges_nothing(fixture: Fixture, seconds: float) -> None:
    fixture.expect(1.0)
    fixture.clock.advance(seconds)
    fixture.timer.stop()
    fixture.timer.stop()
    assert fixture.clock.getDelayedCalls() == []
