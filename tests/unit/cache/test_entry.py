"""Age, type and size of an entry."""

from __future__ import annotations

from tests.unit.cache.stored import entry


def test_age_includes_initial_age_and_never_decreases() -> None:
    stored = entry(now=100.0, age=5)
    assert stored.age(100.0) == 5
    assert stored.age(102.9) == 7
    assert stored.age(50.0) == 5


def test_entry_with_timing_is_an_event_stream() -> None:
    assert not entry().is_event_stream
    assert entry(timing=b"").is_event_stream


def test_size_includes_timing() -> None:
    assert entry(timing=b"12345678").size == entry(timing=b"").size + 8


def test_entry_that_is_not_stored_is_dropped() -> None:
    assert entry().is_dropped
