"""What happens when: a pure function of the seed and the length.

1. A run is a warm-up without faults, then cycles; behind each the load pauses and all is measured.
2. Faults come from a shuffled deck, so that each comes before any comes twice.
3. At most one fault at a time strikes a daemon's way upstream; those of single answers overlap.
4. Restarts happen in the first half of the cycles, so that a process lives long enough behind the
   last one for its memory to be compared.
5. Which answers a fault meets is decided by the seed and the request's number alone
   (:func:`struck`), and so is how (:func:`dice`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import attrs

from tests.soak.table import CROWD, EACH, FAULTS, PLAIN, TUNNEL, Fault

SHARE = 0.12
"""Of the answers that a fault of single answers meets while it lasts."""

LONGEST_CYCLE = 60.0
"""Seconds of load between two measurements."""


@attrs.frozen
class Window:
    """A fault, from *begin* to *end*, in seconds of its cycle."""

    fault: Fault
    begin: float
    end: float

    def __str__(self) -> str:
        return f"{self.begin:7.2f} {self.end:7.2f}  {self.fault.where:6}  {self.fault.name}"


@attrs.frozen
class Cycle:
    """Load for some seconds, and the faults meanwhile, in order of their beginning."""

    number: int
    seconds: float
    windows: Sequence[Window]


@attrs.frozen
class Plan:
    """All of a run; ``str()`` of it is what ``--plan`` prints."""

    seed: int
    seconds: float
    cycles: Sequence[Cycle]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}, {self.seconds:g} s"]
        for cycle in self.cycles:
            lines.append(f"cycle {cycle.number}: {cycle.seconds:.1f} s")
            lines += [f"  {window}" for window in cycle.windows]
        return "\n".join(lines)


def make_plan(seed: int, seconds: float) -> Plan:
    """The plan for *seed*, with *seconds* of load in all."""
    count = max(3, round(seconds / LONGEST_CYCLE) + 1)
    rng = random.Random(f"plan {seed}")
    warm = min(5.0, seconds / 8)
    length = (seconds - warm) / (count - 1)
    decks = {where: _deck(rng, where) for where in (EACH, PLAIN, TUNNEL, CROWD)}
    cycles = [Cycle(0, warm, ())]
    for number in range(1, count):
        windows = [
            *_overlapping(rng, decks[EACH], length),
            *_overlapping(rng, decks[CROWD], length),
        ]
        windows += [*_in_turn(rng, decks[PLAIN], length), *_in_turn(rng, decks[TUNNEL], length)]
        if number <= (count - 1) // 2:
            at = round(rng.uniform(0.3, 0.7) * length, 3)
            windows.append(Window(_RESTART, at, at))
        windows.sort(key=lambda window: (window.begin, window.fault.name))
        cycles.append(Cycle(number, length, tuple(windows)))
    return Plan(seed, seconds, tuple(cycles))


_RESTART = next(fault for fault in FAULTS if fault.name == "restart")


def _deck(rng: random.Random, where: str) -> Iterator[Fault]:
    """Faults without end, each once before any comes again."""
    faults = [fault for fault in FAULTS if fault.where == where and fault is not _RESTART]
    while True:
        rng.shuffle(faults)
        yield from faults


def _overlapping(rng: random.Random, deck: Iterator[Fault], length: float) -> Iterator[Window]:
    for _ in range(max(6, round(length / 3))):
        fault = next(deck)
        begin = rng.uniform(0, 0.9) * length
        lasting = rng.uniform(0.3, 1.0) * fault.lasting * length
        yield _window(fault, begin, min(begin + lasting, length))


def _in_turn(rng: random.Random, deck: Iterator[Fault], length: float) -> Iterator[Window]:
    """One behind the other, with as much time between them in which all is well."""
    slots = max(3, round(length / 10))
    for slot in range(slots):
        fault = next(deck)
        begin = (slot + rng.uniform(0.05, 0.4)) * length / slots
        lasting = min(rng.uniform(0.3, 1.0) * fault.lasting * length, 0.5 * length / slots, 5.0)
        yield _window(fault, begin, begin + lasting)


def _window(fault: Fault, begin: float, end: float) -> Window:
    return Window(fault, round(begin, 3), round(end, 3))


def dice(seed: int, *what: object) -> random.Random:
    """Chance that is the same whenever the same is asked."""
    return random.Random(":".join(map(str, (seed, *what))))


def struck(
    seed: int, request: int, attempt: int, now: float, windows: Sequence[Window]
) -> Fault | None:
    """Which of the faults of single answers meets this one, if any.

    :param request: its number. :param attempt: how often it came upstream before.
    :param now: in seconds of the cycle.
    """
    active = [one.fault for one in windows if one.begin <= now < one.end]
    rng = dice(seed, "struck", request, attempt)
    for fault in active:
        if fault.where == EACH and rng.random() < SHARE:
            return fault
    return None
