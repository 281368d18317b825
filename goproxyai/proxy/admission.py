"""Find the client's address, and take a token from its bucket.

The arithmetic is in :mod:`goproxyai.limits.token_buckets`. Here one ``callLater`` tick refills all
buckets, and full ones are dropped in slices.
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from goproxyai.http11.exchange import Exchange
from goproxyai.limits.addresses import TrustedProxies, bucket_key, client_address
from goproxyai.limits.token_buckets import TokenBuckets
from goproxyai.proxy.proxy_warning import warn_if_untrusted

TICK_SECONDS = 0.1
"""Between two refills."""

SWEEP_INTERVAL_SECONDS = 60.0
"""Between two sweeps of full buckets."""

SWEEP_SLICE = 5_000
"""Buckets that a sweep visits in one reactor turn, which takes about a millisecond."""


class Admission:
    """Finds the client of each request, and limits its rate.

    :param per_minute: tokens per minute and client; 0 turns the limit off.
    :param trusted: peers whose ``X-Forwarded-For`` is believed.
    """

    def __init__(self, clock: IReactorTime, per_minute: int, trusted: TrustedProxies) -> None:
        self.per_minute = per_minute
        self.buckets = TokenBuckets(max(per_minute, 1), TICK_SECONDS)  # unused without a limit
        self._trusted = trusted
        self._warned = False
        self._clock = clock
        self._tick: IDelayedCall | None = None
        self._last_refill = 0.0
        self._next_sweep = 0.0
        self._sweeping = False
        self._started = False

    def set_rate(self, per_minute: int) -> None:
        """Change the rate of every client; 0 turns the limit off.

        Without a limit the buckets are refilled as before until all are full and dropped.
        """
        self.per_minute = per_minute
        if per_minute:
            self.buckets.set_rate(per_minute)
            if self._started and self._tick is None:
                self._start_ticking()

    def trust(self, trusted: TrustedProxies) -> None:
        """Change the peers whose ``X-Forwarded-For`` is believed."""
        self._trusted = trusted

    def start(self) -> None:
        """Start refilling."""
        self._started = True
        if self.per_minute:
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
        if not (self.per_minute or self.buckets):
            self._tick = None
            return
        self._tick = self._clock.callLater(TICK_SECONDS, self._refill)
        if self._sweeping or now >= self._next_sweep:
            self._sweeping = self.buckets.remove_full(SWEEP_SLICE)
            self._next_sweep = now + SWEEP_INTERVAL_SECONDS

    def client(self, exchange: Exchange) -> str:
        """Return the client's address: the peer's, or the one that a trusted peer forwards."""
        if b"x-forwarded-for" not in exchange.head.fields:
            return exchange.connection.peer
        peer, forwarded_for = exchange.connection.peer, exchange.get(b"x-forwarded-for")
        client = client_address(peer, forwarded_for, self._trusted)
        if client == peer and not self._warned:
            self._warned = warn_if_untrusted(peer, self._trusted)
        return client

    def take_token(self, client: str) -> float:
        """Take a token; returns 0.0, or the seconds until *client* has a token again."""
        if not self.per_minute:
            return 0.0
        return self.buckets.take(bucket_key(client))
