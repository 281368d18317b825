"""The rate limit with tokens leased from Redis, and a fallback while Redis is away.

The buckets are in Redis, see :data:`.scripts.LEASE`. A request for which this process has no token
waits for Redis, at most :data:`.client.REQUEST_SECONDS` for all of its questions together. A
request without an answer, and all requests while the shared state is away, are decided by the
fallback: the token buckets of this process, or for a worker those of its parent. With
``STATE_STRICT`` they are refused instead, which a decision of
:data:`~goproxyai.state.leases.UNDECIDED` stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sized

from twisted.internet.interfaces import IReactorTime

from goproxyai.state.leased_limiter import LatePolicy, LeasedLimiter, Then
from goproxyai.state.leases import UNDECIDED, Grant, lease_size
from goproxyai.state.redis.client import REQUEST_SECONDS, RedisClient
from goproxyai.state.redis.connection import Reply
from goproxyai.state.redis.lanes import Lane
from goproxyai.state.redis.names import Names
from goproxyai.state.redis.scripts import LEASE, PUT_BACK
from goproxyai.state.shared_state import RateLimiter, TokensLeft

KIND = b"limit"
"""Of the names of buckets."""

MAX_BUCKETS = 200
"""Buckets to which one command gives tokens back."""


class RedisLimiter:
    """Limits the rate of each client: a :class:`~goproxyai.state.shared_state.RateLimiter`.

    :param per_minute: tokens per minute and client; 0 turns the limit off.
    :param fallback: decides while the shared state is away; ``None``: requests are refused.
    """

    def __init__(
        self,
        clock: IReactorTime,
        per_minute: int,
        client: RedisClient,
        names: Names,
        fallback: RateLimiter | None,
    ) -> None:
        self._seconds = clock.seconds
        self._per_minute = per_minute
        self._client = client
        self._names = names
        self._fallback = fallback
        late = LatePolicy(REQUEST_SECONDS, 0.0, self._decide_without)
        self._leased = LeasedLimiter(clock, per_minute, self._ask, self._put_back, late)

    @property
    def buckets(self) -> Sized:
        """The clients that have tokens, or a token bucket of the fallback."""
        if self._client.up or self._fallback is None:
            return self._leased.buckets
        return self._fallback.buckets

    @property
    def lease(self) -> int:
        """Tokens that this process leases at most for one client; 0 without a limit."""
        return lease_size(self._per_minute) if self._per_minute else 0

    def start(self) -> None:
        self._leased.start()
        if self._fallback is not None:
            self._fallback.start()

    def stop(self) -> None:
        """Give back all tokens."""
        self._leased.stop()
        if self._fallback is not None:
            self._fallback.stop()

    def set_rate(self, per_minute: int) -> None:
        """Change the rate; 0 turns the limit off."""
        self._leased.set_rate(per_minute)  # tokens are given back at the rate of their lease
        self._per_minute = per_minute
        if self._fallback is not None:
            self._fallback.set_rate(per_minute)

    def take(self, client: str) -> float:
        """Take a token; see :class:`~goproxyai.state.shared_state.RateLimiter`."""
        if self._client.up:
            return self._leased.take(client) if self._per_minute else 0.0
        return UNDECIDED if self._fallback is None else self._fallback.take(client)

    def tokens(self, client: str) -> TokensLeft:
        """Return the tokens of a client here; see :class:`.RateLimiter`."""
        if self._client.up or self._fallback is None:
            return self._leased.tokens(client)
        return self._fallback.tokens(client)

    def when_decided(self, client: str, then: Then) -> None:
        """Call *then* with the decision: 0.0, seconds, or :data:`UNDECIDED` for a refusal."""
        if not self._client.up:
            self._decide_without(client, then)
            return
        began = self._seconds()

        def decided(decision: float) -> None:
            self._client.count_wait("lease", self._seconds() - began)
            then(decision)

        self._leased.when_decided(client, decided)

    def lost(self) -> None:
        """The shared state is away."""
        self._leased.grantor_lost()

    def _decide_without(self, client: str, then: Callable[[float], None]) -> None:
        if self._client.up:
            self._client.overdue("lease")
        if self._fallback is None:
            then(UNDECIDED)
            return
        decision = self._fallback.take(client)
        if decision < 0:
            self._fallback.when_decided(client, then)
        else:
            then(decision)

    def _ask(self, client: str, wanted: int) -> None:
        def replied(reply: Reply) -> None:
            if isinstance(reply, list):
                tokens, milliseconds = reply
                self._leased.granted(client, Grant(tokens, milliseconds / 1000))
            else:
                self._leased.not_answered(client)

        keys = (self._names.hashed(KIND, client.encode()),)
        self._client.run(Lane.LIMITS, LEASE, keys, (self._per_minute, wanted), replied)

    def _put_back(self, tokens: list[tuple[str, int]]) -> None:
        for start in range(0, len(tokens), MAX_BUCKETS):
            some = tokens[start : start + MAX_BUCKETS]
            keys = tuple([self._names.hashed(KIND, client.encode()) for client, _ in some])
            arguments = (self._per_minute, *[number for _, number in some])
            self._client.run(Lane.LIMITS, PUT_BACK, keys, arguments, lambda _: None)
