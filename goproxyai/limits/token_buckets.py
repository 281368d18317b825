"""Token buckets: how many requests each client may send.

A client's bucket is *depth* tokens deep, starts full and gains *rate* tokens a second; a request
takes one token. Refilling a million buckets ten times a second would be a million additions; so

1. one number, ``minted``, counts the tokens that a bucket which never overflows would have gained;
2. a bucket is one number, its *offset*: it holds ``min(depth, offset + minted)`` tokens;
3. minting moves the one number only, and a bucket collects its share when it is touched;
4. all of it is counted in whole units, :data:`_TOKEN` to a token: no rounding adds up over months,
   and whoever waits as told is admitted.

Buckets stand in the order of their last touch. One that was not touched for ``depth / rate``
seconds is full, hence equal to none at all, and may be dropped: those stand at the front.
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil

_NANOSECONDS = 1_000_000_000
"""In a second."""

_TOKEN = 60 * _NANOSECONDS
"""Units in a token: a bucket gains one for each nanosecond and each token a minute."""

_LONGEST_STEP = 1.0
"""Seconds between two ticks beyond which the clock has jumped."""


class TokenBuckets:
    """The token buckets of all clients.

    :param per_minute: the depth, and what a bucket gains in a minute; at least 1.
    :param tick: seconds between two calls of :meth:`refill`.
    :param max_clients: how many buckets there may be; one more drops the least recently touched.
    :raises ValueError: where one of them is out of range.
    """

    __slots__ = ("_depth", "_minted", "_most", "_offsets", "_per_minute", "_per_tick", "_tick")

    def __init__(self, per_minute: int, tick: float = 0.1, max_clients: int = 1_000_000) -> None:
        if per_minute < 1 or max_clients < 1 or not 0 < tick <= _LONGEST_STEP:
            raise ValueError("a bucket needs tokens, a client and a tick")
        self._depth = per_minute * _TOKEN
        self._per_minute = per_minute
        self._tick = tick
        self._per_tick = per_minute * max(1, round(tick * _NANOSECONDS))
        self._most = max_clients
        self._minted = 0
        # An OrderedDict, since the front of a dict that loses its front is slow to find.
        self._offsets: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._offsets)

    def set_rate(self, per_minute: int) -> None:
        """Go on with buckets of another depth and rate; costs the same however many there are.

        A bucket that is not full keeps its tokens, as many as the new depth holds. One that is
        full may have been dropped: there is no telling it from a new one, and it may be as full
        as that.

        :param per_minute: as above.
        :raises ValueError: where it is less than 1.
        """
        if per_minute < 1:
            raise ValueError("a bucket needs tokens")
        self._depth = per_minute * _TOKEN
        self._per_minute = per_minute
        self._per_tick = per_minute * max(1, round(self._tick * _NANOSECONDS))

    def refill(self, seconds: float) -> None:
        """Let time pass for every bucket.

        :param seconds: since the last call; where that is negative or more than a second, the
            clock has jumped, and nothing is minted.
        """
        if 0 <= seconds <= _LONGEST_STEP:
            self._minted += round(seconds * _NANOSECONDS) * self._per_minute

    def take(self, client: str) -> float:
        """Take a token of *client*'s bucket, or tell how long to wait for one.

        :returns: 0.0 where a token was there, and is now taken; otherwise the seconds from the
            last tick to the tick that brings one, and nothing is taken.
        """
        offsets = self._offsets
        offset = offsets.get(client)
        if offset is None:
            self._open(client)
            return 0.0
        offsets.move_to_end(client)
        missing = _TOKEN - min(offset + self._minted, self._depth)
        if missing <= 0:
            offsets[client] = -missing - self._minted
            return 0.0
        return -(-missing // self._per_tick) * self._tick

    def _open(self, client: str) -> None:
        """Make a full bucket for *client* and take a token of it."""
        self.remove_full(2)  # dropping outpaces opening, so that what is idle does not pile up
        if len(self._offsets) >= self._most:
            self._offsets.popitem(last=False)
        self._offsets[client] = self._depth - _TOKEN - self._minted

    def remove_full(self, budget: int) -> bool:
        """Drop full buckets, those first that were not touched for the longest time.

        :param budget: how many buckets to look at, at most.
        :returns: whether more may be dropped; false once a bucket is met that is not full.
        """
        offsets = self._offsets
        full = self._depth - self._minted
        for _ in range(budget):
            if not offsets:
                return False
            client = next(iter(offsets))
            if offsets[client] < full:
                return False
            del offsets[client]
        return bool(offsets)


def rate_limit_headers(per_minute: int, wait_seconds: float) -> list[tuple[bytes, bytes]]:
    """The fields of a 429: when to come back, and the limit.

    ``RateLimit-Policy`` and ``RateLimit`` are those of draft-ietf-httpapi-ratelimit-headers;
    ``retry-after-ms`` is read by OpenAI's own clients before ``Retry-After``.

    :param wait_seconds: as :meth:`TokenBuckets.take` returned it.
    """
    milliseconds = max(1, ceil(round(wait_seconds * 1000, 6)))
    seconds = b"%d" % -(-milliseconds // 1000)
    return [
        (b"Retry-After", seconds),
        (b"retry-after-ms", b"%d" % milliseconds),
        (b"RateLimit-Policy", b'"default";q=%d;w=60' % per_minute),
        (b"RateLimit", b'"default";r=0;t=%b' % seconds),
    ]
