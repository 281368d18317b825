"""The circuit breaker of one upstream.

=========  ===============================  ====================================================
state      a request                        next state
=========  ===============================  ====================================================
closed     is sent                          open, if the requests or the health probes fail as
                                            below
open       is refused                       half-open, after the open time
half-open  is refused, except for the       closed, after a success of any request or health
           trial, and for one streamed      probe; open again, after a failure of the trial, for
           request a second                 twice the time (at most :data:`MAX_OPEN_SECONDS`)
=========  ===============================  ====================================================

A failure is a request without a response, because of the upstream or the way to it. A response of
any status is a success. A request that the client cancels and a local error, such as a lack of
descriptors, have no outcome.

One client must not open the circuit for the others. A closed circuit opens under these conditions:

======================================  =======================================================
other requests                          the circuit opens
======================================  =======================================================
one was answered within                 if the window of :data:`.WINDOW_SECONDS` without the
:data:`QUIET_SECONDS`                   failures of the client that has the most has at least
                                        :data:`MIN_REQUESTS` outcomes, and the configured share
                                        of them are failures
none was answered in that time          if the window has at least :data:`MIN_REQUESTS`
                                        failures, of one client or of many
none was answered within                after :data:`MAX_PROBE_FAILURES` failed health probes in
:data:`PROBE_QUIET_SECONDS`             a row, too
======================================  =======================================================

The trial of a half-open circuit is a request whose body is complete, so that no client can delay
its outcome, or a health probe. Another trial is admitted if the trial is released, or has no
outcome within :data:`TRIAL_TIMEOUT_SECONDS`. The client whose trial failed may send the next one
only :data:`OTHERS_FIRST_SECONDS` after the other clients. A streamed request is never the trial:
its success closes the circuit, and its failure has no effect.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final

from goproxyai.upstream.outcome_window import OutcomeWindow

MIN_REQUESTS: Final = 20
"""Outcomes in the window without which requests do not open the circuit."""

QUIET_SECONDS: Final = 10.0
"""Time without a response after which the failures of a single client open the circuit."""

PROBE_QUIET_SECONDS: Final = 30.0
"""Time without a response after which failed health probes open the circuit.

It is longer than most completions take: slow probes say little while completions arrive.
"""

MAX_PROBE_FAILURES: Final = 3
"""Failed health probes in a row that open the circuit of an upstream that answers no request."""

INITIAL_OPEN_SECONDS: Final = 5.0
"""Open time after the circuit was closed."""

MAX_OPEN_SECONDS: Final = 60.0

TRIAL_TIMEOUT_SECONDS: Final = 10.0
"""Time after which a trial without an outcome is replaced by another."""

OTHERS_FIRST_SECONDS: Final = 2.0
"""Time of a half-open circuit in which the client whose trial failed last is refused."""

STREAMED_INTERVAL_SECONDS: Final = 1.0
"""Between two streamed requests while half-open."""


class CircuitState(Enum):
    """The states of the first table."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Counts outcomes, and decides by them which requests are sent.

    The hot path reads :attr:`closed` and increments :attr:`successes` instead of calling
    :meth:`record_success`. :meth:`advance`, called once a second, moves these successes into the
    window.

    :param share: the share of failures, from 0 to 1, that opens the circuit; 0 never opens it.
    :ivar closed: whether the state is closed.
    :ivar successes: responses since the last :meth:`advance`.
    :ivar last_success_at: monotonic seconds of the last :meth:`advance` with successes, or of the
        health probe that closed the circuit.
    :ivar times_opened: how often the circuit opened.
    """

    __slots__ = (
        "_failed_client", "_open_seconds", "_open_until", "_probe_failures", "_share",
        "_streamed_until", "_trial_until", "_window", "closed", "last_success_at", "successes",
        "times_opened",
    )  # fmt: skip

    def __init__(self, share: float) -> None:
        self._share = share
        self._window = OutcomeWindow()
        self._open_until = 0.0
        self._open_seconds = INITIAL_OPEN_SECONDS
        self._trial_until = 0.0
        self._streamed_until = 0.0
        self._failed_client: str | None = None
        self._probe_failures = 0
        self.closed = True
        self.successes = 0
        self.times_opened = 0
        self.last_success_at = -inf

    def state(self, now: float) -> CircuitState:
        """Return the state."""
        if self.closed:
            return CircuitState.CLOSED
        return CircuitState.HALF_OPEN if now >= self._open_until else CircuitState.OPEN

    def admit(self, now: float, client: str, complete: bool) -> bool:
        """Return whether a request may be sent.

        While half-open, an admitted request is the trial if its body is complete.

        :param client: the key of the client, as for the rate limit.
        :param complete: whether the request's body has been received, or there is none.
        """
        if self.closed:
            return True
        if now < self._open_until:
            return False
        if not complete:
            admitted = now >= self._streamed_until
            if admitted:
                self._streamed_until = now + STREAMED_INTERVAL_SECONDS
            return admitted
        if now < self._trial_until:
            return False
        if client == self._failed_client and now < self._open_until + OTHERS_FIRST_SECONDS:
            return False
        self._trial_until = now + TRIAL_TIMEOUT_SECONDS
        return True

    def seconds_until_retry(self, now: float) -> float:
        """Return the seconds until the circuit is half-open, at least 1."""
        return max(1.0, self._open_until - now)

    def record_success(self) -> None:
        """Count a response; closes the circuit."""
        self.successes += 1
        if not self.closed:
            self._close()

    def record_failure(self, now: float, client: str, trial: bool = False) -> None:
        """Count a request without a response.

        :param client: as in :meth:`admit`.
        :param trial: whether the request was the trial.
        """
        if not self.closed:
            if trial:
                self._failed_client = client
                self._open_again(now)
            return  # another request was in flight when the circuit opened
        self.advance(now)
        self._window.add_failure(client)
        if self._share and self._has_failed(now):
            self._open(now)

    def record_probe(self, now: float, succeeded: bool) -> None:
        """Count a health probe, which is the trial of a half-open circuit unless there is one."""
        if succeeded:
            self._probe_failures = 0
            if not self.closed:
                self._close()
                self.last_success_at = now
            return
        self._probe_failures += 1
        if not self.closed:
            if now >= self._open_until and now >= self._trial_until:
                self._open_again(now)
            return
        self.advance(now)
        if (
            self._share
            and self._probe_failures >= MAX_PROBE_FAILURES
            and now - self.last_success_at >= PROBE_QUIET_SECONDS
        ):
            self._open(now)

    def release_trial(self) -> None:
        """Admit another trial: the request that was the trial has ended without an outcome."""
        self._trial_until = 0.0

    def advance(self, now: float) -> None:
        """Move the window on to *now*, and add :attr:`successes` to it."""
        self._window.advance(now)
        if self.successes:
            self.last_success_at = now
            self._window.add_successes(self.successes)
            self.successes = 0

    def _has_failed(self, now: float) -> bool:
        """Return whether the failures of the window open the circuit."""
        outcomes = self._window.outcomes()
        failures = outcomes.failures
        if now - self.last_success_at < QUIET_SECONDS:
            failures -= outcomes.most_of_one
        total = failures + outcomes.successes
        return total >= MIN_REQUESTS and failures >= self._share * total

    def _open(self, now: float) -> None:
        self.closed = False
        self.times_opened += 1
        self._open_until = now + self._open_seconds

    def _open_again(self, now: float) -> None:
        self._trial_until = 0.0
        self._open_seconds = min(2 * self._open_seconds, MAX_OPEN_SECONDS)
        self._open(now)

    def _close(self) -> None:
        self.closed = True
        self._trial_until = self._streamed_until = 0.0
        self._failed_client = None
        self._open_seconds = INITIAL_OPEN_SECONDS
        self._window.clear()
