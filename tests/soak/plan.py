"""The schedule of a soak: a pure function of the seed and the duration.

1. A run is a warm-up without faults, then cycles of load. After each the load pauses, and the
   processes are measured.
2. The faults are drawn from a shuffled deck, so that each occurs before any occurs twice.
3. At most one fault at a time affects a daemon's connections to the upstream; faults of single
   answers overlap.
4. Restarts occur in the first half of the cycles, so that the last process lives long enough for
   its memory to be compared.
5. The seed and the request's number alone decide which answers a fault affects
   (:func:`fault_for`), and how (:func:`rng_for`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import attrs

from tests.soak.faults import ANSWER, CLIENTS, FAULTS, PLAIN, TUNNEL, Fault

INJECTION_PROBABILITY = 0.12
"""That a fault of single answers is injected into an answer while it lasts."""

MAX_CYCLE_SECONDS = 60.0
"""Load between two measurements."""


@attrs.frozen
class Window:
    """A fault from *begin* to *end*, in seconds of its cycle."""

    fault: Fault
    begin: float
    end: float

    def __str__(self) -> str:
        return f"{self.begin:7.2f} {self.end:7.2f}  {self.fault.where:7}  {self.fault.name}"


@attrs.frozen
class Cycle:
    """Some seconds of load and the faults in it, ordered by their beginning."""

    number: int
    seconds: float
    windows: Sequence[Window]


@attrs.frozen
class Plan:
    """The whole schedule; ``--plan`` prints its ``str()``."""

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
    """The plan for *seed* with *seconds* of load in all."""
    count = max(3, round(seconds / MAX_CYCLE_SECONDS) + 1)
    rng = random.Random(f"plan {seed}")
    warm_up = min(5.0, seconds / 8)
    length = (seconds - warm_up) / (count - 1)
    decks = {where: _deck(rng, where) for where in (ANSWER, PLAIN, TUNNEL, CLIENTS)}
    cycles = [Cycle(0, warm_up, ())]
    for number in range(1, count):
        windows = [
            *_overlapping(rng, decks[ANSWER], length),
            *_overlapping(rng, decks[CLIENTS], length),
            *_consecutive(rng, decks[PLAIN], length),
            *_consecutive(rng, decks[TUNNEL], length),
        ]
        if number <= (count - 1) // 2:
            at = round(rng.uniform(0.3, 0.7) * length, 3)
            windows.append(Window(_RESTART, at, at))
        windows.sort(key=lambda window: (window.begin, window.fault.name))
        cycles.append(Cycle(number, length, tuple(windows)))
    return Plan(seed, seconds, tuple(cycles))


_RESTART = next(fault for fault in FAULTS if fault.name == "restart")


def _deck(rng: random.Random, where: str) -> Iterator[Fault]:
    """An endless sequence of faults, in which each occurs before any repeats."""
    faults = [fault for fault in FAULTS if fault.where == where and fault is not _RESTART]
    while True:
        rng.shuffle(faults)
        yield from faults


def _overlapping(rng: random.Random, deck: Iterator[Fault], length: float) -> Iterator[Window]:
    for _ in range(max(6, round(length / 3))):
        fault = next(deck)
        begin = rng.uniform(0, 0.9) * length
        duration = rng.uniform(0.3, 1.0) * fault.max_share * length
        yield _window(fault, begin, min(begin + duration, length))


def _consecutive(rng: random.Random, deck: Iterator[Fault], length: float) -> Iterator[Window]:
    """One fault after the other, with as much time without a fault between them."""
    slots = max(3, round(length / 10))
    for slot in range(slots):
        fault = next(deck)
        begin = (slot + rng.uniform(0.05, 0.4)) * length / slots
        drawn = rng.uniform(0.3, 1.0) * fault.max_share * length
        yield _window(fault, begin, begin + min(drawn, 0.5 * length / slots, 5.0))


def _window(fault: Fault, begin: float, end: float) -> Window:
    return Window(fault, round(begin, 3), round(end, 3))


def rng_for(seed: int, *key: object) -> random.Random:
    """A random generator that depends on *seed* and *key* only."""
    return random.Random(":".join(map(str, (seed, *key))))


def fault_for(
    seed: int, request: int, attempt: int, now: float, windows: Sequence[Window]
) -> Fault | None:
    """The fault to inject into an answer, if any.

    :param request: the request's number.
    :param attempt: how often the request has reached the upstream before.
    :param now: in seconds of the cycle.
    """
    active = [one.fault for one in windows if one.begin <= now < one.end]
    rng = rng_for(seed, "fault", request, attempt)
    for fault in active:
        if fault.where == ANSWER and rng.random() < INJECTION_PROBABILITY:
            return fault
    return None
