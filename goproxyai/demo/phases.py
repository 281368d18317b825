"""The phases of the made-up API, which repeat."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import takewhile
from typing import Final, NamedTuple


class Phase(Enum):
    """What the API does; the value describes it."""

    NORMAL = "the made-up API answers"
    LIMITING = "the made-up API answers every second request with 429"
    FAILING = "the made-up API answers every second request with 503"
    AWAY = "outage: the made-up API refuses connections"


class Period(NamedTuple):
    """A phase, and how long it lasts."""

    phase: Phase
    seconds: float


OUTAGE: Final = Period(Phase.AWAY, 60.0)

CYCLE: Final = (
    Period(Phase.NORMAL, 60.0),
    Period(Phase.LIMITING, 15.0),
    Period(Phase.NORMAL, 45.0),
    Period(Phase.FAILING, 15.0),
    Period(Phase.NORMAL, 45.0),
    OUTAGE,
)

QUIET: Final = Period(Phase.NORMAL, 15.0)
"""Before the outage of a demo that begins with one."""


def periods(begins_with_outage: bool) -> Iterator[Period]:
    """Yield the periods, without an end."""
    if begins_with_outage:
        yield from (QUIET, OUTAGE)
    while True:
        yield from CYCLE


def describe_outages(begins_with_outage: bool) -> str:
    """Return when the outages begin, as a sentence."""
    before = takewhile(lambda period: period is not OUTAGE, periods(begins_with_outage))
    first = sum(period.seconds for period in before)
    minutes = sum(period.seconds for period in CYCLE) / 60
    return (
        f"An outage of {OUTAGE.seconds:.0f} s begins in {first:.0f} s, and then every "
        f"{minutes:.0f} minutes."
    )
