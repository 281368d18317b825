"""Step one: who is the client, and has it a token left?

The buckets are policy (:mod:`goproxyai.limits.token_buckets`); here they meet the reactor: one
``callLater`` a tick mints for all of them, and full ones are swept out in slices.
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from goproxyai.http11.exchange import Exchange
from goproxyai.limits.addresses import Networks, bucket_name, client_address
from goproxyai.limits.token_buckets import TokenBuckets

TICK = 0.1
"""Seconds between two mintings."""

SWEEP_SECONDS = 60.0
"""Between two sweeps of full buckets."""

SWEEP_SLICE = 5_000
"""Buckets looked at in one turn of the reactor, about a millisecond."""


class Admission:
    """Names clients and holds each to its rate.

    :param per_minute: tokens a minute and client; 0 turns the limit off.
    """

    def __init__(self, clock: IReactorTime, per_minute: int, trusted: Networks) -> None:
        self.per_minute = per_minute
        self.buckets = TokenBuckets(max(per_minute, 1), TICK)  # unused where there is no limit
        self._trusted = trusted
        self._clock = clock
        self._tick: IDelayedCall | None = None
        self._due = 0.0
        self._last = 0.0
        self._next_sweep = 0.0
        self._sweeping = False
        self._started = False

    def limit(self, per_minute: int) -> None:
        """Hold each client to another rate from now on, or to none.

        Where there is no limit any more, buckets are refilled as before until all are full and
        dropped, in slices.
        """
        self.per_minute = per_minute
        if per_minute:
            self.buckets.limit(per_minute)
            if self._started and self._tick is None:
                self._begin()

    def trust(self, trusted: Networks) -> None:
        """Believe the ``X-Forwarded-For`` of other peers from now on."""
        self._trusted = trusted

    def start(self) -> None:
        """Begin to refill."""
        self._started = True
        if self.per_minute:
            self._begin()

    def _begin(self) -> None:
        self._last = self._clock.seconds()
        self._next_sweep = self._last + SWEEP_SECONDS
        self._tick = self._clock.callLater(TICK, self._mint)

    def stop(self) -> None:
        """No more refills."""
        if self._tick is not None and self._tick.active():
            self._tick.cancel()
        self._tick = None
        self._started = False

    def _mint(self) -> None:
        now = self._clock.seconds()
        self.buckets.mint(now - self._last)
        self._last = now
        if not (self.per_minute or self.buckets):
            self._tick = None
            return
        self._tick = self._clock.callLater(TICK, self._mint)
        if self._sweeping or now >= self._next_sweep:
            self._sweeping = self.buckets.sweep(SWEEP_SLICE)
            self._next_sweep = now + SWEEP_SECONDS

    def client(self, exchange: Exchange) -> str:
        """The client's address, as contract and configuration have it."""
        forwarded_for = exchange.get(b"x-forwarded-for")
        if forwarded_for is None:
            return exchange.connection.peer
        return client_address(exchange.connection.peer, forwarded_for, self._trusted)

    def wait(self, client: str) -> float:
        """Take a token for *client*: 0, or the seconds until there is one again."""
        if not self.per_minute:
            return 0.0
        return self.buckets.take(bucket_name(client))
