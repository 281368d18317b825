"""Tokens, and the money that they are: what upstream was asked for, and what the cache saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goproxyai.usage.prices import Prices
from goproxyai.usage.usage import Usage

KINDS = ("prompt", "completion", "cached", "reasoning")
"""Of tokens, as in :class:`~goproxyai.usage.usage.Usage`; the last two are parts of the others."""

MOST_MODELS = 100
"""Models that are counted apart, those that were seen first; the rest are ``other``."""

OTHER = "other"

WITHOUT = ("silent", "cut", "left")
"""Why an answer's tokens are unknown: it does not tell them (or not so that it can be read),
upstream broke it off, or the client left before its end."""


class Tally:
    """Tokens of one model, by kind, in the order of :data:`KINDS`.

    :ivar used: of answers of upstream's.
    :ivar saved: of answers that upstream was not asked for.
    """

    __slots__ = ("saved", "used")

    def __init__(self) -> None:
        self.used = [0] * len(KINDS)
        self.saved = [0] * len(KINDS)


class UsageTotals:
    """All of them, since the start.

    :ivar prices: what they cost from now on.
    :ivar models: at most :data:`MOST_MODELS`, and :data:`OTHER`.
    :ivar unknown: answers, by the reasons :data:`WITHOUT`.
    :ivar spent: money for what was used, of the models that have a price. :ivar spared: for what
        was saved.
    """

    def __init__(self, prices: Prices | None = None) -> None:
        self.prices = Prices() if prices is None else prices
        self.models: dict[str, Tally] = {}
        self.unknown = dict.fromkeys(WITHOUT, 0)
        self.spent = 0.0
        self.spared = 0.0

    def add_used(self, usages: Sequence[Usage | None]) -> None:
        """Count the usage of complete answers of upstream; ``None``: the answer reports none."""
        known = [usage for usage in usages if usage is not None]
        self.unknown["silent"] += len(usages) - len(known)
        for model in {usage[0] for usage in known}:
            alike = [usage for usage in known if usage[0] == model]
            _, *kinds = zip(*alike, strict=True)
            self.spent += self._add(self._tally(model).used, Usage(model, *map(sum, kinds)))

    def add_saved(self, usage: Usage, count: int) -> None:
        """Count *count* answers that were given without an upstream request."""
        model, *numbers = usage
        spared = Usage(model, *[number * count for number in numbers])
        self.spared += self._add(self._tally(model).saved, spared)

    def _add(self, to: list[int], usage: Usage) -> float:
        """Add it up; gives what it costs."""
        for kind, number in enumerate(usage[1:]):
            to[kind] += number
        price = self.prices.price(usage.model) if self.prices else None
        return 0.0 if price is None else price.of(usage)

    def add_unknown(self, why: str) -> None:
        """Count an answer of upstream that did not end; *why* is of :data:`WITHOUT`."""
        self.unknown[why] += 1

    def _tally(self, model: str) -> Tally:
        tally = self.models.get(model or OTHER)
        if tally is None:
            name = OTHER if len(self.models) >= MOST_MODELS else model or OTHER
            tally = self.models.setdefault(name, Tally())
        return tally

    def summary(self) -> dict[str, Any]:
        """For ``/stats``."""
        return {
            "upstream": self.total("used"),
            "cache": self.total("saved"),
            "unknown": dict(self.unknown),
            "models": {
                model: {"upstream": _named(tally.used), "cache": _named(tally.saved)}
                for model, tally in self.models.items()
            },
            "money": self.money(),
        }

    def total(self, which: str) -> dict[str, int]:
        """Of all models, what was ``used`` or ``saved``, by kind."""
        columns = zip(*[getattr(tally, which) for tally in self.models.values()], strict=True)
        return _named([sum(column) for column in columns] or [0] * len(KINDS))

    def money(self) -> dict[str, float] | None:
        """Spent and saved, where there are prices."""
        if not self.prices:
            return None
        return {"spent": round(self.spent, 9), "saved": round(self.spared, 9)}


def _named(counts: list[int]) -> dict[str, int]:
    return dict(zip(KINDS, counts, strict=True))
