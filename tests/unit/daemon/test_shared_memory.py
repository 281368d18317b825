"""Memory that the parent and its workers share."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import capturedLogs

from goproxyai.config.variables import MAX_WORKERS
from goproxyai.daemon import shared_memory
from goproxyai.daemon.accept_balance import ABSENT
from goproxyai.daemon.shared_memory import make_shared_memory, map_counts, map_marks, map_records
from tests.support.shared_memory import store
from tests.unit.cache.snapshots import record
from tests.unit.cache.stored import ALICE, BOB, FILES

KEY = b"\xff" * 32
WORKERS = 3


@pytest.fixture(params=[True, False], ids=["memfd", "file"])
def descriptor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    if not request.param:
        monkeypatch.delattr(os, "memfd_create")
    descriptor = make_shared_memory(WORKERS)
    yield descriptor
    os.close(descriptor)


def test_tables_share_memory_without_overlap(descriptor: int) -> None:
    counts, others = map_counts(descriptor, MAX_WORKERS), map_counts(descriptor, WORKERS)
    marks = map_marks(descriptor, MAX_WORKERS)
    last = map_marks(descriptor, MAX_WORKERS, MAX_WORKERS - 1)
    for index in range(MAX_WORKERS):
        counts[index] = ABSENT
    assert list(others) == [ABSENT] * WORKERS
    assert len(marks) == 0
    assert last.mark(KEY)
    assert marks.marked(KEY) == [MAX_WORKERS - 1]
    assert map_records(descriptor, WORKERS, lambda: 0.0).writes.generation == 0
    marks.remove_all(MAX_WORKERS - 1)
    assert len(marks) == 0
    assert set(counts) == {ABSENT}


def test_workers_share_the_second_level(descriptor: int) -> None:
    workers = [map_records(descriptor, WORKERS, lambda: 9.0, own) for own in range(WORKERS)]
    parent = map_records(descriptor, WORKERS, lambda: 9.0)
    now = parent._unix_seconds()
    stored = []
    for number, worker in enumerate(workers):
        worker.resize(10_000)
        for turn in range(30):  # a lap and a half in each ring
            one = record(number + 10 * turn, stored=now, expires=now + 900)
            assert store(worker, one)
        stored.append(one)
    for one in stored:
        for each in (*workers, parent):
            assert each.has(one.key, ALICE, FILES)
    assert parent.numbers().capacity == WORKERS * 10_000
    workers[2].writes.record_write(BOB)
    assert parent.writes.generation == 1
    workers[1].resize(20_000)
    assert [parent.has(one.key, ALICE, FILES) for one in stored] == [True, False, True]


class Filled:
    """The ring of a single worker, with *count* records of half a megabyte."""

    def __init__(self, descriptor: int, capacity: int, count: int) -> None:
        self._descriptor = descriptor
        self.records = map_records(descriptor, 1, lambda: 9.0, 0)
        self.records.resize(capacity)
        self._blocks = os.fstat(descriptor).st_blocks
        for number in range(count):
            self.store(number, body=bytes(500_000))

    def store(self, number: int = 0, **more: Any) -> None:
        now = self.records._unix_seconds()
        assert store(self.records, record(number, stored=now, expires=now + 900, **more))

    def blocks(self) -> int:
        """How much memory the records take, in units of 512 bytes."""
        return os.fstat(self._descriptor).st_blocks - self._blocks


def test_smaller_ring_returns_memory(descriptor: int) -> None:
    filled = Filled(descriptor, 10_000_000, 20)
    assert filled.blocks() > 9_000_000 // 512
    filled.records.resize(1_000_000)
    assert filled.blocks() < 1_000_000 // 512
    filled.store()
    assert filled.records.has(record().key, ALICE, FILES)


def test_cleared_ring_returns_its_memory(descriptor: int) -> None:
    filled = Filled(descriptor, 40_000_000, 60)
    assert filled.blocks() > 29_000_000 // 512
    filled.records.record_clearing(None)
    for _ in range(2):
        filled.records.remove_expired()
    assert filled.blocks() < 1_000_000 // 512
    filled.store()
    assert filled.records.has(record().key, ALICE, FILES)


def test_ring_beyond_the_address_space_is_logged_once(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = map_records(descriptor, 1, lambda: 9.0, 0)
    records.resize(10_000_000)
    now = records._unix_seconds()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(shared_memory.mmap, "mmap", fail)
    with capturedLogs() as logged:
        for _ in range(2):
            assert not store(records, record(stored=now, expires=now + 900))
    lines = [event["log_format"].format(**event) for event in logged]
    assert lines == [
        "10000000 bytes of the second level of the cache cannot be mapped: Cannot allocate memory; "
        "raise the limit of the address space (ulimit -v), or lower MAX_CACHE_SIZE"
    ]
    monkeypatch.undo()
    assert store(records, record(stored=now, expires=now + 900))
