"""The resources of the process, as the system tells them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from goproxyai.admin import process_numbers
from goproxyai.admin.process_numbers import (
    DESCRIPTORS_SECONDS,
    OwnProcess,
    ProcessNumbers,
    anonymous_bytes,
    resident_bytes,
)

MIB = 1024 * 1024


def test_resident_memory_of_this_process_is_known_on_linux(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert 5 * MIB < resident_bytes() < 100_000 * MIB
    monkeypatch.setattr(process_numbers, "_PROCESSES", tmp_path / "missing")
    assert resident_bytes() == process_numbers.open_descriptors() == anonymous_bytes() == 0


def test_shared_memory_is_not_anonymous() -> None:
    before = anonymous_bytes()
    assert 5 * MIB < before < resident_bytes()
    with mmap.mmap(-1, 64 * MIB) as shared:
        shared[:] = bytes([1]) * len(shared)
        assert resident_bytes() - anonymous_bytes() > 64 * MIB


def test_numbers_of_this_process_are_read() -> None:
    numbers = OwnProcess(Clock().seconds).read()
    assert numbers.resident_bytes > 5 * MIB
    assert 0 < numbers.descriptors < (numbers.max_descriptors or 1 << 30)
    assert numbers.cpu_ms > 0


def test_descriptors_are_counted_again_after_some_seconds() -> None:
    clock = Clock()
    process = OwnProcess(clock.seconds)
    before = process.read().descriptors
    reader, writer = os.pipe()
    assert process.read().descriptors == before
    clock.advance(DESCRIPTORS_SECONDS)
    assert process.read().descriptors == before + 2
    os.close(reader)
    os.close(writer)


def test_process_without_a_limit_of_descriptors_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    infinity = process_numbers.resource.RLIM_INFINITY
    monkeypatch.setattr(process_numbers.resource, "getrlimit", lambda _: (infinity, infinity))
    assert OwnProcess(Clock().seconds).read().max_descriptors == 0


def test_numbers_of_processes_are_added() -> None:
    one, other = ProcessNumbers(1, 2, 3, 4), ProcessNumbers(10, 20, 30, 40)
    assert one.plus(other) == ProcessNumbers(11, 22, 33, 44, 2)
