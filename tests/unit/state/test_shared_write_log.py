"""The writes and clearings of all workers."""

from __future__ import annotations

import pytest

from goproxyai.cache.write_log import UNOWNED
from goproxyai.state.shared_write_log import ROWS, SharedWriteLog, write_log_bytes
from tests.support.shared_memory import SharedMemory
from tests.unit.cache.stored import ALICE, BOB, FILES

MODELS = b"/v1/models"


def test_write_makes_older_responses_of_its_owner_outdated_in_all_processes() -> None:
    memory = SharedMemory(3)
    one, other, parent = memory.writes(0), memory.writes(2), memory.writes()
    noted = one.generation
    other.record_write(ALICE)
    for log in (one, other, parent):
        assert log.is_outdated(ALICE, FILES, noted)
        assert not log.is_outdated(BOB, FILES, noted)
        assert not log.is_outdated(UNOWNED, FILES, noted)
        assert not log.is_outdated(ALICE, FILES, log.generation)
    one.record_write(BOB)
    assert not parent.is_outdated(ALICE, FILES, noted + 1)
    assert parent.is_outdated(BOB, FILES, noted + 1)


@pytest.mark.parametrize("owner", [ALICE, UNOWNED])
def test_clearing_makes_older_responses_of_its_path_outdated(owner: bytes) -> None:
    memory = SharedMemory()
    one, other = memory.writes(0), memory.writes(1)
    one.record_clearing(FILES)
    assert other.is_outdated(owner, FILES, 0)
    assert not other.is_outdated(owner, MODELS, 0)
    one.record_clearing(None)
    assert other.is_outdated(owner, MODELS, 1)
    assert not other.is_outdated(owner, MODELS, 2)


def test_generation_grows_with_each_write_of_any_worker() -> None:
    memory = SharedMemory()
    one, other = memory.writes(0), memory.writes(1)
    for number in range(1, 6):
        (one if number % 2 else other).record_write(ALICE)
        assert one.generation == other.generation == number
        assert other.is_outdated(ALICE, FILES, number - 1)


def test_replacement_of_a_worker_goes_on_with_its_numbers() -> None:
    memory = SharedMemory()
    memory.writes(0).record_write(ALICE)
    replacement = memory.writes(0)
    replacement.record_write(BOB)
    assert replacement.generation == 2
    assert replacement.is_outdated(ALICE, FILES, 0)


def test_workers_and_rows_do_not_overlap() -> None:
    workers = 5
    memory = memoryview(bytearray(write_log_bytes(workers)))
    owners = [b"%d" % number for number in range(4 * ROWS)]
    for own in range(workers):
        log = SharedWriteLog(memory, workers, own)
        for name in owners:
            log.record_write(name)
            log.record_clearing(name)
    assert log.generation == workers * 2 * len(owners)
    assert not log.is_outdated(ALICE, FILES, log.generation)
