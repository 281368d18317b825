"""Durations in the syntax of Go's ``time.ParseDuration``, such as ``1h30m``, ``1.5s`` or ``250ms``.

Durations are printed as Go's ``time.Duration.String`` prints them. The arithmetic is in whole
nanoseconds, so that no rounding accumulates.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal

UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek letter mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
"""Nanoseconds in each unit."""

MAX_NANOSECONDS = 2**63 - 1
"""The longest duration: Go's ``Duration`` is a signed 64-bit integer (292 years)."""

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_UNIT = "(?:ns|us|\u00b5s|\u03bcs|ms|s|m|h)"
_PART = re.compile(rf"({_NUMBER})({_UNIT})")
_DURATION = re.compile(rf"\+?(?:0|(?:{_NUMBER}{_UNIT})+)")
_MAX_CHARACTERS = 256


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as ``1h30m``, ``1.5s``, ``250ms`` or ``0``.

    A fraction of a nanosecond is cut off, as in Go.

    :raises ValueError: if *text* is invalid, negative or longer than :data:`MAX_NANOSECONDS`.
    """
    if len(text) > _MAX_CHARACTERS or _DURATION.fullmatch(text) is None:
        raise ValueError("not a duration in Go's syntax")
    total = sum(_nanoseconds(number, unit) for number, unit in _PART.findall(text))
    if total > MAX_NANOSECONDS:
        raise ValueError("a duration of more than 64 bits of nanoseconds")
    return total / 1_000_000_000


def _nanoseconds(number: str, unit: str) -> int:
    whole, _, fraction = number.partition(".")
    scale: int = 10 ** len(fraction)
    return int(whole + fraction) * UNITS[unit] // scale


def format_duration(seconds: float) -> str:
    """Return *seconds* as Go prints them: ``5m0s``, ``1h30m0s``, ``1.5s``, ``250ms``, ``0s``.

    The shortest decimal that *seconds* stands for is rounded to the nanosecond.

    :raises ValueError: if *seconds* is negative, not finite or above :data:`MAX_NANOSECONDS`.
    """
    if not 0 <= seconds <= MAX_NANOSECONDS / 1_000_000_000:
        raise ValueError("not a duration that Go can print")
    exact = Decimal(repr(float(seconds))) * 1_000_000_000
    total = min(int(exact.to_integral_value(ROUND_HALF_EVEN)), MAX_NANOSECONDS)
    if total == 0:
        return "0s"
    for unit in ("ns", "\u00b5s", "ms"):
        if total < UNITS[unit] * 1000:
            return _decimal(total, UNITS[unit]) + unit
    minutes, rest = divmod(total, UNITS["m"])
    text = _decimal(rest, UNITS["s"]) + "s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{minutes}m{text}"
        if hours:
            text = f"{hours}h{text}"
    return text


def _decimal(count: int, unit: int) -> str:
    whole, rest = divmod(count, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{str(unit + rest)[1:].rstrip('0')}"
