"""The project's performance targets, most of them ratios within one run.

goproxyai logs each request, as by default. The Go original and nginx log none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bench.results import Results

OURS = "goproxyai"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A value; ``mark`` is ``≥`` or ``≤`` for a bound, ``~`` for a ratio of two bounds."""

    value: float
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class Target:
    """A bound for a figure; ``figure`` returns ``None`` if it was not measured."""

    title: str
    bound: float
    figure: Callable[[Results], Figure | None]
    unit: str = ""
    at_most: bool = False

    def reached(self, results: Results) -> bool | None:
        """Whether the figure is within the bound; ``None`` if it was not measured."""
        figure = self.figure(results)
        if figure is None:
            return None
        return figure.value <= self.bound if self.at_most else figure.value >= self.bound


def _figure(value: float, other: float, own_bound: bool, other_bound: bool) -> Figure:
    """The ratio of two values, each of which may be a lower bound."""
    marks = {(True, False): "≥ ", (False, True): "≤ ", (True, True): "~ "}
    return Figure(value / other, marks.get((own_bound, other_bound), ""))


def _over(key: str, other: str) -> Callable[[Results], Figure | None]:
    return lambda results: _between((key, OURS), (key, other), results)


def _own(key: str) -> Callable[[Results], Figure | None]:
    def figure(results: Results) -> Figure | None:
        cell = results.cell(key, OURS)
        return None if cell is None else Figure(cell.value)

    return figure


def _to(key: str, other: str) -> Callable[[Results], Figure | None]:
    return lambda results: _between((key, OURS), (other, OURS), results)


def _between(one: tuple[str, str], two: tuple[str, str], results: Results) -> Figure | None:
    cell, other = results.cell(*one), results.cell(*two)
    if cell is None or other is None or not other.value:
        return None
    return _figure(cell.value, other.value, not cell.saturated, not other.saturated)


TARGETS = (
    Target("miss / Go original", 1.4, _over("miss", "original")),
    Target("miss / nginx", 0.45, _over("miss", "nginx")),
    Target("miss / own miss without TLS", 0.85, _to("miss", "miss_plain")),
    Target("hit on fresh connections / Go original", 1.0, _over("hit_fresh", "original")),
    Target("hit with TLS in front / Go original with TLS", 1.3, _over("hit_tls", "original")),
    Target("hit / Go original", 2.0, _over("hit", "original")),
    Target("miss without TLS / Go original", 1.7, _over("miss_plain", "original")),
    Target("miss without TLS / nginx", 0.5, _over("miss_plain", "nginx")),
    Target("mixed traffic / Go original", 1.4, _over("mixed", "original")),
    Target("stream frames / nginx", 0.8, _over("frames", "nginx")),
    Target("stream frames lost", 0, _own("lost"), at_most=True),
    Target("latency added, p50 / nginx", 1.5, _over("p50_16", "nginx"), at_most=True),
    Target("latency added, p99 / nginx", 2, _over("p99_16", "nginx"), at_most=True),
    Target("hits, many entries / few", 0.8, _to("entries_many", "entries_few")),
    Target("hits, many clients / few", 0.9, _to("clients_many", "clients_few")),
    Target("hit, two workers / one", 1.7, _own("cores_hit")),
    Target("miss, two workers / one", 1.7, _own("cores_miss")),
    Target("memory at start", 60, _own("start"), "MB", at_most=True),
    Target("memory per idle connection", 12, _own("idle"), "KB", at_most=True),
    Target("memory per open stream without TLS", 32, _own("stream_plain"), "KB", at_most=True),
    Target("memory / accounted bytes, small answers", 1.3, _own("full_small"), at_most=True),
    Target("memory / accounted bytes, large answers", 1.3, _own("full_large"), at_most=True),
    Target("longest wait, cache cleared", 5, _own("clear"), "ms", at_most=True),
    Target("longest wait, a path cleared", 5, _own("clear_path"), "ms", at_most=True),
)
