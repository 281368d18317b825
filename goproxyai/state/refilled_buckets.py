"""Token buckets that are refilled by ``callLater`` ticks; full ones are dropped in slices."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from goproxyai.limits.token_buckets import TokenBuckets
from goproxyai.state.shared_state import TokensLeft

TICK_SECONDS = 0.1
"""Between two refills."""

SWEEP_INTERVAL_SECONDS = 60.0
"""Between two sweeps of full buckets."""

SWEEP_SLICE = 5_000
"""Buckets that a sweep visits in one reactor turn, which takes about a millisecond."""


class RefilledBuckets:
    """Token buckets of this process: a :class:`~.shared_state.RateLimiter`.

    :param per_minute: tokens per minute and client; 0 turns the limit off.
    """

    def __init__(self, clock: IReactorTime, per_minute: int) -> None:
        self.buckets = TokenBuckets(max(per_minute, 1), TICK_SECONDS)  # unused without a limit
        self.take = self.buckets.take
        self._per_minute = per_minute
        self._clock = clock
        self._tick: IDelayedCall | None = None
        self._last_refill = 0.0
        self._next_sweep = 0.0
        self._sweeping = False
        self._started = False

    def tokens(self, client: str) -> TokensLeft:
        """Return the tokens of a client; see :class:`~.shared_state.RateLimiter`."""
        return TokensLeft(self.buckets.available(client), True)

    def when_decided(self, client: str, then: Callable[[float], None]) -> None:
        """Decide at once."""
        then(self.take(client))

    def set_rate(self, per_minute: int) -> None:
        """Change the rate of every client; 0 turns the limit off.

        Without a limit the buckets are refilled as before until all are full and dropped.
        """
        self._per_minute = per_minute
        if per_minute:
            self.buckets.set_rate(per_minute)
            if self._started and self._tick is None:
                self._start_ticking()

    def start(self) -> None:
        """Start refilling."""
        self._started = True
        if self._per_minute:
            self._start_ticking()

    def stop(self) -> None:
        """Stop refilling."""
        if self._tick is not None and self._tick.active():
            self._tick.cancel()
        self._tick = None
        self._started = False

    def _start_ticking(self) -> None:
        self._last_refill = self._clock.seconds()
        self._next_sweep = self._last_refill + SWEEP_INTERVAL_SECONDS
        self._tick = self._clock.callLater(TICK_SECONDS, self._refill)

    def _refill(self) -> None:
        now = self._clock.seconds()
        self.buckets.refill(now - self._last_refill)
        self._last_refill = now
        if not (self._per_minute or self.buckets):
            self._tick = None
            return
        self._tick = self._clock.callLater(TICK_SECONDS, self._refill)
        if self._sweeping or now >= self._next_sweep:
            self._sweeping = self.buckets.remove_full(SWEEP_SLICE)
            self._next_sweep = now + SWEEP_INTERVAL_SECONDS
