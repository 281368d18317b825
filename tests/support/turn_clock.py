"""A clock whose calls without a delay are made in the next turn, as those of a reactor are."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

TURN_SECONDS = 1e-6


class TurnClock(Clock):
    """Makes a call without a delay in the next turn."""

    def callLater(self, delay: float, *call: Any, **arguments: Any) -> Any:
        return super().callLater(delay or TURN_SECONDS, *call, **arguments)
