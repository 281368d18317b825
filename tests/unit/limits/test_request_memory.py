from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from goproxyai.limits.request_memory import HeldBytes, Holding, RequestMemory


class Reader:
    """A slow reader that holds memory until it is broken off."""

    def __init__(self, memory: RequestMemory, count: int) -> None:
        self.holding = Holding(memory)
        self.holding.hold(count)
        self.broken = False
        memory.mark_reader(self, is_slow=True)

    def break_off(self) -> None:
        self.broken = True
        self.holding.hold(0)


def test_memory_becomes_tight_and_full_before_it_is_exceeded() -> None:
    memory = RequestMemory(100)
    holding = Holding(memory)
    levels = []
    for count in (74, 75, 90, 100, 101, 0):
        holding.hold(count)
        levels.append((memory.is_tight, memory.is_full, memory.make_room()))
    assert levels == [
        (False, False, True),
        (True, False, True),
        (True, True, True),
        (True, True, True),
        (True, True, False),
        (False, False, True),
    ]


def test_smaller_budget_applies_at_once() -> None:
    memory = RequestMemory(100)
    Holding(memory).hold(50)
    memory.resize(50)
    assert memory.is_full
    memory.resize(100)
    assert not memory.is_tight


def test_reader_that_has_been_slow_longest_is_broken_off_first() -> None:
    memory = RequestMemory(100)
    readers = [Reader(memory, 40) for _ in range(4)]
    memory.mark_reader(readers[0], is_slow=False)
    memory.mark_reader(readers[0], is_slow=True)  # slow again: now the last
    memory.mark_reader(readers[1], is_slow=True)  # still slow: its place stays
    assert memory.make_room()
    assert [reader.broken for reader in readers] == [False, True, True, False]
    assert memory.broken_off == 2


def test_reader_that_has_caught_up_is_not_broken_off() -> None:
    memory = RequestMemory(100)
    reader = Reader(memory, 101)
    memory.mark_reader(reader, is_slow=False)
    assert not memory.make_room()
    assert not reader.broken


def test_slow_reader_is_broken_off_after_5_seconds_while_memory_is_full() -> None:
    memory = RequestMemory(100)
    first, second = Reader(memory, 50), Reader(memory, 45)
    memory.tick(4.9)
    assert not first.broken
    memory.tick(5.1)
    assert [first.broken, second.broken] == [True, False]
    memory.tick(1000.0)  # the memory suffices now
    assert not second.broken


def test_standstill_is_not_slowness() -> None:
    memory = RequestMemory(100)
    reader = Reader(memory, 95)
    memory.postpone(60.0, 60.0)
    memory.tick(60.25)
    assert not reader.broken


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1000))))
def test_sum_is_that_of_the_holdings(steps: list[tuple[int, int]]) -> None:
    memory = RequestMemory(1000)
    holdings = [Holding(memory) for _ in range(5)]
    for number, count in steps:
        holdings[number].hold(count)
        assert memory.used == sum(holding.held for holding in holdings)


def test_bytes_of_several_holders_are_counted_once() -> None:
    memory = RequestMemory(100)
    data = HeldBytes(memory, b"x" * 30)
    counts = []
    for change in (data.hold, data.hold, data.release, data.release, data.hold):
        change()
        counts.append(memory.used)
    assert counts == [30, 30, 30, 0, 30]
