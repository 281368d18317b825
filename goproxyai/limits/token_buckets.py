"""Token buckets: the rate limit of each client.

The bucket of a client holds *depth* tokens at most, starts full and gains *rate* tokens per second.
A request takes one token. Refilling a million buckets ten times a second one by one would take too
long, so that

1. one number, ``_refilled``, counts the tokens that a bucket without a depth would have gained;
2. a bucket is one number, its *offset*: it holds ``min(depth, offset + refilled)`` tokens;
3. a refill changes ``_refilled`` only, and the tokens of a bucket are computed when it is used;
4. tokens are counted in integers, :data:`_UNITS_PER_TOKEN` to a token. No rounding accumulates, and
   a client that waits as long as it was told is admitted.

The buckets are in the order of their last use. A bucket that was not used for ``depth / rate``
seconds is full, which is equal to no bucket, and may be removed: these are at the front.
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil

_NANOSECONDS = 1_000_000_000

_UNITS_PER_TOKEN = 60 * _NANOSECONDS
"""A bucket of one token per minute gains one unit per nanosecond."""

_MAX_TICK_SECONDS = 1.0
"""A longer time between two refills means that the clock has jumped."""


class TokenBuckets:
    """The token buckets of all clients.

    :param per_minute: the depth in tokens, and the rate in tokens per minute; at least 1.
    :param tick: seconds between two calls of :meth:`refill`.
    :param max_clients: the number of buckets; another one replaces the least recently used.
    :raises ValueError: if a parameter is out of range.
    """

    __slots__ = (
        "_depth",
        "_max_clients",
        "_offsets",
        "_per_minute",
        "_per_tick",
        "_refilled",
        "_tick",
    )

    def __init__(self, per_minute: int, tick: float = 0.1, max_clients: int = 1_000_000) -> None:
        if per_minute < 1 or max_clients < 1 or not 0 < tick <= _MAX_TICK_SECONDS:
            raise ValueError("per_minute, max_clients or tick is out of range")
        self._depth = per_minute * _UNITS_PER_TOKEN
        self._per_minute = per_minute
        self._tick = tick
        self._per_tick = per_minute * max(1, round(tick * _NANOSECONDS))
        self._max_clients = max_clients
        self._refilled = 0
        # An OrderedDict: finding the first item of a dict is slow after removals at its front.
        self._offsets: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._offsets)

    def set_rate(self, per_minute: int) -> None:
        """Change the depth and rate of all buckets, in constant time.

        A bucket that is not full keeps its tokens, up to the new depth. A full bucket may have been
        removed, and is then as full as a new one.

        :param per_minute: the depth in tokens, and the rate in tokens per minute; at least 1.
        :raises ValueError: if *per_minute* is less than 1.
        """
        if per_minute < 1:
            raise ValueError("per_minute is less than 1")
        self._depth = per_minute * _UNITS_PER_TOKEN
        self._per_minute = per_minute
        self._per_tick = per_minute * max(1, round(self._tick * _NANOSECONDS))

    def refill(self, seconds: float) -> None:
        """Add the tokens of *seconds* to all buckets, in constant time.

        :param seconds: since the last call. Nothing is added if they are negative or more than a
            second: the clock has jumped.
        """
        if 0 <= seconds <= _MAX_TICK_SECONDS:
            self._refilled += round(seconds * _NANOSECONDS) * self._per_minute

    def take(self, client: str) -> float:
        """Take a token from the bucket of *client*.

        :returns: 0.0 if a token was taken; otherwise the seconds from the last refill to the refill
            that adds the missing token.
        """
        offsets = self._offsets
        offset = offsets.get(client)
        if offset is None:
            self._add(client)
            return 0.0
        offsets.move_to_end(client)
        missing = _UNITS_PER_TOKEN - min(offset + self._refilled, self._depth)
        if missing <= 0:
            offsets[client] = -missing - self._refilled
            return 0.0
        return -(-missing // self._per_tick) * self._tick

    def available(self, client: str) -> int:
        """Return the number of whole tokens in the bucket of *client*."""
        return self._units(client) // _UNITS_PER_TOKEN

    def take_many(self, client: str, count: int) -> None:
        """Take *count* tokens, at most as many as are :meth:`available`.

        :raises ValueError: if the bucket holds fewer.
        """
        left = self._units(client) - count * _UNITS_PER_TOKEN
        if left < 0 or count < 1:
            raise ValueError("count is out of range")
        if client not in self._offsets:
            self._add(client)
        self._offsets.move_to_end(client)
        self._offsets[client] = left - self._refilled

    def put_back(self, client: str, count: int) -> None:
        """Give back *count* tokens that were taken; the bucket does not exceed its depth."""
        offset = self._offsets.get(client)
        if offset is not None:  # a bucket that was removed is full
            units = min(offset + self._refilled, self._depth) + count * _UNITS_PER_TOKEN
            self._offsets[client] = min(units, self._depth) - self._refilled

    def wait(self, client: str) -> float:
        """Return the seconds from the last refill to the refill that completes a token."""
        missing = max(0, _UNITS_PER_TOKEN - self._units(client))
        return -(-missing // self._per_tick) * self._tick

    def _units(self, client: str) -> int:
        offset = self._offsets.get(client)
        return self._depth if offset is None else min(offset + self._refilled, self._depth)

    def _add(self, client: str) -> None:
        """Add a full bucket for *client* and take a token from it."""
        self.remove_full(2)  # faster than buckets are added, so that idle ones do not accumulate
        if len(self._offsets) >= self._max_clients:
            self._offsets.popitem(last=False)
        self._offsets[client] = self._depth - _UNITS_PER_TOKEN - self._refilled

    def remove_full(self, budget: int) -> bool:
        """Remove full buckets, the least recently used first.

        :param budget: the number of buckets to check at most.
        :returns: whether there may be more; ``False`` once a bucket is not full.
        """
        offsets = self._offsets
        full = self._depth - self._refilled
        for _ in range(budget):
            if not offsets:
                return False
            client = next(iter(offsets))
            if offsets[client] < full:
                return False
            del offsets[client]
        return bool(offsets)


def rate_limit_headers(per_minute: int, wait_seconds: float) -> list[tuple[bytes, bytes]]:
    """Return the header fields of a 429 response: the wait and the limit.

    ``RateLimit-Policy`` and ``RateLimit`` are defined by draft-ietf-httpapi-ratelimit-headers.
    OpenAI's clients prefer ``retry-after-ms`` to ``Retry-After``.

    :param wait_seconds: returned by :meth:`TokenBuckets.take`.
    """
    milliseconds = max(1, ceil(round(wait_seconds * 1000, 6)))
    seconds = b"%d" % -(-milliseconds // 1000)
    return [
        (b"Retry-After", seconds),
        (b"retry-after-ms", b"%d" % milliseconds),
        (b"RateLimit-Policy", b'"default";q=%d;w=60' % per_minute),
        (b"RateLimit", b'"default";r=0;t=%b' % seconds),
    ]
