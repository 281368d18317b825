from __future__ import annotations

from goproxyai.cache.entry import Entry, new_entry
from goproxyai.cache.replayed_entries import ReplayedEntries
from goproxyai.cache.store import Store
from goproxyai.cache.write_log import UNOWNED
from goproxyai.limits.request_memory import RequestMemory

SIZE = 2_000


class Replay:
    def __init__(self) -> None:
        self.hurried = False

    def hurry(self) -> None:
        self.hurried = True


class Cache:
    """A cache with room for ten entries."""

    def __init__(self, budget: int = 100 * SIZE) -> None:
        self.memory = RequestMemory(budget)
        self.replayed = ReplayedEntries(self.memory)
        self.store = Store(12 * SIZE * 10, removals=self.replayed)

    def put(self, number: int) -> Entry:
        key = bytes([number]) * 32
        entry = new_entry(key, 200, b"", b"x" * SIZE * 10, 0.0, 1e9, 0, None)
        assert self.store.put(entry, b"/v1/models", UNOWNED, self.store.generation())
        return entry

    def evict_all(self) -> None:
        for number in range(100, 112):
            self.put(number)


def test_entry_is_counted_from_its_eviction_to_the_end_of_its_last_replay() -> None:
    cache = Cache()
    entry = cache.put(1)
    ends = [cache.replayed.begin(entry, Replay()) for _ in range(2)]
    assert cache.memory.used == 0
    cache.evict_all()
    assert cache.memory.used == entry.size
    ends[0]()
    assert cache.memory.used == entry.size
    ends[1]()
    assert cache.memory.used == 0
    assert len(cache.replayed) == 0


def test_entry_that_stays_in_the_cache_is_not_counted() -> None:
    cache = Cache()
    end = cache.replayed.begin(cache.put(1), Replay())
    cache.replayed.tick(0.25)
    end()
    assert cache.memory.used == 0


def test_cleared_entry_is_counted() -> None:
    cache = Cache()
    entry = cache.put(1)
    end = cache.replayed.begin(entry, Replay())
    cache.store.clear()
    assert cache.memory.used == entry.size
    end()
    assert cache.memory.used == 0


def test_entry_that_a_write_dropped_is_counted_at_the_next_tick() -> None:
    cache = Cache()
    entry = cache.put(1)
    end = cache.replayed.begin(entry, Replay())
    cache.store.invalidate(UNOWNED)
    for now in (0.25, 0.5):
        cache.replayed.tick(now)
        assert cache.memory.used == entry.size
    end()
    assert cache.memory.used == 0


def test_replays_are_hurried_when_evicted_entries_hold_a_quarter_of_the_budget() -> None:
    cache = Cache(budget=70 * SIZE)
    first, second = Replay(), Replay()
    cache.replayed.begin(cache.put(1), first)
    cache.evict_all()
    cache.replayed.tick(0.25)
    assert not first.hurried
    cache.replayed.begin(cache.put(2), second)
    cache.evict_all()
    cache.replayed.tick(0.5)
    assert first.hurried
    assert second.hurried


class SlowReader:
    def __init__(self) -> None:
        self.broken_off = False

    def break_off(self) -> None:
        self.broken_off = True


def test_slow_reader_is_broken_off_at_the_tick_after_a_removal() -> None:
    cache = Cache(budget=SIZE)
    cache.replayed.begin(cache.put(1), Replay())
    reader = SlowReader()
    cache.memory.mark_reader(reader, is_slow=True)
    cache.evict_all()
    assert not reader.broken_off  # the store has not returned
    cache.replayed.tick(0.25)
    assert reader.broken_off
