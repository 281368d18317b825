"""Leases of tokens: one rate limit that several processes apply.

The *grantor* owns the token buckets. A *holder* is a process that serves requests. It takes tokens
for a client from the grantor in advance, and admits requests with them.

1. A granted token has left its bucket. A holder that dies, or that is cut off, takes its unused
   tokens with it: the client gets less, never more.
2. For one client a holder has, and has asked for, at most one lease: :func:`lease_size` tokens. In
   any time, a client gets at most what one bucket would give it, and one lease for each holder.
3. An unused token of a holder cannot be used in another. A client without a competitor is refused
   early by at most one lease for each holder. The grantor grants at most an equal share of what is
   left in the bucket, so that little is unused when the bucket is nearly empty.
4. A holder asks ahead of need when a quarter of the lease is left, gives back the tokens of a
   client after :data:`IDLE_SECONDS` without a request, and all tokens when it stops.
5. A refusal holds until the bucket has the next token, so that a refused client costs the grantor
   one question for each token, however many requests the client sends.

Pure arithmetic: the time is an argument, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from goproxyai.limits.token_buckets import TokenBuckets

LEASES_PER_BUCKET: Final = 8
"""The depth of a bucket in leases."""

IDLE_SECONDS: Final = 2.0
"""Time without a request after which the holder gives back the tokens of a client."""

MAX_CLIENTS: Final = 100_000
"""Clients of a holder; for another one, the least recently used client's tokens are given back."""

UNDECIDED: Final = -1.0
"""The decision about a request for which the grantor must be asked."""


def lease_size(per_minute: int) -> int:
    """Return the most tokens that one holder has for one client.

    :param per_minute: depth of the bucket, and tokens per minute.
    """
    return max(1, per_minute // LEASES_PER_BUCKET)


class Grant(NamedTuple):
    """The answer of the grantor.

    :ivar tokens: that were granted; 0 for a refusal.
    :ivar wait: seconds until the bucket has a token again, if none was granted.
    """

    tokens: int
    wait: float


class Grantor:
    """Grants tokens of the buckets to holders.

    :param holders: number of processes that share a bucket.
    """

    def __init__(self, buckets: TokenBuckets, holders: int) -> None:
        self._buckets = buckets
        self._holders = holders

    def grant(self, client: str, wanted: int, lease: int) -> Grant:
        """Take at most *wanted* tokens from the bucket of *client*.

        :param lease: the :func:`lease_size`, which the grant does not exceed.
        """
        buckets = self._buckets
        available = buckets.available(client)
        tokens = min(wanted, lease, max(1, available // self._holders), available)
        if tokens < 1:
            return Grant(0, buckets.wait(client))
        buckets.take_many(client, tokens)
        return Grant(tokens, 0.0)

    def put_back(self, client: str, tokens: int, lease: int) -> None:
        """Take back unused tokens, at most a lease."""
        if tokens > 0:
            self._buckets.put_back(client, min(tokens, lease))


class _Held:
    """What a holder has for one client.

    :ivar tokens: unused. :ivar asked: whether an answer of the grantor is due.
    :ivar used_at: time of the last request.
    :ivar refused_until: time until which requests are refused.
    """

    __slots__ = ("asked", "refused_until", "tokens", "used_at")

    def __init__(self) -> None:
        self.tokens = 0
        self.asked = False
        self.used_at = 0.0
        self.refused_until = 0.0


class LeaseHolder:
    """The tokens of one process.

    :param per_minute: depth of the buckets, and tokens per minute; at least 1.
    """

    def __init__(self, per_minute: int) -> None:
        self._clients: OrderedDict[str, _Held] = OrderedDict()
        self._lease = lease_size(per_minute)
        self._given_back: list[tuple[str, int]] = []

    def __len__(self) -> int:
        """The number of clients."""
        return len(self._clients)

    def held(self, client: str) -> int:
        """Return the tokens of *client*."""
        found = self._clients.get(client)
        return 0 if found is None else found.tokens

    def set_rate(self, per_minute: int) -> None:
        """Change the rate; tokens beyond the new lease are given back."""
        self._lease = lease_size(per_minute)
        for client, held in self._clients.items():
            excess = held.tokens - self._lease
            held.refused_until = 0.0
            if excess > 0:
                held.tokens -= excess
                self._given_back.append((client, excess))

    def take(self, client: str, now: float) -> float:
        """Take a token for a request.

        :returns: 0.0 if a token was taken; the seconds to wait if the request is refused;
            :data:`UNDECIDED` if the grantor must decide.
        """
        held = self._clients.get(client)
        if held is None:
            held = self._add(client)
        else:
            self._clients.move_to_end(client)
        held.used_at = now
        if held.tokens:
            held.tokens -= 1
            return 0.0
        return held.refused_until - now if now < held.refused_until else UNDECIDED

    def wanted(self, client: str, now: float, waiting: bool) -> int:
        """Return the number of tokens to ask the grantor for now, 0 for none; notes the question.

        :param waiting: whether a request waits for the answer.
        """
        held = self._clients.get(client)
        if held is None or held.asked or now < held.refused_until:
            return 0
        if not waiting and not 0 < held.tokens <= self._lease // 4:
            return 0
        held.asked = True
        return self._lease - held.tokens

    def granted(self, client: str, grant: Grant, now: float) -> None:
        """Note the answer of the grantor."""
        held = self._clients.get(client)
        if held is None:  # it was dropped for another client
            self._give_back(client, grant.tokens)
            return
        held.asked = False
        kept = min(grant.tokens, self._lease - held.tokens)
        held.tokens += kept
        self._give_back(client, grant.tokens - kept)
        held.refused_until = now + grant.wait if not grant.tokens else 0.0

    def unanswered(self, client: str, now: float, wait: float) -> None:
        """Note that the grantor did not answer: requests are refused for *wait* seconds.

        A late answer still counts.
        """
        held = self._clients.get(client)
        if held is not None:
            held.asked = False
            held.refused_until = now + wait

    def drop_idle(self, now: float, budget: int) -> None:
        """Give back the tokens of idle clients, and forget the clients; at most *budget*."""
        for _ in range(budget):
            client = next(iter(self._clients), None)
            if client is None or now < self._clients[client].used_at + IDLE_SECONDS:
                return
            self._drop(client)

    def drop_all(self) -> None:
        """Give back all tokens."""
        while self._clients:
            self._drop(next(iter(self._clients)))

    def forget_all(self) -> None:
        """Forget all tokens, without giving them back: the grantor is lost."""
        self._clients.clear()
        self._given_back.clear()

    def given_back(self) -> list[tuple[str, int]]:
        """Return the tokens to be given back since the last call, by client."""
        given, self._given_back = self._given_back, []
        return given

    def _add(self, client: str) -> _Held:
        if len(self._clients) >= MAX_CLIENTS:
            self._drop(next(iter(self._clients)))
        held = self._clients[client] = _Held()
        return held

    def _drop(self, client: str) -> None:
        self._give_back(client, self._clients.pop(client).tokens)

    def _give_back(self, client: str, tokens: int) -> None:
        if tokens > 0:
            self._given_back.append((client, tokens))
