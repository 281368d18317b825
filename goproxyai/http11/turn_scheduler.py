"""Continue connections whose input exceeds their share of a reactor turn."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

CONTINUED_SECONDS = 0.005
"""For which connections are continued in one turn, all together. The last one is completed."""


class Continued(Protocol):
    """A connection with unparsed input, or a large body that has been received."""

    def __hash__(self) -> int: ...

    def continue_input(self) -> None:
        """Use another share of a turn."""


class TurnScheduler:
    """Continues connections in turn, so that the reactor reads and answers others in between."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[Continued, None] = {}  # in the order of their arrival
        self._call: IDelayedCall | None = None

    def add(self, each: Continued) -> None:
        """Continue *each* in a later turn, once."""
        self._waiting.setdefault(each)
        if self._call is None:
            self._call = self._clock.callLater(0, self._run)

    def discard(self, each: Continued) -> None:
        """Do not continue *each*, which is lost; may be repeated."""
        self._waiting.pop(each, None)
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _run(self) -> None:
        self._call = None
        seconds = self._clock.seconds
        ends_at = seconds() + CONTINUED_SECONDS
        try:
            for each in tuple(self._waiting):
                if each in self._waiting:
                    del self._waiting[each]
                    each.continue_input()
                if seconds() >= ends_at:
                    break
        finally:  # a defect in one connection must not keep the others waiting
            if self._waiting and self._call is None:
                self._call = self._clock.callLater(0, self._run)
