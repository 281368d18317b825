"""Memory that the parent and its workers share."""

from __future__ import annotations

import os

import pytest

from goproxyai.config.variables import MAX_WORKERS
from goproxyai.daemon.accept_balance import ABSENT
from goproxyai.daemon.shared_memory import make_shared_memory, map_counts, map_presence

KEY = b"\xff" * 32


@pytest.mark.parametrize("has_memfd", [True, False])
def test_mappings_share_counts_and_keys_without_overlap(
    has_memfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_memfd:
        monkeypatch.delattr(os, "memfd_create")
    descriptor = make_shared_memory()
    counts, others = map_counts(descriptor, MAX_WORKERS), map_counts(descriptor, 3)
    table, same = map_presence(descriptor), map_presence(descriptor)
    os.close(descriptor)
    for index in range(MAX_WORKERS):
        counts[index] = ABSENT
    assert list(others) == [ABSENT] * 3
    assert (same.generation, same.may_have(KEY)) == (0, False)
    table.add(KEY)
    table.generation = 7
    assert (same.generation, same.may_have(KEY)) == (7, True)
    assert set(counts) == {ABSENT}
