"""The arrival times of a stream's pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache import stream_timing as pace
from goproxyai.cache.stream_timing import MAX_MARKS, StreamTiming, timed_pieces

PIECES = st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 10_000)), max_size=50)


@given(st.floats(0, 1e6), PIECES)
def test_piece_times_are_exact_to_a_millisecond(
    began: float, received: list[tuple[float, int]]
) -> None:
    recorded = StreamTiming(began)
    now, end, expected = began + 1.0, 0, []
    first = now
    for wait, size in received:
        recorded.add(now, size)
        end += size
        expected.append((now - first, end))
        now += wait
    read = list(timed_pieces(recorded.packed()))
    assert len(read) <= len(expected)
    assert [at for _, at in read] == sorted({at for _, at in read})
    for seconds, at in read:
        original = {where: when for when, where in expected}[at]
        assert original - 0.0021 <= seconds <= original + 0.001
    assert (read[-1][1] if read else 0) == end


def test_pieces_within_a_millisecond_share_a_mark() -> None:
    recorded = StreamTiming(5.0)
    for at in (5.0, 5.0004, 5.0009, 5.0205):
        recorded.add(at, 10)
    assert list(timed_pieces(recorded.packed())) == [(0.0, 30), (0.02, 40)]


def test_times_never_decrease() -> None:
    recorded = StreamTiming(5.0)
    for at in (5.0, 6.0, 4.0):
        recorded.add(at, 1)
    assert list(timed_pieces(recorded.packed())) == [(0.0, 1), (1.0, 3)]


def test_number_of_marks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MAX_MARKS", 3)
    recorded = StreamTiming(0.0)
    for at in range(10):
        recorded.add(float(at), 1)
    assert list(timed_pieces(recorded.packed())) == [(0.0, 1), (1.0, 2), (9.0, 10)]
    assert MAX_MARKS == 65_536


def test_large_numbers_are_clamped() -> None:
    recorded = StreamTiming(0.0)
    recorded.add(0.0, 2**33)
    recorded.add(1e9, 1)
    assert list(timed_pieces(recorded.packed())) == [
        (0.0, 2**32 - 1),
        ((2**32 - 1) / 1000, 2**32 - 1),
    ]


def test_incomplete_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="an incomplete mark"):
        timed_pieces(b"12345")
