"""The table of claims that workers make without a question."""

from __future__ import annotations

import pytest

from goproxyai.state.claim_marks import ROWS, ClaimMarks, marks_bytes

KEY, SAME_ROW, OTHER = bytes(32), b"x" + bytes(31), b"\xff" * 32
WORKERS = 3


def tables() -> tuple[ClaimMarks, list[ClaimMarks]]:
    """The table as the parent has it, and as the workers have it."""
    memory = memoryview(bytearray(marks_bytes(WORKERS)))
    workers = [ClaimMarks(memory, WORKERS, own) for own in range(WORKERS)]
    return ClaimMarks(memory, WORKERS), workers


def test_first_mark_of_a_row_is_set() -> None:
    parent, (one, two, three) = tables()
    assert one.mark(KEY)
    assert not two.mark(KEY)
    assert not three.mark(SAME_ROW)
    assert three.mark(OTHER)
    assert (parent.marked(KEY), parent.marked(OTHER), len(parent)) == ([0], [2], 2)
    one.unmark(KEY)
    assert two.mark(SAME_ROW)


def test_worker_sets_its_mark_once() -> None:
    parent, (one, *_) = tables()
    assert one.mark(KEY)
    assert not one.mark(SAME_ROW)
    assert parent.marked(KEY) == [0]


def test_claims_of_the_parent_prevent_marks() -> None:
    parent, (one, *_) = tables()
    for _ in range(2):
        parent.begin(KEY)
    parent.end(KEY)
    assert not one.mark(KEY)
    assert (parent.marked(KEY), len(parent)) == ([], 0)
    for _ in range(2):  # one too many does no harm
        parent.end(KEY)
    assert one.mark(KEY)


def test_count_at_its_maximum_stays() -> None:
    parent, (one, *_) = tables()
    for _ in range(300):
        parent.begin(KEY)
    for _ in range(300):
        parent.end(KEY)
    assert not one.mark(KEY)


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_marks_of_a_worker_that_has_ended_are_removed(key: bytes) -> None:
    parent, (one, two, _) = tables()
    assert two.mark(key)
    parent.remove_all(1)
    assert len(parent) == 0
    assert one.mark(key)


def test_first_and_last_row_are_used() -> None:
    parent, (one, *_) = tables()
    assert one.mark(KEY)
    assert one.mark(OTHER)
    assert (one._row(KEY), one._row(OTHER)) == (0, (ROWS - 1) * (WORKERS + 1))
    assert len(parent) == 2
