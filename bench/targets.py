"""The project's performance targets, most of them ratios within one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bench.results import Results

OURS = "goproxyai"


@dataclasses.dataclass(frozen=True)
class Target:
    """A bound for a figure; ``figure`` returns ``None`` if it was not measured."""

    title: str
    bound: float
    figure: Callable[[Results], float | None]
    unit: str = ""
    at_most: bool = False

    def reached(self, results: Results) -> bool | None:
        """Whether the figure is within the bound; ``None`` if it was not measured."""
        figure = self.figure(results)
        if figure is None:
            return None
        return figure <= self.bound if self.at_most else figure >= self.bound


def _over(key: str, other: str) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(key, OURS, other)


def _own(key: str) -> Callable[[Results], float | None]:
    return lambda results: results.value(key, OURS)


def _growth(large: str, small: str) -> Callable[[Results], float | None]:
    def figure(results: Results) -> float | None:
        many, few = results.value(large, OURS), results.value(small, OURS)
        return many / few if many is not None and few else None

    return figure


TARGETS = (
    Target("hit / Go original", 1.2, _over("hit", "original")),
    Target("miss / Go original", 1.2, _over("miss", "original")),
    Target("miss / nginx", 0.35, _over("miss", "nginx")),
    Target("hit / stock Twisted", 10, _over("hit", "stock")),
    Target("miss / stock Twisted", 10, _over("miss", "stock")),
    Target("miss / Portkey", 10, _over("miss", "portkey")),
    Target("miss / LiteLLM", 100, _over("miss", "litellm")),
    Target("stream frames / nginx", 0.5, _over("frames", "nginx")),
    Target("stream frames lost", 0, _own("lost"), at_most=True),
    Target("latency added at concurrency 1, p50 / nginx", 2, _over("p50_1", "nginx"), at_most=True),
    Target("memory at start", 60, _own("start"), "MB", at_most=True),
    Target("memory per idle connection", 12, _own("idle"), "KB", at_most=True),
    Target("memory per open stream", 32, _own("stream"), "KB", at_most=True),
    Target("memory / accounted bytes, small answers", 1.3, _own("full_small"), at_most=True),
    Target("memory / accounted bytes, large answers", 1.3, _own("full_large"), at_most=True),
    Target("longest wait, cache cleared", 5, _own("clear"), "ms", at_most=True),
    Target("longest wait, a path cleared", 5, _own("clear_path"), "ms", at_most=True),
    Target("hits, many entries / few", 0.9, _growth("entries_many", "entries_few")),
    Target("hits, many clients / few", 0.9, _growth("clients_many", "clients_few")),
)
