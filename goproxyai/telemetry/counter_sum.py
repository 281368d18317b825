"""Counters as plain values, and their addition: how the numbers of several processes become one.

:func:`dumped` returns numbers, lists and dictionaries only. :func:`add` adds such values to a
:class:`~.counters.Counters`, so that a new counter needs no line here: numbers are added, except
for the longest duration of a histogram, which is the maximum. The prices of tokens are no counter.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from goproxyai.telemetry.counters import MAX_OUTCOMES, Counters
from goproxyai.usage.prices import Prices
from goproxyai.usage.totals import MAX_MODELS, OTHER, ModelTokens, UsageTotals

_MAXIMUM = "longest"


def dumped(value: Any) -> Any:
    """Return *value*, a ``Counters`` or a part of one, as numbers, lists and dictionaries.

    A dictionary becomes a list of pairs, because its keys may be tuples.
    """
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, dict):
        return [(key, dumped(each)) for key, each in value.items()]
    if isinstance(value, list):
        return [dumped(each) for each in value]
    return {name: dumped(getattr(value, name)) for name in _fields(value)}


def add(counters: Counters, document: dict[str, Any]) -> None:
    """Add what :func:`dumped` returned for other counters of the same release."""
    _add_fields(counters, document)


def end_requests(counters: Counters) -> None:
    """Count the requests and connections of a process that has ended as ended."""
    counters.finished.count = counters.requests
    counters.connections.closed = counters.connections.opened
    for name in vars(counters):
        if name.startswith("open_"):
            setattr(counters, name, 0)


def _fields(value: Any) -> Iterable[str]:
    names = value.__slots__ if hasattr(value, "__slots__") else vars(value)
    return [name for name in names if not isinstance(getattr(value, name), Prices)]


def _add_fields(target: Any, document: dict[str, Any]) -> None:
    for name, added in document.items():
        present = getattr(target, name)
        if name == _MAXIMUM:
            setattr(target, name, max(present, added))
        elif isinstance(present, dict):
            _add_items(target, present, added)
        else:
            summed = _added(present, added)
            if summed is not None:
                setattr(target, name, summed)


def _added(present: Any, added: Any) -> Any:
    """Return the sum of numbers; add lists and objects in place, and return ``None``."""
    if isinstance(present, (int, float)):
        return present + added
    if isinstance(present, list):
        present[:] = [each + more for each, more in zip(present, added, strict=True)]
    else:
        _add_fields(present, added)
    return None


def _add_items(owner: Any, table: dict[Any, Any], pairs: list[tuple[Any, Any]]) -> None:
    for raw, added in pairs:
        key: Hashable = tuple(raw) if isinstance(raw, list) else raw
        if key not in table:
            key = _new_key(owner, table, key)
        summed = _added(table[key], added)
        if summed is not None:
            table[key] = summed


def _new_key(owner: Any, table: dict[Any, Any], key: Any) -> Hashable:
    """Make room for *key*, or return the key under which the excess is counted."""
    if isinstance(owner, UsageTotals):
        name = key if len(table) < MAX_MODELS else OTHER
        table.setdefault(name, ModelTokens())
        return str(name)
    if len(table) >= MAX_OUTCOMES:
        key = ("other", "other", key[2] // 100 * 100, "other")
    table.setdefault(key, 0)
    return key  # type: ignore[no-any-return]
