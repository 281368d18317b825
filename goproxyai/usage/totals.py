"""Totals of tokens and their cost: used by upstream's responses, and saved by the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from goproxyai.usage.prices import Prices
from goproxyai.usage.usage import NO_DETAILS, Details, Usage

KINDS: Final = ("prompt", "completion", "cached", "reasoning", *Details._fields)
"""Kinds of tokens, in the order of :class:`~.usage.Usage`; all but two are parts of the others."""

ALWAYS_SHOWN: Final = KINDS[: -len(Details._fields)]
"""Kinds that have a metric even if no response reports them."""

_DETAILS_AT = len(ALWAYS_SHOWN)

MAX_MODELS: Final = 100
"""Models that are counted by name, in order of appearance; the others count as :data:`OTHER`."""

OTHER: Final = "other"

UNKNOWN_REASONS: Final = ("silent", "cut", "left")
"""Why the usage of a response is unknown.

``silent``: the response has no usage, or none that can be read. ``cut``: upstream broke off the
response. ``left``: the client left before its end.
"""


class ModelTokens:
    """Tokens of one model by kind, in the order of :data:`KINDS`.

    :ivar used: of upstream's responses.
    :ivar saved: of responses without an upstream request.
    :ivar used_cost: cost of the used tokens that had a price.
    :ivar saved_cost: cost of the saved tokens that had a price.
    """

    __slots__ = ("saved", "saved_cost", "used", "used_cost")

    def __init__(self) -> None:
        self.used = [0] * len(KINDS)
        self.saved = [0] * len(KINDS)
        self.used_cost = 0.0
        self.saved_cost = 0.0


class UsageTotals:
    """Totals since the start.

    :ivar prices: of the tokens that are counted from now on.
    :ivar models: by name, at most :data:`MAX_MODELS` and :data:`OTHER`.
    :ivar unknown: responses without usage, by :data:`UNKNOWN_REASONS`.
    :ivar used_cost: cost of the used tokens, of models that have a price.
    :ivar saved_cost: cost of the saved tokens, of models that have a price.
    """

    def __init__(self, prices: Prices | None = None) -> None:
        self.prices = Prices() if prices is None else prices
        self.models: dict[str, ModelTokens] = {}
        self.unknown = dict.fromkeys(UNKNOWN_REASONS, 0)
        self.used_cost = 0.0
        self.saved_cost = 0.0

    def add_used(self, usages: Sequence[Usage | None]) -> None:
        """Count complete responses of upstream; ``None``: a response without usage."""
        known = [usage for usage in usages if usage is not None]
        self.unknown["silent"] += len(usages) - len(known)
        for used in _by_model(known):
            tokens = self._tokens(used.model)
            cost = self._add(tokens.used, used)
            tokens.used_cost += cost
            self.used_cost += cost

    def add_saved(self, counted: Sequence[tuple[Usage, int]]) -> None:
        """Count responses without an upstream request.

        :param counted: usages, each with the number of its responses.
        """
        usages = [usage if count == 1 else _times(usage, count) for usage, count in counted]
        for saved in _by_model(usages):
            tokens = self._tokens(saved.model)
            cost = self._add(tokens.saved, saved)
            tokens.saved_cost += cost
            self.saved_cost += cost

    def _add(self, to: list[int], usage: Usage) -> float:
        """Add *usage* to the counts *to*; return its cost."""
        for kind, number in enumerate(usage[1:-1]):
            to[kind] += number
        if usage.details is not NO_DETAILS:
            for kind, number in enumerate(usage.details, _DETAILS_AT):
                to[kind] += number
        price = self.prices.price(usage.model) if self.prices else None
        return 0.0 if price is None else price.cost(usage)

    def add_unknown(self, reason: str) -> None:
        """Count a response whose usage is unknown.

        :param reason: one of :data:`UNKNOWN_REASONS`.
        """
        self.unknown[reason] += 1

    def _tokens(self, model: str) -> ModelTokens:
        tokens = self.models.get(model or OTHER)
        if tokens is None:
            name = OTHER if len(self.models) >= MAX_MODELS else model or OTHER
            tokens = self.models.setdefault(name, ModelTokens())
        return tokens

    def is_priced(self, model: str) -> bool:
        """Whether the tokens of a model in :attr:`models` have a price.

        The models that are counted as :data:`OTHER` have several prices, or none.
        """
        tokens = self.models[model]
        has_cost = tokens.used_cost > 0 or tokens.saved_cost > 0
        return has_cost or self.prices.price(model) is not None

    def summary(self) -> dict[str, Any]:
        """Return the object ``tokens`` of ``/stats``."""
        return {
            "upstream": self.total("used"),
            "cache": self.total("saved"),
            "unknown": dict(self.unknown),
            "models": {
                model: {
                    "upstream": _by_kind(tokens.used),
                    "cache": _by_kind(tokens.saved),
                    **({"money": self._money_of(model)} if self.prices else {}),
                }
                for model, tokens in self.models.items()
            },
            "money": self.money(),
        }

    def _money_of(self, model: str) -> dict[str, float] | None:
        """Return the cost of the tokens of a model, ``None`` if they have no price."""
        if not self.is_priced(model):
            return None
        tokens = self.models[model]
        return {"spent": round(tokens.used_cost, 9), "saved": round(tokens.saved_cost, 9)}

    def total(self, which: str) -> dict[str, int]:
        """Return the tokens of all models by kind; *which* is ``used`` or ``saved``."""
        columns = zip(*[getattr(tokens, which) for tokens in self.models.values()], strict=True)
        return _by_kind([sum(column) for column in columns] or [0] * len(KINDS))

    def money(self) -> dict[str, float] | None:
        """Return the cost of used and saved tokens, ``None`` without a price table."""
        if not self.prices:
            return None
        return {"spent": round(self.used_cost, 9), "saved": round(self.saved_cost, 9)}


def _by_model(usages: Sequence[Usage]) -> Iterator[Usage]:
    """Yield the sum of *usages* for each model."""
    for model in {usage[0] for usage in usages}:
        alike = [usage for usage in usages if usage[0] == model]
        _, prompt, completion, cached, reasoning, details = zip(*alike, strict=True)
        yield Usage(model, sum(prompt), sum(completion), sum(cached), sum(reasoning), _sum(details))


def _times(usage: Usage, count: int) -> Usage:
    model, prompt, completion, cached, reasoning, details = usage
    if details is not NO_DETAILS:
        details = Details(*[number * count for number in details])
    return Usage(
        model, prompt * count, completion * count, cached * count, reasoning * count, details
    )


def _sum(details: Sequence[Details]) -> Details:
    given = [each for each in details if each is not NO_DETAILS]
    return Details(*map(sum, zip(*given, strict=True))) if given else NO_DETAILS


def _by_kind(counts: list[int]) -> dict[str, int]:
    return dict(zip(KINDS, counts, strict=True))
