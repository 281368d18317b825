"""Find the client's address, and take a token from its bucket.

The arithmetic is in :mod:`goproxyai.limits.token_buckets`, the ticks that refill the buckets are in
:mod:`goproxyai.state.refilled_buckets`. A worker leases tokens instead
(:mod:`goproxyai.state.leased_limiter`).
"""

from __future__ import annotations

from collections.abc import Callable, Sized

from twisted.internet.interfaces import IReactorTime

from goproxyai.http11.exchange import Exchange
from goproxyai.limits.addresses import TrustedProxies, bucket_key, client_address
from goproxyai.proxy.proxy_warning import warn_if_untrusted
from goproxyai.state.refilled_buckets import RefilledBuckets
from goproxyai.state.shared_state import RateLimiter, TokensLeft


class Admission:
    """Finds the client of each request, and limits its rate.

    :param per_minute: tokens per minute and client; 0 turns the limit off.
    :param trusted: peers whose ``X-Forwarded-For`` is believed.
    :param limiter: ``None``: the buckets of this process.
    :ivar seconds: the reactor's clock.
    :param may_refuse_all: whether the limiter may refuse requests although there is no limit.
    """

    def __init__(
        self,
        clock: IReactorTime,
        per_minute: int,
        trusted: TrustedProxies,
        limiter: RateLimiter | None = None,
        may_refuse_all: bool = False,
    ) -> None:
        self.per_minute = per_minute
        self.seconds = clock.seconds
        self._limiter = RefilledBuckets(clock, per_minute) if limiter is None else limiter
        self._take = self._limiter.take
        self._trusted = trusted
        self._warned = False
        self._may_refuse_all = may_refuse_all

    @property
    def buckets(self) -> Sized:
        """The clients that have a token bucket, or tokens."""
        return self._limiter.buckets

    def set_rate(self, per_minute: int) -> None:
        """Change the rate of every client; 0 turns the limit off."""
        self.per_minute = per_minute
        self._limiter.set_rate(per_minute)

    def start(self) -> None:
        """Start the limiter's timers."""
        self._limiter.start()

    def stop(self) -> None:
        """Stop the limiter's timers."""
        self._limiter.stop()

    def trust(self, trusted: TrustedProxies) -> None:
        """Change the peers whose ``X-Forwarded-For`` is believed."""
        self._trusted = trusted

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
        """Take a token.

        :returns: 0.0, or the seconds until *client* has a token again, or
            :data:`~goproxyai.state.leases.UNDECIDED`, which is negative: see :meth:`when_decided`.
        """
        if not self.per_minute and not self._may_refuse_all:
            return 0.0
        return self._take(bucket_key(client))

    def tokens(self, client: str) -> TokensLeft | None:
        """Return the tokens of *client*, without taking one; ``None`` without a limit."""
        return self._limiter.tokens(bucket_key(client)) if self.per_minute else None

    def when_decided(self, client: str, then: Callable[[float], None]) -> None:
        """Call *then* with the decision about a request that is undecided: 0.0 or the seconds.

        A negative decision refuses the request, because the limit cannot be known.
        """
        self._limiter.when_decided(bucket_key(client), then)
