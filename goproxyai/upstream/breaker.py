"""The circuit breaker of one upstream.

=========  ===============================  ====================================================
state      a request                        next state
=========  ===============================  ====================================================
closed     is admitted                      open, if the last :data:`WINDOW_SECONDS` have at least
                                            :data:`MIN_REQUESTS` outcomes and the configured share
                                            of them are failures
open       is refused                       half-open, after the open time
half-open  is refused, except for one: the  closed, after a success; open again, after a failure of
           probe                            the probe, for twice the time (at most
                                            :data:`MAX_OPEN_SECONDS`). Another probe is admitted if
                                            the probe is released, or has no outcome within
                                            :data:`PROBE_TIMEOUT_SECONDS`.
=========  ===============================  ====================================================

A failure is a request without a response, because of the upstream or the way to it. A response of
any status is a success. A request that the client cancels has no outcome.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

WINDOW_SECONDS: Final = 10.0
"""Older outcomes do not count."""

WINDOW_SLOTS: Final = 10
"""Slots of the window; outcomes are forgotten a slot at a time."""

MIN_REQUESTS: Final = 20
"""Outcomes in the window without which the circuit stays closed."""

INITIAL_OPEN_SECONDS: Final = 5.0
"""Open time after the circuit was closed."""

MAX_OPEN_SECONDS: Final = 60.0

PROBE_TIMEOUT_SECONDS: Final = 10.0
"""Time after which a probe without an outcome is replaced by another."""


class CircuitState(Enum):
    """The states of the table."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Counts outcomes; its memory is two counts for each slot.

    The hot path reads :attr:`closed` and increments :attr:`successes` instead of calling
    :meth:`record_success`. :meth:`advance`, called once a second, moves these successes into the
    window.

    :param share: the share of failures, from 0 to 1, that opens the circuit; 0 never opens it.
    :ivar closed: whether the state is closed.
    :ivar successes: responses since the last :meth:`advance`.
    :ivar last_success_at: monotonic seconds of the last :meth:`advance` with successes.
    :ivar times_opened: how often the circuit opened.
    """

    __slots__ = (
        "_failures", "_open_seconds", "_open_until", "_probe_until", "_share", "_slot",
        "_successes", "closed", "last_success_at", "successes", "times_opened",
    )  # fmt: skip

    def __init__(self, share: float) -> None:
        self._share = share
        self._successes = [0] * WINDOW_SLOTS
        self._failures = [0] * WINDOW_SLOTS
        self._slot = 0  # number of the current slot since the clock's zero
        self._open_until = 0.0
        self._open_seconds = INITIAL_OPEN_SECONDS
        self._probe_until = 0.0
        self.closed = True
        self.successes = 0
        self.times_opened = 0
        self.last_success_at = -1.0

    def state(self, now: float) -> CircuitState:
        """Return the state."""
        if self.closed:
            return CircuitState.CLOSED
        return CircuitState.HALF_OPEN if now >= self._open_until else CircuitState.OPEN

    def admit(self, now: float) -> bool:
        """Whether a request may be sent; while half-open, the admitted request is the probe."""
        if self.closed:
            return True
        if now < self._open_until or now < self._probe_until:
            return False
        self._probe_until = now + PROBE_TIMEOUT_SECONDS
        return True

    def seconds_until_retry(self, now: float) -> float:
        """Return the seconds until the circuit is half-open, at least 1."""
        return max(1.0, self._open_until - now)

    def record_success(self) -> None:
        """Count a response; closes the circuit."""
        self.successes += 1
        if not self.closed:
            self.closed = True
            self._probe_until = 0.0
            self._open_seconds = INITIAL_OPEN_SECONDS
            self._successes = [0] * WINDOW_SLOTS
            self._failures = [0] * WINDOW_SLOTS

    def record_failure(self, now: float, probe: bool = False) -> None:
        """Count a request without a response.

        :param probe: whether the request was the probe.
        """
        if not self.closed:
            if probe:
                self._probe_until = 0.0
                self._open_seconds = min(2 * self._open_seconds, MAX_OPEN_SECONDS)
                self._open(now)
            return  # another request was in flight when the circuit opened
        self.advance(now)
        self._failures[self._slot % WINDOW_SLOTS] += 1
        failures = sum(self._failures)
        outcomes = failures + sum(self._successes)
        if self._share and outcomes >= MIN_REQUESTS and failures >= self._share * outcomes:
            self._open(now)

    def trip(self, now: float) -> None:
        """Open a closed circuit, whatever the counts are."""
        if self.closed and self._share:
            self._open(now)

    def release_probe(self) -> None:
        """Allow another probe: the client cancelled the request that was the probe."""
        self._probe_until = 0.0

    def advance(self, now: float) -> None:
        """Empty the slots that have left the window; add :attr:`successes` to the current slot."""
        slot = int(now * WINDOW_SLOTS / WINDOW_SECONDS)
        passed = min(slot - self._slot, WINDOW_SLOTS)
        for number in range(passed):
            self._successes[(slot - number) % WINDOW_SLOTS] = 0
            self._failures[(slot - number) % WINDOW_SLOTS] = 0
        self._slot = max(slot, self._slot)
        if self.successes:
            self.last_success_at = now
            self._successes[self._slot % WINDOW_SLOTS] += self.successes
            self.successes = 0

    def _open(self, now: float) -> None:
        self.closed = False
        self.times_opened += 1
        self._open_until = now + self._open_seconds
