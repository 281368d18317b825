"""Counters and duration histograms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.telemetry.counters import (
    MOST_OUTCOMES,
    ROUTES,
    Counters,
    Histogram,
    percentile,
    route_of,
)


def test_route_is_api_resource_with_its_subpaths() -> None:
    assert route_of(b"/v1/files/file-1/content?x=1") == "/v1/files"
    assert route_of(b"/v1/chat/completions") == "/v1/chat/completions"
    assert route_of(b"/v1/filesystem") == "other"
    assert route_of(b"/v1/\xff") == "other"
    assert len(set(ROUTES)) == len(ROUTES)


def test_outcome_combinations_are_bounded() -> None:
    counters = Counters()
    for status in range(100, 600):
        for cache in ("HIT", "MISS", "-", "STALE", "off"):
            counters.note(b"/v1/models", b"GET", status, cache, 1)
    assert len(counters.outcomes) <= MOST_OUTCOMES + 5
    assert sum(counters.outcomes.values()) == 2500


def test_cumulative_buckets_of_histogram() -> None:
    histogram = Histogram()
    histogram.add([0.00005, 0.00015, 0.1, 1e6])
    counts = [count for _, count in histogram.cumulative()]
    assert counts == sorted(counts)
    assert (counts[0], counts[1], counts[-1], histogram.count) == (1, 2, 3, 4)


@given(st.lists(st.floats(0.00005, 800), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 1]))
def test_percentile_is_within_bucket_of_exact_value(durations: list[float], share: float) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.note(seconds)
    batched = Histogram()
    batched.add(list(durations))
    assert histogram.counts() == batched.counts()
    assert histogram.cumulative() == batched.cumulative()
    found = percentile(histogram.counts(), share)
    assert found is not None
    upper = histogram.percentile(share)
    exact = sorted(durations)[max(0, int(-(-len(durations) * share // 1)) - 1)]
    assert found <= max(2 * exact, 0.0001) * 1.000001
    assert found * 2.000001 >= min(exact, upper) or exact <= 0.0001


def test_percentile_without_durations_is_none() -> None:
    assert percentile(Histogram().counts(), 0.5) is None


def test_merged_histogram_equals_histogram_of_all_durations() -> None:
    parts, whole = [Histogram(), Histogram()], Histogram()
    for number in range(100):
        parts[number % 2].note(number / 10)
        whole.note(number / 10)
    merged = Histogram.merged(parts)
    assert merged.counts() == whole.counts()
    assert (merged.count, merged.longest) == (whole.count, whole.longest)
    assert merged.total == pytest.approx(whole.total)
