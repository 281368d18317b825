"""The settings of the garbage collector, and the return of memory to the system."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from goproxyai.daemon import memory
from goproxyai.daemon.memory import (
    COLLECTION_INTERVAL_SECONDS,
    configure_memory,
)


def test_old_generation_is_collected_periodically_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    for name in ("collect", "freeze", "set_threshold"):
        monkeypatch.setattr(
            memory.gc, name, lambda *arguments, name=name: calls.append((name, *arguments))
        )
    monkeypatch.setattr(memory, "malloc_trim", lambda pad: calls.append(("trim", pad)))
    clock = Clock()
    configure_memory(clock)
    assert calls == [("collect",), ("freeze",), ("set_threshold", 2_500, 3, 1 << 30)]
    calls.clear()
    clock.advance(COLLECTION_INTERVAL_SECONDS - 1)
    assert calls == []
    clock.advance(1)
    assert calls == [("collect",), ("trim", 0)]
