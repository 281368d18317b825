"""Histograms of durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.telemetry.histogram import BOUNDS_SECONDS, Histogram, percentile


def test_cumulative_counts_end_with_all_but_the_unbounded_bucket() -> None:
    histogram = Histogram()
    histogram.add_batch([0.00005, 0.00015, 0.1, 1e6])
    counts = [count for _, count in histogram.cumulative()]
    assert counts == sorted(counts)
    assert (counts[0], counts[1], counts[-1], histogram.count) == (1, 2, 3, 4)


def test_duration_on_a_bound_is_in_the_lower_bucket() -> None:
    one, batch = Histogram(), Histogram()
    one.add(BOUNDS_SECONDS[3])
    batch.add_batch([BOUNDS_SECONDS[3]])
    assert one.counts() == batch.counts()
    assert one.counts()[3] == 1


def test_empty_batch_changes_nothing() -> None:
    histogram = Histogram()
    histogram.add_batch([])
    assert (histogram.count, histogram.longest) == (0, 0.0)
    assert histogram.summary() == {
        "mean_ms": 0.0, "p50_ms": 0.0, "p95_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0,
    }  # fmt: skip


@given(st.lists(st.floats(0.00005, 800), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 1]))
def test_percentile_is_within_a_factor_of_two(durations: list[float], share: float) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    batched = Histogram()
    batched.add_batch(list(durations))
    assert histogram.counts() == batched.counts()
    assert histogram.cumulative() == batched.cumulative()
    found = percentile(histogram.counts(), share)
    assert found is not None
    upper = histogram.percentile(share)
    exact = sorted(durations)[max(0, int(-(-len(durations) * share // 1)) - 1)]
    assert found <= max(2 * exact, 0.0001) * 1.000001
    assert found * 2.000001 >= min(exact, upper) or exact <= 0.0001


def test_percentile_of_no_durations() -> None:
    assert percentile(Histogram().counts(), 0.5) is None


def test_merged_histogram_equals_histogram_of_all_durations() -> None:
    parts, whole = [Histogram(), Histogram()], Histogram()
    for number in range(100):
        parts[number % 2].add(number / 10)
        whole.add(number / 10)
    merged = Histogram.merged(parts)
    assert merged.counts() == whole.counts()
    assert (merged.count, merged.longest) == (whole.count, whole.longest)
    assert merged.total == pytest.approx(whole.total)
