"""The outcomes of the last :data:`WINDOW_SECONDS`, failures by client.

Memory is bounded: a slot counts the failures of :data:`MAX_CLIENTS_PER_SLOT` clients, and those of
all further clients together, as if they were one client.
"""

from __future__ import annotations

from typing import Final

import attrs

WINDOW_SECONDS: Final = 10.0
"""Older outcomes do not count."""

WINDOW_SLOTS: Final = 10
"""Slots of the window; outcomes are forgotten a slot at a time."""

MAX_CLIENTS_PER_SLOT: Final = 100

FURTHER_CLIENTS: Final = ""
"""The key under which the failures of further clients are counted."""


@attrs.frozen
class Outcomes:
    """The sums of a window.

    :ivar most_of_one: the failures of the client that has the most.
    """

    successes: int
    failures: int
    most_of_one: int


class OutcomeWindow:
    """Counts successes and failures in slots of time."""

    __slots__ = ("_failures", "_slot", "_successes")

    def __init__(self) -> None:
        self._slot = 0  # number of the current slot since the clock's zero
        self.clear()

    def clear(self) -> None:
        """Forget all outcomes."""
        self._successes = [0] * WINDOW_SLOTS
        self._failures: list[dict[str, int]] = [{} for _ in range(WINDOW_SLOTS)]

    def advance(self, now: float) -> None:
        """Empty the slots that have left the window."""
        slot = int(now * WINDOW_SLOTS / WINDOW_SECONDS)
        for number in range(min(slot - self._slot, WINDOW_SLOTS)):
            self._successes[(slot - number) % WINDOW_SLOTS] = 0
            self._failures[(slot - number) % WINDOW_SLOTS] = {}
        self._slot = max(slot, self._slot)

    def add_successes(self, count: int) -> None:
        """Add *count* successes to the current slot."""
        self._successes[self._slot % WINDOW_SLOTS] += count

    def add_failure(self, client: str) -> None:
        """Add a failure of *client* to the current slot."""
        failures = self._failures[self._slot % WINDOW_SLOTS]
        if client not in failures and len(failures) >= MAX_CLIENTS_PER_SLOT:
            client = FURTHER_CLIENTS
        failures[client] = failures.get(client, 0) + 1

    def outcomes(self) -> Outcomes:
        """Return the sums over all slots."""
        by_client: dict[str, int] = {}
        for failures in self._failures:
            for client, count in failures.items():
                by_client[client] = by_client.get(client, 0) + count
        return Outcomes(
            sum(self._successes), sum(by_client.values()), max(by_client.values(), default=0)
        )
