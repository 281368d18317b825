"""When an ended worker is replaced."""

from __future__ import annotations

from typing import Final

STABLE_SECONDS: Final = 10.0
"""A worker that lived as long was started successfully: the next one is started at once."""

FIRST_DELAY_SECONDS: Final = 0.5
MAX_DELAY_SECONDS: Final = 30.0


class RestartPolicy:
    """The delays of one worker's replacements.

    The first replacement is started at once. Each further one that ends within
    :data:`STABLE_SECONDS` doubles the delay of the next, from :data:`FIRST_DELAY_SECONDS` to
    :data:`MAX_DELAY_SECONDS`.
    """

    def __init__(self) -> None:
        self._early_ends = 0

    def delay_after(self, lifetime: float) -> float:
        """Return the seconds until the replacement of a worker that lived *lifetime* seconds."""
        if lifetime >= STABLE_SECONDS:
            self._early_ends = 0
        self._early_ends += 1
        if self._early_ends == 1:
            return 0.0
        doublings = min(self._early_ends - 2, 10)
        return float(min(FIRST_DELAY_SECONDS * 2**doublings, MAX_DELAY_SECONDS))
