"""Memory that the parent and its workers share."""

from __future__ import annotations

import os

import pytest

from goproxyai.config.variables import MAX_WORKERS
from goproxyai.daemon.accept_balance import ABSENT
from goproxyai.daemon.shared_memory import (
    make_shared_memory,
    map_counts,
    map_marks,
    map_presence,
)

KEY = b"\xff" * 32


@pytest.mark.parametrize("has_memfd", [True, False])
def test_mappings_share_memory_without_overlap(
    has_memfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_memfd:
        monkeypatch.delattr(os, "memfd_create")
    descriptor = make_shared_memory()
    counts, others = map_counts(descriptor, MAX_WORKERS), map_counts(descriptor, 3)
    table, same = map_presence(descriptor), map_presence(descriptor)
    marks = map_marks(descriptor, MAX_WORKERS)
    last = map_marks(descriptor, MAX_WORKERS, MAX_WORKERS - 1)
    os.close(descriptor)
    for index in range(MAX_WORKERS):
        counts[index] = ABSENT
    assert list(others) == [ABSENT] * 3
    assert (same.generation, same.may_have(KEY)) == (0, False)
    table.add(KEY)
    table.generation = 7
    assert (same.generation, same.may_have(KEY)) == (7, True)
    assert set(counts) == {ABSENT}
    assert len(marks) == 0
    assert last.mark(KEY)
    assert marks.marked(KEY) == [MAX_WORKERS - 1]
    marks.remove_all(MAX_WORKERS - 1)
    assert (len(marks), same.generation, same.may_have(KEY)) == (0, 7, True)
