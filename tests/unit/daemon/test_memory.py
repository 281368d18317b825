"""The settings of the garbage collector, and the return of memory to the system."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from goproxyai.daemon import memory
from goproxyai.daemon.memory import (
    COLLECTION_INTERVAL_SECONDS,
    TRIM_INTERVAL_SECONDS,
    TRIMMED_BYTES,
    ReleasedMemory,
    configure_memory,
)
from goproxyai.limits.request_memory import Holding, RequestMemory


def test_old_generation_is_collected_periodically_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    for name in ("collect", "freeze", "set_threshold"):
        monkeypatch.setattr(
            memory.gc, name, lambda *arguments, name=name: calls.append((name, *arguments))
        )
    monkeypatch.setattr(memory, "_malloc_trim", lambda pad: calls.append(("trim", pad)))
    clock = Clock()
    configure_memory(clock)
    assert calls == [("collect",), ("freeze",), ("set_threshold", 2_500, 3, 1 << 30)]
    calls.clear()
    clock.advance(COLLECTION_INTERVAL_SECONDS - 1)
    assert calls == []
    clock.advance(1)
    assert calls == [("collect",), ("trim", 0)]


def test_memory_is_returned_while_requests_hold_much_of_it_and_once_after() -> None:
    memory, trims = RequestMemory(), list[int]()
    released, holding = ReleasedMemory(memory, lambda pad: trims.append(pad) or 1), Holding(memory)
    for now, count in enumerate((TRIMMED_BYTES - 1, TRIMMED_BYTES, 0, 0)):
        holding.hold(count)
        released.tick(now * TRIM_INTERVAL_SECONDS)
    assert trims == [0, 0]


def test_memory_is_returned_at_intervals() -> None:
    memory, trims = RequestMemory(), list[int]()
    released, holding = ReleasedMemory(memory, lambda pad: trims.append(pad) or 1), Holding(memory)
    for step in range(9):  # each second step releases much
        holding.hold(TRIMMED_BYTES * ((step + 1) % 2))
        released.tick(step * TRIM_INTERVAL_SECONDS / 4)
    assert trims == [0, 0, 0]
