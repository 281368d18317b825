"""The stored responses of all workers."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from goproxyai.cache.record import Record, restored_entry
from goproxyai.state.shared_records import EXPIRED_PER_SECOND, SharedRecords
from tests.support.shared_memory import UNIX, SharedMemory
from tests.support.shared_memory import store as store_record
from tests.unit.cache.snapshots import record
from tests.unit.cache.stored import ALICE, BOB, FILES, TTL

KEY = record().key


def store(records: SharedRecords, one: Record | None = None) -> Record:
    one = one or record(stored=UNIX, expires=UNIX + TTL)
    assert store_record(records, one)
    return one


def get(records: SharedRecords, key: bytes = KEY) -> Record | None:
    found = records.get(key, ALICE, FILES)
    assert records.has(key, ALICE, FILES) is (found is not None)
    return found


def test_record_of_one_worker_is_found_by_all_processes() -> None:
    memory = SharedMemory(3)
    one, *others = [memory.records(own) for own in (0, 1, 2, -1)]
    assert [get(each) for each in others] == [None] * 3
    stored = store(one)
    assert [get(each) for each in others] == [stored] * 3
    assert get(one, b"\1" * 32) is None


def test_record_that_was_stored_last_counts() -> None:
    memory = SharedMemory(2)
    one, other = memory.records(0), memory.records(1)
    for number, writer in enumerate([one, other, other, one, one, other]):
        memory.pass_time(1)
        stored = store(writer, record(body=b"%d" % number, stored=memory.unix, expires=UNIX + TTL))
        assert get(one) == get(other) == stored


def test_replaced_record_is_not_found_when_the_new_one_has_expired() -> None:
    memory = SharedMemory(2)
    one, other, parent = memory.records(0), memory.records(1), memory.records()
    store(one)
    memory.pass_time(1)
    store(other, record(body=b"new", stored=memory.unix, expires=memory.unix + 5))
    memory.pass_time(6)
    assert get(one) is None
    other.remove_expired()
    assert (get(one), get(other), list(parent)) == (None, None, [])
    again = store(one, record(stored=memory.unix, expires=UNIX + TTL))
    assert get(other) == again


def test_replaced_record_is_not_found_when_the_new_one_is_overwritten() -> None:
    memory = SharedMemory(3)
    one, other, last = [memory.records(own) for own in range(3)]
    store(one)
    memory.pass_time(1)
    store(other, record(body=b"new", stored=memory.unix, expires=UNIX + TTL))
    other.resize(50_000)
    assert [get(each) for each in (one, other, last)] == [None] * 3


def test_record_from_before_the_start_of_the_machine_is_found() -> None:
    memory = SharedMemory(2)
    memory.records().restore(iter([record(stored=UNIX - 200, expires=UNIX + TTL)]))
    assert get(memory.records(1)) is not None


def test_keys_of_the_same_hash_are_told_apart() -> None:
    memory = SharedMemory(2)
    writers = [memory.records(0), memory.records(1)]
    keys = [KEY[:3] + bytes([number]) * 29 for number in range(8)]
    stored = [
        store(writers[number % 2], record(key=key, stored=UNIX, expires=UNIX + TTL))
        for number, key in enumerate(keys)
    ]
    assert [get(writers[0], key) for key in keys] == stored


def test_expired_record_is_not_found() -> None:
    memory = SharedMemory()
    one, other = memory.records(0), memory.records(1)
    store(one)
    memory.pass_time(TTL - 0.5)
    assert get(other) is not None
    memory.pass_time(0.5)
    assert get(other) is None
    assert one.numbers().records == 1
    one.remove_expired()
    numbers = one.numbers()
    assert (numbers.records, numbers.expirations, numbers.stores) == (0, 1, 1)


def test_expired_records_are_removed_in_slices() -> None:
    memory = SharedMemory(1, 1_000_000)
    records = memory.records(0)
    for number in range(EXPIRED_PER_SECOND + 1):
        store(records, record(number, stored=UNIX, expires=UNIX + TTL))
    memory.pass_time(TTL)
    records.remove_expired()
    assert records.numbers().records == 1


def test_write_and_clearing_by_another_worker_drop_records_at_once() -> None:
    memory = SharedMemory()
    one, other = memory.records(0), memory.records(1)
    store(one)
    other.writes.record_write(BOB)
    other.record_clearing(b"/v1/models")
    assert get(one) is not None
    drops: list[Any] = [
        lambda: other.writes.record_write(ALICE),
        lambda: other.record_clearing(FILES + b"/"),
        lambda: other.record_clearing(None),
    ]
    for drop in drops:
        drop()
        assert get(one) is None
        store(one)
        assert get(one) is not None


def test_response_to_a_request_before_a_write_is_not_found() -> None:
    memory = SharedMemory()
    one = memory.records(0)
    noted = one.writes.generation
    memory.writes(1).record_write(ALICE)
    entry = restored_entry(record(stored=UNIX, expires=UNIX + TTL), memory.now, UNIX, 0.0)
    assert entry is not None
    assert one.store(entry, FILES, ALICE, noted)
    assert get(one) is None


def test_clearing_drops_the_records_of_its_worker_from_the_numbers() -> None:
    memory = SharedMemory()
    one, other = memory.records(0), memory.records(1)
    store(one)
    store(other)
    one.record_clearing(None)
    assert one.numbers().records == 1
    other.clear_own()
    assert (one.numbers().records, one.numbers().used_bytes, one.numbers().stores) == (0, 0, 2)


def test_set_wall_clock_changes_neither_age_nor_lifetime() -> None:
    memory = SharedMemory()
    one, other = memory.records(0), memory.records(1)
    store(one)
    memory.pass_time(10)
    memory.unix += 5_000
    found = get(other)
    assert found is not None
    assert (memory.unix - found.stored, found.expires - found.stored) == (10.0, TTL)


def test_record_of_the_future_lives_no_longer_than_its_lifetime() -> None:
    memory = SharedMemory()
    store(memory.records(0), record(stored=UNIX + 30, expires=UNIX + 30 + TTL))
    memory.pass_time(TTL)
    assert get(memory.records(1)) is None


def test_record_that_is_too_large_is_not_stored() -> None:
    records = SharedMemory(1, 4_000).records(0)
    assert not store_record(records, record(body=bytes(400)))
    assert get(records) is None


def test_record_that_is_overwritten_while_it_is_read_is_a_miss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = SharedMemory(1)
    records = memory.records(0)
    store(records)
    monkeypatch.setattr(records.rings[0], "read", lambda _: None)
    assert records.get(KEY, ALICE, FILES) is None


def test_snapshot_has_each_response_once_and_is_restored_in_all_rings() -> None:
    memory = SharedMemory(2)
    one, other, parent = memory.records(0), memory.records(1), memory.records()
    store(one, record(1, stored=UNIX, expires=UNIX + 5))
    memory.pass_time(10)
    fresh = {"stored": memory.unix, "expires": UNIX + TTL}
    store(one, record(2, body=b"old", **fresh))
    one.writes.record_write(ALICE)
    store(one, record(2, body=b"newer", **fresh))
    store(one, record(3, **fresh))
    memory.pass_time(1)
    newest = store(other, record(2, body=b"newest", **{**fresh, "stored": memory.unix}))
    saved = list(parent)
    assert {each.key: each.body for each in saved} == {
        newest.key: b"newest", record(3).key: record(3).body
    }  # fmt: skip
    assert len(saved) == 2
    restarted = SharedMemory(2)
    restarted.now, restarted.unix = 5.0, memory.unix + 1
    expired = record(9, stored=UNIX, expires=UNIX + 1)
    assert restarted.records().restore(iter([expired, *saved])) == 2
    assert [restarted.ring(worker).numbers().records for worker in range(2)] == [1, 1]
    assert get(restarted.records(1), newest.key) == newest
    restarted.records().clear()
    assert list(restarted.records()) == []


def test_damaged_record_is_left_out_of_the_snapshot() -> None:
    memory = SharedMemory(1)
    records = memory.records(0)
    kept = [store(records, record(number, stored=UNIX, expires=UNIX + TTL)) for number in range(3)]
    middle = bytes(memory.ring_memory[0]).index(kept[1].key)
    memory.ring_memory[0][middle + 40] ^= 1
    assert list(memory.records()) == [kept[0], kept[2]]


def test_other_size_of_a_ring_drops_its_records_only() -> None:
    memory = SharedMemory(2)
    one, other = memory.records(0), memory.records(1)
    store(one)
    kept = store(other, replace(record(7), stored=UNIX, expires=UNIX + TTL))
    one.resize(50_000)
    assert (get(other), get(other, kept.key)) == (None, kept)
    assert one.numbers().capacity == 150_000
