"""Whether the harness itself is late: as busy a machine delays the daemons, too."""

from __future__ import annotations

from collections import deque
from typing import Final

PULSE_SECONDS: Final = 0.1
"""The interval at which the harness checks that it runs."""

LATE_SECONDS: Final = 0.5
"""The harness stalled if it was late by as much, all in all, within :data:`WITHIN_SECONDS`. A
request through the egress proxy waits for it several times."""

WITHIN_SECONDS: Final = 3.0
"""Longer than the deadlines of the daemons."""


class Lateness:
    """The delays of the latest pulses.

    :param now: seconds.
    """

    def __init__(self, now: float) -> None:
        self._last = now
        self._late: deque[tuple[float, float]] = deque()

    def pulse(self, now: float) -> tuple[float, float] | None:
        """Return when the harness began to be late, and by how many seconds, if it stalled."""
        self._late.append((self._last, now - self._last - PULSE_SECONDS))
        self._last = now
        while self._late[0][0] < now - WITHIN_SECONDS and len(self._late) > 1:
            self._late.popleft()
        late = sum(seconds for _, seconds in self._late)
        return (self._late[0][0], late) if late > LATE_SECONDS else None
