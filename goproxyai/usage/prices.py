"""The price table: money for a million tokens, by model and kind.

.. code-block:: json

    {
      "gpt-4o-mini": {"prompt": 0.15, "cached": 0.075, "completion": 0.60},
      "text-embedding-3": {"prompt": 0.02}
    }

A name applies to the model of that name and to models whose names continue after a ``-``, ``:`` or
``@``. The longest applicable name counts: ``gpt-4o-mini-2024-07-18`` has the price of
``gpt-4o-mini``, and that of ``gpt-4o`` only if the table has no ``gpt-4o-mini``. Cached tokens
without a price of their own cost as much as other prompt tokens.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from goproxyai.usage.usage import Usage

MAX_TABLE_BYTES: Final = 1024 * 1024

_MILLION = 1_000_000
_MAX_CACHED_MODELS = 256
_SEPARATORS = "-:@"
_KINDS = frozenset(("prompt", "cached", "completion"))


class PricesError(ValueError):
    """An invalid price table; ``str()`` says what is wrong."""


@attrs.frozen
class Price:
    """The price of one token of each kind."""

    prompt: float
    cached: float
    completion: float

    def cost(self, usage: Usage) -> float:
        """Return what *usage* costs."""
        cached = min(usage.cached, usage.prompt)
        return (
            (usage.prompt - cached) * self.prompt
            + cached * self.cached
            + usage.completion * self.completion
        )


@attrs.define(eq=False)
class Prices:
    """A price table, as :func:`parse` reads it; without rows it is false."""

    table: dict[str, Price] = attrs.field(factory=dict)
    _cache: dict[str, Price | None] = attrs.field(factory=dict, init=False)

    def __bool__(self) -> bool:
        return bool(self.table)

    def price(self, model: str) -> Price | None:
        """Return the price of a model's tokens, ``None`` if no row applies."""
        cache = self._cache
        if model not in cache:
            if len(cache) >= _MAX_CACHED_MODELS:
                cache.clear()
            cache[model] = self._look_up(model)
        return cache[model]

    def _look_up(self, model: str) -> Price | None:
        for end in range(len(model), 0, -1):
            if end == len(model) or model[end] in _SEPARATORS:
                price = self.table.get(model[:end])
                if price is not None:
                    return price
        return None


def parse(text: bytes) -> Prices:
    """Return the price table that *text* holds.

    :raises PricesError: if it is invalid.
    """
    if len(text) > MAX_TABLE_BYTES:
        raise PricesError("it is larger than 1 MB")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise PricesError("it is not JSON") from None
    if not isinstance(document, dict):
        raise PricesError("it is not a JSON object")
    return Prices({model: _price(model, row) for model, row in document.items()})


def _price(model: str, row: Any) -> Price:
    if not isinstance(row, dict) or not row or not row.keys() <= _KINDS:
        raise PricesError(f"{model!a} must have only the keys prompt, cached, completion")
    for kind, value in row.items():
        if type(value) not in (int, float) or not 0 <= value < _MILLION:
            raise PricesError(f"the {kind} price of {model!a} must be a number from 0 to 1000000")
    prompt = row.get("prompt", 0.0) / _MILLION
    return Price(
        prompt,
        row["cached"] / _MILLION if "cached" in row else prompt,
        row.get("completion", 0.0) / _MILLION,
    )
