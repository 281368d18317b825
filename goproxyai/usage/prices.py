"""The price table: money for a million tokens, by model and kind.

.. code-block:: json

    {
      "gpt-6.2-sol": {
        "prompt": 2.00, "cached": 0.10, "cache_write": 2.50, "cache_write_12h": 5.00,
        "completion": 10.00
      },
      "gpt-audio-1.5": {
        "prompt": 2.50, "completion": 10.00, "audio_prompt": 32.00, "audio_completion": 64.00
      },
      "text-embedding-3-small": {"prompt": 0.02}
    }

1. A name applies to the model of that name and to models whose names continue after a ``-``, ``:``
   or ``@``. The longest applicable name counts: ``gpt-5.4-mini-2026-03-17`` has the price of
   ``gpt-5.4-mini``, and that of ``gpt-5.4`` only if the table has no ``gpt-5.4-mini``.
2. A kind without a price of its own costs as much as the kind that it is a part of
   (:data:`PART_OF`). ``prompt`` and ``completion`` without a price are free.
3. Parts of the prompt tokens are priced one after the other, in the order of :class:`Price`, each
   up to what is left: a token of cached audio has the price of a cached token.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from goproxyai.usage.usage import NO_DETAILS, Usage

MAX_TABLE_BYTES: Final = 1024 * 1024

_MILLION = 1_000_000
_MAX_CACHED_MODELS = 256
_SEPARATORS = "-:@"

PART_OF: Final = {
    "cached": "prompt", "cache_write": "prompt", "cache_write_12h": "cache_write",
    "audio_prompt": "prompt", "audio_completion": "completion",
}  # fmt: skip
"""Kinds of tokens that may have a price of their own, by the kind whose price they have else."""

_KINDS = ("prompt", "completion", *PART_OF)


class PricesError(ValueError):
    """An invalid price table; ``str()`` says what is wrong."""


@attrs.frozen
class Price:
    """The price of one token of each kind."""

    prompt: float
    completion: float
    cached: float
    cache_write_12h: float
    cache_write: float
    audio_prompt: float
    audio_completion: float

    def cost(self, usage: Usage) -> float:
        """Return what *usage* costs."""
        _, prompt, completion, cached, _, details = usage
        cached = min(cached, prompt)
        prompt -= cached
        cost = cached * self.cached
        if details is not NO_DETAILS:
            for number, price in (
                (details.cache_write_12h, self.cache_write_12h),
                (details.cache_write - details.cache_write_12h, self.cache_write),
                (details.audio_prompt, self.audio_prompt),
            ):
                part = max(0, min(number, prompt))
                prompt -= part
                cost += part * price
            part = min(details.audio_completion, completion)
            completion -= part
            cost += part * self.audio_completion
        return cost + prompt * self.prompt + completion * self.completion


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
    if not isinstance(row, dict) or not row or not row.keys() <= set(_KINDS):
        raise PricesError(f"{model!a} must have only the keys {', '.join(_KINDS)}")
    for kind, value in row.items():
        if type(value) not in (int, float) or not 0 <= value < _MILLION:
            raise PricesError(f"the {kind} price of {model!a} must be a number from 0 to 1000000")
    prices = {kind: row.get(kind, 0.0) / _MILLION for kind in ("prompt", "completion")}
    for kind, whole in PART_OF.items():  # in this order: a kind follows the one that it is part of
        prices[kind] = row[kind] / _MILLION if kind in row else prices[whole]
    return Price(**prices)
