"""The ring of one worker: its writer, and readers at any moment."""

from __future__ import annotations

import contextlib
import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.state.record_ring import MAX_CHAIN_RECORDS, PAGE_BYTES, Header, RecordRing
from tests.support.shared_memory import Kill, Killed, SharedMemory

KEYS = [bytes([number]) * 32 for number in range(3)]
CAPACITY = 4_000


def append(
    ring: RecordRing,
    body: bytes,
    key: bytes = KEYS[0],
    previous: int = 0,
    expires: float = 1e9,
) -> int:
    return ring.append(key, previous, 7, 5.0, expires, (body[:1], body[1:]))


def read(ring: RecordRing, position: int, key: bytes = KEYS[0]) -> bytes | None:
    header = ring.find(key, position)
    return None if header is None else ring.read(header)


def test_record_is_found_by_its_key_in_its_chain() -> None:
    ring = SharedMemory(1, CAPACITY).ring(0)
    first = append(ring, b"first", KEYS[0])
    second = append(ring, b"second", KEYS[1], first)
    third = append(ring, b"third", KEYS[0], second)
    assert [read(ring, third, key) for key in KEYS] == [b"third", b"second", None]
    assert read(ring, second) == b"first"
    header = ring.find(KEYS[1], third)
    assert header is not None
    assert header == Header(second, 6, first, 7, 5.0, 1e9, KEYS[1])


def test_reading_ends_after_as_many_records_of_a_chain_as_are_allowed() -> None:
    ring = SharedMemory(1, CAPACITY).ring(0)
    positions = [append(ring, b"", KEYS[1])]
    for _ in range(MAX_CHAIN_RECORDS):
        positions.append(append(ring, b"", KEYS[0], positions[-1]))
    assert ring.find(KEYS[1], positions[-2]) is not None
    assert ring.find(KEYS[1], positions[-1]) is None


def test_other_process_reads_what_is_appended_before_and_after_it_starts() -> None:
    memory = SharedMemory(1, CAPACITY)
    ring = memory.ring(0)
    first = append(ring, b"first")
    reader = memory.ring(0)
    second = append(ring, b"second")
    assert [read(reader, position) for position in (first, second)] == [b"first", b"second"]


@given(st.lists(st.integers(0, 312), max_size=60))
def test_ring_has_the_newest_records_that_fit(lengths: list[int]) -> None:
    memory = SharedMemory(1, CAPACITY)
    ring = memory.ring(0)
    positions = []
    for number, length in enumerate(lengths):
        body = bytes([number]) * length
        positions.append(append(ring, body))
        assert read(ring, positions[-1]) == body
        found = [read(ring, position) for position in positions]
        kept = [each for each in found if each is not None]
        assert found == [None] * (len(found) - len(kept)) + kept
        assert kept == [bytes([n]) * lengths[n] for n in range(len(found))][-len(kept) :]
        numbers = ring.numbers()
        assert (numbers.records, numbers.stores) == (len(kept), len(found))
        assert numbers.stores - numbers.evictions == numbers.records
        assert numbers.used_bytes <= numbers.capacity == CAPACITY
        assert [ring.read(header) for header in ring] == kept
    if len(lengths) == 60:  # each takes at most 400 bytes, and a gap is smaller than a record
        assert ring.numbers().records >= CAPACITY // 400 - 2


@pytest.mark.parametrize("excess", [0, 1])
def test_record_of_more_than_a_tenth_is_refused(excess: int) -> None:
    ring = SharedMemory(1, CAPACITY).ring(0)
    assert bool(append(ring, bytes(CAPACITY // 10 - 88 + excess))) is not excess
    assert ring.numbers().stores == 1 - excess


def test_ring_without_memory_stores_nothing() -> None:
    ring = SharedMemory(1, 0).ring(0)
    assert append(ring, b"body") == 0
    assert (list(ring), read(ring, 0), ring.numbers().capacity) == ([], None, 0)


def test_expired_records_are_removed_from_the_oldest_on() -> None:
    ring = SharedMemory(1, CAPACITY).ring(0)
    for expires in (10.0, 20.0, 40.0, 30.0):
        append(ring, b"body", expires=expires)
    ring.remove_expired(9.0, 100)
    assert ring.numbers().records == 4
    ring.remove_expired(30.0, 1)
    assert ring.numbers().records == 3
    ring.remove_expired(30.0, 100)
    assert [header.expires for header in ring] == [40.0, 30.0]
    assert (ring.numbers().expirations, ring.numbers().evictions) == (2, 0)
    ring.remove_expired(50.0, 100)
    assert (ring.numbers().records, ring.numbers().used_bytes) == (0, 0)


def test_expired_records_before_and_after_a_gap_are_removed() -> None:
    ring = SharedMemory(1, CAPACITY).ring(0)
    for number in range(15):
        append(ring, bytes(250 + number % 3), expires=10.0)
    assert ring.numbers().evictions > 0
    ring.remove_expired(20.0, 100)
    assert (ring.numbers().records, list(ring)) == (0, [])
    assert read(ring, append(ring, b"new")) == b"new"


def test_cleared_records_are_not_found() -> None:
    ring = SharedMemory(1, CAPACITY).ring(0)
    position = append(ring, b"old")
    ring.clear()
    assert (read(ring, position), ring.numbers().records) == (None, 0)
    assert read(ring, append(ring, b"new")) == b"new"


def ring_without_mapping(memory: SharedMemory) -> RecordRing:
    """A ring whose process has no address space for it."""
    return RecordRing(memory._states[0], lambda _: memoryview(b""), lambda *_: None)


def test_ring_that_cannot_be_mapped_stores_and_finds_nothing() -> None:
    memory = SharedMemory(1, CAPACITY)
    ring = memory.ring(0)
    position = append(ring, b"body", expires=1.0)
    numbers = ring.numbers()
    other = ring_without_mapping(memory)
    assert (other.find(KEYS[0], position), list(other), append(other, b"new")) == (None, [], 0)
    other.remove_expired(2.0, 100)
    other.clear()
    other.release_free(CAPACITY)
    assert ring.numbers() == numbers._replace(records=0, used_bytes=0)
    other.resize(2_000)
    assert (ring.numbers().capacity, append(other, b"new")) == (2_000, 0)


PAGES = 6


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, PAGES * PAGE_BYTES // 10 - 96)),
            st.tuples(st.just("expire"), st.integers(1, 4)),
            st.tuples(st.just("release"), st.integers(1, 2 * PAGES * PAGE_BYTES)),
            st.tuples(st.just("clear"), st.just(0)),
        ),
        max_size=80,
    )
)
def test_released_memory_is_that_of_no_record(steps: list[tuple[str, int]]) -> None:
    memory = SharedMemory(1, PAGES * PAGE_BYTES - 40)
    ring, reader = memory.ring(0), memory.ring(0)
    bodies: dict[int, bytes] = {}
    for number, (step, argument) in enumerate(steps):
        if step == "append":
            body = bytes([number + 1]) * argument
            bodies[append(ring, body, expires=1.0)] = body
        elif step == "expire":
            ring.remove_expired(2.0, argument)
        elif step == "release":
            ring.release_free(argument)
        else:
            ring.clear()
        kept = [header.position for header in reader]
        assert [read(reader, position) for position in kept] == [bodies[each] for each in kept]
        assert kept == sorted(bodies)[len(bodies) - len(kept) :]
    ring.clear()
    for _ in range(3):  # each call ends at the end of the memory
        ring.release_free(2 * PAGES * PAGE_BYTES)
    head = ring._cells[0] % len(memory.ring_memory[0])
    used = [
        page
        for page in range(PAGES - 1)
        if any(memory.ring_memory[0][page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
    ]
    assert set(used) <= {head // PAGE_BYTES, (head - 1) // PAGE_BYTES}


def test_record_whose_memory_is_released_while_it_is_read_is_missed() -> None:
    memory = SharedMemory(1, PAGES * PAGE_BYTES)
    ring, reader = memory.ring(0), memory.ring(0)
    position = append(ring, bytes(2_000))
    header = reader.find(KEYS[0], position)
    for _ in range(5):
        append(ring, bytes(2_000))
    ring.clear()
    ring.release_free(PAGE_BYTES)
    assert memory.released == [PAGE_BYTES]
    assert header is not None
    assert (reader.read(header), reader.find(KEYS[0], position)) == (None, None)


def test_memory_is_released_in_slices_and_once() -> None:
    memory = SharedMemory(1, 3 * PAGES * PAGE_BYTES)
    ring = memory.ring(0)
    for _ in range(3):
        append(ring, bytes(PAGE_BYTES))
    ring.release_free(PAGE_BYTES)
    assert memory.released == []
    ring.clear()
    for _ in range(4):
        ring.release_free(2 * PAGE_BYTES)
    assert memory.released == [2 * PAGE_BYTES, PAGE_BYTES]


def test_other_capacity_drops_the_records_and_positions_stay_unique() -> None:
    memory = SharedMemory(1, CAPACITY)
    ring, reader = memory.ring(0), memory.ring(0)
    positions = [append(ring, b"a")]
    read(reader, positions[0])
    for capacity in (1_000, CAPACITY, 0, 1_500):
        ring.resize(capacity)
        assert all(read(reader, position) is None for position in positions)
        positions.append(append(ring, b"body"))
        assert read(reader, positions[-1]) == (b"body" if capacity else None)
    ring.resize(1_503)  # as 1,500: a multiple of 8
    assert read(reader, positions[-1]) == b"body"
    stored = [position for position in positions if position]
    assert stored == sorted(set(stored))
    assert memory.released == [PAGE_BYTES] * 3


def test_changed_byte_is_noticed() -> None:
    memory = SharedMemory(1, CAPACITY)
    ring = memory.ring(0)
    position = append(ring, b"body of a response")
    header = ring.find(KEYS[0], position)
    assert header is not None
    begin = position % CAPACITY
    for at in range(begin, begin + 88 + header.length):
        memory.ring_memory[0][at] ^= 1
        assert ring.read(header) is None
        memory.ring_memory[0][at] ^= 1
    assert ring.read(header) == b"body of a response"


def test_record_that_is_overwritten_between_find_and_read_is_missed() -> None:
    memory = SharedMemory(1, CAPACITY)
    ring, reader = memory.ring(0), memory.ring(0)
    header = reader.find(KEYS[0], append(ring, b"old"))
    assert header is not None
    for _ in range(60):
        append(ring, b"new" * 20)
    assert reader.read(header) is None
    ring.resize(0)
    assert reader.read(header) is None


@pytest.mark.parametrize("writes", range(8))
def test_record_of_a_killed_writer_is_removed_by_its_replacement(writes: int) -> None:
    memory, kill = SharedMemory(1, CAPACITY), Kill()
    killed = memory.ring(0)
    kill.watch(killed, memory.ring_memory[0])
    kill.after = writes
    with contextlib.suppress(Killed):
        append(killed, b"body", expires=10.0)
    ring = memory.ring(0)
    ring.remove_expired(20.0, 100)
    assert (list(ring), ring.numbers().records) == ([], 0)
    append(ring, b"body")
    assert ring.numbers().records == 1


@pytest.mark.parametrize("seed", range(20))
def test_writer_that_is_killed_at_any_write_leaves_whole_records(seed: int) -> None:
    random, memory, kill = Random(seed), SharedMemory(1, CAPACITY), Kill()
    reader = memory.ring(0)
    bodies: dict[int, bytes] = {}
    deaths = 0
    for number in itertools.count():
        writer = memory.ring(0)  # the replacement
        kill.watch(writer, memory.ring_memory[0])
        kill.after = random.randrange(60)
        try:
            for _ in range(20):
                body = bytes([random.randrange(256)]) * random.randrange(313)
                position = append(writer, body, expires=float(random.randrange(3)))
                bodies[position] = body
                if random.random() < 0.2:
                    writer.remove_expired(1.5, 2)
        except Killed:
            deaths += 1
        kept = [position for position in sorted(bodies) if reader.find(KEYS[0], position)]
        assert [read(reader, position) for position in kept] == [bodies[each] for each in kept]
        newest = sorted(bodies)[len(bodies) - len(kept) :]
        assert newest == kept
        whole = [header.position for header in reader]
        assert set(kept) <= set(whole)
        assert abs(reader.numbers().records - len(whole)) <= 5 * deaths
        if number == 40:
            break
    assert deaths > 5
    survivor = memory.ring(0)
    for _ in range(30):
        assert read(reader, append(survivor, bytes(300))) == bytes(300)
    assert survivor.numbers().used_bytes <= CAPACITY
