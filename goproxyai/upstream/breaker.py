"""The circuit breaker before one upstream: whoever asks it in vain is told so at once.

========== ======================================== ===========================================
state      a request                                goes over to
========== ======================================== ===========================================
closed     goes on                                  open, when in the last :data:`WINDOW_SECONDS` there
                                                    were :data:`MIN_REQUESTS` outcomes or more, of
                                                    which the share that opens it were failures
open       is refused                               half-open, when :meth:`CircuitBreaker.seconds_until_retry` is over
half-open  is refused, but for one: the probe       closed, when an answer comes; open, and for
                                                    twice as long (at most :data:`MAX_OPEN_SECONDS`),
                                                    when the probe fails; another may probe
                                                    when the probe is taken back, or was not
                                                    heard of for :data:`PROBE_TIMEOUT_SECONDS`
========== ======================================== ===========================================

A failure is a request that got no answer for a reason of upstream's, or of the way to it. Answers
are none, whatever their status: who answers is there. What a client takes back is no outcome.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

WINDOW_SECONDS: Final = 10.0
"""Seconds of outcomes that count."""

WINDOW_SLOTS: Final = 10
"""Into which they are divided: outcomes leave the window a slot at a time."""

MIN_REQUESTS: Final = 20
"""Outcomes without which nothing is judged."""

INITIAL_OPEN_SECONDS: Final = 5.0
"""Seconds for which it is open, the first time."""

MAX_OPEN_SECONDS: Final = 60.0
"""Seconds for which it is open, at most."""

PROBE_TIMEOUT_SECONDS: Final = 10.0
"""Seconds after which a probe that was not heard of is followed by another."""


class CircuitState(Enum):
    """See the table."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Counts outcomes and decides; time comes in as ``now``, monotonic seconds.

    Its memory is fixed: two counts a slot.

    Answers are counted by ``successes += 1`` while it is closed, which is all that the hot path
    does; :meth:`advance`, called once a second, puts them where they belong.

    :param share: of failures, above 0 and up to 1, at which it opens; 0: it never does.
    :ivar closed: whether requests go on, as the hot path asks it.
    :ivar successes: answers since the last turn.
    :ivar last_success_at: when there were any, to a turn.
    :ivar times_opened: how often it opened.
    """

    __slots__ = (
        "_failures",
        "_opens_for",
        "_probing_until",
        "_share",
        "_slot",
        "_successes",
        "_until",
        "closed",
        "last_success_at",
        "successes",
        "times_opened",
    )  # fmt: skip

    def __init__(self, share: float) -> None:
        self._share = share
        self._successes = [0] * WINDOW_SLOTS
        self._failures = [0] * WINDOW_SLOTS
        self._slot = 0
        self._until = 0.0
        self._opens_for = INITIAL_OPEN_SECONDS
        self._probing_until = 0.0
        self.closed = True
        self.successes = 0
        self.times_opened = 0
        self.last_success_at = -1.0

    def state(self, now: float) -> CircuitState:
        """Where it stands."""
        if self.closed:
            return CircuitState.CLOSED
        return CircuitState.HALF_OPEN if now >= self._until else CircuitState.OPEN

    def admit(self, now: float) -> bool:
        """Whether a request may go on; the one that may while it is half-open is the probe."""
        if self.closed:
            return True
        if now < self._until or now < self._probing_until:
            return False
        self._probing_until = now + PROBE_TIMEOUT_SECONDS
        return True

    def seconds_until_retry(self, now: float) -> float:
        """Seconds until it is worth while to try again; at least one."""
        return max(1.0, self._until - now)

    def record_success(self) -> None:
        """An answer came: whoever answers is there."""
        self.successes += 1
        if not self.closed:
            self.closed = True
            self._probing_until = 0.0
            self._opens_for = INITIAL_OPEN_SECONDS
            self._successes = [0] * WINDOW_SLOTS
            self._failures = [0] * WINDOW_SLOTS

    def record_failure(self, now: float, probe: bool = False) -> None:
        """None came, and will not.

        :param probe: whether the request was let through while it was half-open.
        """
        if not self.closed:
            if probe:
                self._probing_until = 0.0
                self._opens_for = min(2 * self._opens_for, MAX_OPEN_SECONDS)
                self._open(now)
            return  # else it was under way when it opened
        self.advance(now)
        self._failures[self._slot % WINDOW_SLOTS] += 1
        failures = sum(self._failures)
        outcomes = failures + sum(self._successes)
        if self._share and outcomes >= MIN_REQUESTS and failures >= self._share * outcomes:
            self._open(now)

    def trip(self, now: float) -> None:
        """Open it, whatever was counted."""
        if self.closed and self._share:
            self._open(now)

    def release_probe(self) -> None:
        """The client took the probe back: another may be."""
        self._probing_until = 0.0

    def advance(self, now: float) -> None:
        """Let time pass: slots that have left the window are emptied."""
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
        self._until = now + self._opens_for
