"""What tokens cost, as a table says: money for a million of them, by model and kind.

.. code-block:: json

    {
      "gpt-4o-mini": {"prompt": 0.15, "cached": 0.075, "completion": 0.60},
      "text-embedding-3": {"prompt": 0.02}
    }

A name is that of a model, or what it begins with up to a ``-``, a ``:`` or a ``@``: the longest
counts, so that ``gpt-4o-mini`` has the price of ``gpt-4o-mini-2024-07-18``, and ``gpt-4o`` only
where there is no ``gpt-4o-mini``. Cached tokens cost as the others where nothing is said of them.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from goproxyai.usage.usage import Usage

LARGEST: Final = 1024 * 1024
"""Bytes of a table."""

_MILLION = 1_000_000
_MOST_KNOWN = 256
_BOUNDARIES = "-:@"
_KINDS = frozenset(("prompt", "cached", "completion"))


class PricesError(ValueError):
    """A text that is no such table; ``str()`` says where."""


@attrs.frozen
class Price:
    """Of one token of each kind."""

    prompt: float
    cached: float
    completion: float

    def of(self, usage: Usage) -> float:
        """What *usage* costs."""
        cached = min(usage.cached, usage.prompt)
        return (
            (usage.prompt - cached) * self.prompt
            + cached * self.cached
            + usage.completion * self.completion
        )


@attrs.define(eq=False)
class Prices:
    """A table of them; :func:`parse` reads one.

    What was looked up is remembered, of at most 256 models.
    """

    table: dict[str, Price] = attrs.field(factory=dict)
    _known: dict[str, Price | None] = attrs.field(factory=dict, init=False)

    def __bool__(self) -> bool:
        return bool(self.table)

    def price(self, model: str) -> Price | None:
        """The price of a model's tokens; ``None`` where the table does not know it."""
        known = self._known
        if model not in known:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[model] = self._look_up(model)
        return known[model]

    def _look_up(self, model: str) -> Price | None:
        for end in range(len(model), 0, -1):
            if end == len(model) or model[end] in _BOUNDARIES:
                price = self.table.get(model[:end])
                if price is not None:
                    return price
        return None


def parse(text: bytes) -> Prices:
    """The table in *text*.

    :raises PricesError: where it is none.
    """
    if len(text) > LARGEST:
        raise PricesError("it is larger than 1 MB")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise PricesError("it is not JSON") from None
    if not isinstance(document, dict):
        raise PricesError("it is no JSON object")
    return Prices({model: _price(model, row) for model, row in document.items()})


def _price(model: str, row: Any) -> Price:
    if not isinstance(row, dict) or not row or not row.keys() <= _KINDS:
        raise PricesError(f"{model!a} has not the keys prompt, cached, completion")
    for kind, value in row.items():
        if type(value) not in (int, float) or not 0 <= value < _MILLION:
            raise PricesError(f"{model!a} has for {kind} no price of a million tokens")
    prompt = row.get("prompt", 0.0) / _MILLION
    return Price(
        prompt,
        row["cached"] / _MILLION if "cached" in row else prompt,
        row.get("completion", 0.0) / _MILLION,
    )
