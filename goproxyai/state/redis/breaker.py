"""The circuit breaker of the shared state.

=========  ====================================  =================================================
state      commands                              next state
=========  ====================================  =================================================
closed     are sent                              open, after the first failure
open       are not sent                          half-open, after the open time
half-open  are not sent, except for the probe    closed, if the probe succeeds; else open
=========  ====================================  =================================================

A failure is a lost connection, a missing reply, or an error reply that other commands would get as
well, such as that of a full server. One is enough: a request must not wait for Redis twice, and to
be without the shared state for a moment costs little.

The probe is a new connection with a small write. The open time doubles with each failure. It starts
anew after :data:`STABLE_SECONDS` in the closed state, so that a server that answers now and then is
not waited for all the time.

Pure arithmetic: the time is an argument, in seconds of a monotonic clock.
"""

from __future__ import annotations

from typing import Final

from goproxyai.upstream.breaker import CircuitState

INITIAL_OPEN_SECONDS: Final = 0.25
MAX_OPEN_SECONDS: Final = 2.0
STABLE_SECONDS: Final = 10.0


class StateBreaker:
    """Decides when the shared state is used.

    :ivar state: half-open at the start, when nothing is known.
    """

    def __init__(self) -> None:
        self.state = CircuitState.HALF_OPEN
        self._open_seconds = INITIAL_OPEN_SECONDS
        self._closed_at = 0.0

    def attempt(self) -> None:
        """The open time is over: a probe is sent."""
        self.state = CircuitState.HALF_OPEN

    def succeed(self, now: float) -> None:
        """The probe has succeeded."""
        self.state = CircuitState.CLOSED
        self._closed_at = now

    def fail(self, now: float) -> float:
        """A command or the probe has failed.

        :returns: the open time in seconds.
        """
        was_closed = self.state is CircuitState.CLOSED
        if was_closed and now >= self._closed_at + STABLE_SECONDS:
            self._open_seconds = INITIAL_OPEN_SECONDS
        self.state = CircuitState.OPEN
        seconds = self._open_seconds
        self._open_seconds = min(2 * seconds, MAX_OPEN_SECONDS)
        return seconds
