"""Metric families of one or a few series, with the prefix of the daemon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from goproxyai.telemetry.histogram import Histogram
from goproxyai.upstream.breaker import CircuitState

PREFIX: Final = "goproxyai_"

CIRCUIT_VALUES: Final = {
    CircuitState.CLOSED: 0.0,
    CircuitState.OPEN: 1.0,
    CircuitState.HALF_OPEN: 0.5,
}


def one_counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def labelled_counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a counter with one series for each value of *label*."""
    family = CounterMetricFamily(PREFIX + name, text, labels=(label,))
    for label_value, value in values.items():
        family.add_metric((label_value,), value)
    return family


def one_gauge(name: str, text: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def one_histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text)
    family.add_metric((), *bucket_counts(histogram))
    return family


def bucket_counts(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    buckets = [(repr(bound), float(number)) for bound, number in histogram.cumulative()]
    return [*buckets, ("+Inf", float(histogram.count))], histogram.total
