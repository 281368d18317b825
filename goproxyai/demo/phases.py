"""The phases of the made-up API, which repeat."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple


class Phase(Enum):
    """What the API does; the value describes it."""

    NORMAL = "the made-up API answers all requests"
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

CALM: Final = Period(Phase.NORMAL, 600.0)
"""Before the first fault: a newcomer's first requests succeed."""

QUIET: Final = Period(Phase.NORMAL, 15.0)
"""Before the outage of a demo that begins with one."""


def periods(begins_with_outage: bool) -> Iterator[Period]:
    """Yield the periods, without an end."""
    yield from (QUIET, OUTAGE) if begins_with_outage else (CALM,)
    while True:
        yield from CYCLE


def describe_faults(begins_with_outage: bool) -> str:
    """Return when the API fails, as sentences."""
    minutes = sum(period.seconds for period in CYCLE) / 60
    if begins_with_outage:
        return (
            f"An outage of {OUTAGE.seconds:.0f} s begins in {QUIET.seconds:.0f} s, and then every "
            f"{minutes:.0f} minutes."
        )
    return (
        f"The made-up API answers all requests for {CALM.seconds / 60:.0f} minutes, and then fails "
        "at times. With --outage, the demo begins with an outage."
    )
