"""The metrics of the shared state; there are none without ``STATE_URL``."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from goproxyai.admin.metric_families import (
    CIRCUIT_VALUES,
    PREFIX,
    bucket_counts,
    labelled_counter,
    one_counter,
    one_gauge,
    one_histogram,
)
from goproxyai.admin.sources import PageSources, circuit_of, state_of


def state_metrics(sources: PageSources) -> Iterator[Metric]:
    """Yield the metrics of the shared state."""
    numbers = sources.state
    if numbers is None:
        return
    counters = sources.counters
    up = float(state_of(numbers) == "ok")
    yield one_gauge("state_up", "Whether all processes use the shared state: 1, else 0.", {}, up)
    circuit = CIRCUIT_VALUES[circuit_of(numbers)]
    yield one_gauge(
        "state_circuit_open",
        "Worst state of the circuits to the shared state: 0 closed, 1 open, 0.5 half-open.",
        {},
        circuit,
    )
    yield one_counter(
        "state_circuit_opened",
        "Times that a circuit to the shared state opened.",
        counters.state.opened,
    )
    commands = CounterMetricFamily(
        PREFIX + "state_commands",
        "Commands to the shared state, by purpose and result.",
        labels=("kind", "result"),
    )
    for labels, number in counters.state.commands.items():
        commands.add_metric(labels, number)
    yield commands
    yield labelled_counter(
        "state_overdue",
        "Requests that went on without a reply of the shared state, by kind of the command.",
        "kind",
        counters.state.overdue,
    )
    waits = HistogramMetricFamily(
        PREFIX + "state_wait_seconds",
        "Time that requests waited for the shared state, by kind of the command.",
        labels=("kind",),
    )
    for kind, histogram in counters.durations.state_wait.items():
        waits.add_metric((kind,), *bucket_counts(histogram))
    yield waits
    yield one_histogram(
        "state_command_seconds",
        "Time from sending a command to the shared state to its reply.",
        counters.durations.state,
    )
