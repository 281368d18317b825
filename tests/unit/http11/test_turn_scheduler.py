from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from goproxyai.http11.turn_scheduler import CONTINUED_SECONDS, TurnScheduler


class Connection:
    """A connection whose shares take some time, and that is continued several times."""

    def __init__(self, clock: Clock, turns: TurnScheduler, shares: int, seconds: float) -> None:
        self.continued = 0
        self._clock, self._turns = clock, turns
        self._shares, self._seconds = shares, seconds
        turns.add(self)

    def continue_input(self) -> None:
        self.continued += 1
        self._clock.rightNow += self._seconds
        if self.continued < self._shares:
            self._turns.add(self)


def test_connections_are_continued_in_turn() -> None:
    clock = Clock()
    turns = TurnScheduler(clock)
    connections = [Connection(clock, turns, shares, 0.0) for shares in (3, 1, 2)]
    clock.advance(0)
    assert [each.continued for each in connections] == [3, 1, 2]
    assert clock.getDelayedCalls() == []


def test_defect_in_a_connection_does_not_keep_the_others_waiting() -> None:
    clock = Clock()
    turns = TurnScheduler(clock)
    broken, other = [Connection(clock, turns, 1, 0.0) for _ in range(2)]
    broken._seconds = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        clock.advance(0)
    clock.advance(0)
    assert other.continued == 1


def test_rest_is_continued_in_the_next_turn_when_the_time_is_used() -> None:
    clock = Clock()
    turns = TurnScheduler(clock)
    connections = [Connection(clock, turns, 1, CONTINUED_SECONDS / 2) for _ in range(5)]
    turns._run()
    assert [each.continued for each in connections] == [1, 1, 0, 0, 0]
    assert len(clock.getDelayedCalls()) >= 1
    clock.advance(0)
    assert [each.continued for each in connections] == [1] * 5


def test_lost_connection_is_not_continued() -> None:
    clock = Clock()
    turns = TurnScheduler(clock)
    first, second = (Connection(clock, turns, 1, 0.0) for _ in range(2))
    turns.discard(first)
    turns.discard(first)
    clock.advance(0)
    assert [first.continued, second.continued] == [0, 1]
    Connection(clock, turns, 1, 0.0)
    for each in tuple(turns._waiting):
        turns.discard(each)
    assert clock.getDelayedCalls() == []
