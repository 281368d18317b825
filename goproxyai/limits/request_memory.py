"""One budget for the memory that all requests and responses in progress hold.

1. Each holder (a connection, a single flight) tells how many bytes it holds, through a
   :class:`Holding`. Bytes are what was received or is to be sent, and estimates of what is derived
   from them; the objects of a connection are not counted.
2. From :data:`TIGHT_SHARE` of the budget on, request bodies are streamed past the cache instead of
   being collected for a cache key. From :data:`FULL_SHARE` on, new requests are refused, and
   connections whose clients have been reading slowly for :data:`PATIENCE_SECONDS` are broken off.
   Above the budget, the connection whose client has been slow the longest is broken off at once.
3. The sum is exact after each read from a client. Output and upstream connections are counted four
   times a second, and when their transport's buffer is full.
4. Counting ends no request: it may happen in the middle of a write to the very client that would be
   broken off. Connections act after a read, at a tick, or in the next turn.
5. Allocators do not return all the memory that is freed. The budget shrinks while the process has
   more memory than its accounts explain, see :func:`affordable_bytes`.
"""

from __future__ import annotations

from typing import Protocol

UNLIMITED = 1 << 62
"""A budget that is never used up, in bytes."""

TIGHT_SHARE = 0.75
"""Share of the budget from which bodies are not collected."""

FULL_SHARE = 0.9
"""Share of the budget from which requests are refused."""

PATIENCE_SECONDS = 5.0
"""For which a client may read slowly while requests are refused for lack of memory."""

CACHE_OVERHEAD_SHARE = 0.2
"""Memory that the process may have besides the accounts, as a share of ``MAX_CACHE_SIZE``."""

REQUEST_OVERHEAD_SHARE = 0.5
"""The same, as a share of ``MAX_REQUEST_MEMORY``."""

COPIES_SHARE = 0.25
"""Memory of short-lived copies and of allocation overhead, as a share of what requests hold."""

MAX_SUDDEN_BYTES = 24 * 1024 * 1024
"""Memory that may be used between two measurements, besides what requests hold: copies of large
bodies, and blocks that cannot be returned."""

SUDDEN_SHARE = 0.3
"""The most of it as a share of ``MAX_REQUEST_MEMORY``."""

CONNECTION_BYTES = 12 * 1024
"""Memory of a connection besides what it holds."""

MIN_SHARE = 0.25
"""Share of ``MAX_REQUEST_MEMORY`` that the budget never falls below."""


def affordable_bytes(
    max_request_bytes: int, max_cache_bytes: int, connections: int, unexplained: int
) -> int:
    """Return the budget with which the resident memory stays within its bound.

    The bound, above the resident memory at the start, is 1.2 x ``MAX_CACHE_SIZE`` + 1.5 x
    ``MAX_REQUEST_MEMORY`` + :data:`CONNECTION_BYTES` a connection, with a full cache.

    :param unexplained: resident memory in bytes above that of the start, without the accounted
        bytes of the cache and of requests.
    """
    allowed = (
        CACHE_OVERHEAD_SHARE * max_cache_bytes
        + REQUEST_OVERHEAD_SHARE * max_request_bytes
        + CONNECTION_BYTES * connections
    )
    sudden = min(MAX_SUDDEN_BYTES, SUDDEN_SHARE * max_request_bytes)
    room = max_request_bytes + allowed - sudden - unexplained
    affordable = int(room / (1 + COPIES_SHARE))
    return min(max_request_bytes, max(affordable, int(max_request_bytes * MIN_SHARE)))


class SlowReader(Protocol):
    """A connection whose client reads more slowly than its response is made."""

    def __hash__(self) -> int: ...

    def break_off(self) -> None:
        """Reset the connection, and release its holding."""


class RequestMemory:
    """The budget of all connections.

    :ivar used: bytes that are held.
    :ivar is_tight: whether request bodies are not collected.
    :ivar is_full: whether new requests are refused. An attribute, since every request reads it.
    :ivar broken_off: slow readers that were broken off since the start.
    :ivar max_bytes: the configured budget.
    :ivar limit: the budget at present, at most :attr:`max_bytes`.
    """

    def __init__(self, max_bytes: int = UNLIMITED) -> None:
        self.used = 0
        self.is_tight = False
        self.is_full = False
        self.broken_off = 0
        self.max_bytes = self.limit = max_bytes
        self._now = 0.0  # of the last tick
        self._slow: dict[SlowReader, float] = {}  # since when, in that order

    def resize(self, max_bytes: int) -> None:
        """Change the configured budget."""
        self.max_bytes = self.limit = max_bytes
        self.change(0)

    def restrict(self, limit: int) -> None:
        """Change the budget at present."""
        self.limit = min(limit, self.max_bytes)
        self.change(0)

    def change(self, difference: int) -> None:
        """Hold *difference* bytes more."""
        self.used += difference
        self.is_tight = self.used >= self.limit * TIGHT_SHARE
        self.is_full = self.is_tight and self.used >= self.limit * FULL_SHARE

    @property
    def is_exceeded(self) -> bool:
        """Whether more than the budget is held."""
        return self.used > self.limit

    def mark_reader(self, reader: SlowReader, is_slow: bool) -> None:
        """Note whether the client of *reader* has left a part of its response; may be repeated."""
        if is_slow:
            self._slow.setdefault(reader, self._now)
        else:
            self._slow.pop(reader, None)

    def make_room(self) -> bool:
        """Break off slow readers while more than the budget is held.

        :returns: whether the budget suffices now.
        """
        while self.is_exceeded and self._slow:
            self._break_slowest()
        return not self.is_exceeded

    def tick(self, now: float) -> None:
        """Break off readers that are slow for too long while requests are refused."""
        self._now = now
        while self.is_full and self._slow:
            since = next(iter(self._slow.values()))
            if now - since < PATIENCE_SECONDS:
                return
            self._break_slowest()

    def postpone(self, lost: float, now: float) -> None:
        """Do not count a standstill as slowness."""
        self._now = now
        self._slow = dict.fromkeys(self._slow, now)

    def _break_slowest(self) -> None:
        reader = next(iter(self._slow))
        del self._slow[reader]
        self.broken_off += 1
        reader.break_off()


class Holding:
    """What one holder holds of the budget.

    :ivar memory: the budget.
    :ivar held: bytes.
    """

    __slots__ = ("held", "memory")

    def __init__(self, memory: RequestMemory) -> None:
        self.memory = memory
        self.held = 0

    def hold(self, count: int) -> None:
        """Hold *count* bytes instead of those before."""
        if count != self.held:
            self.memory.change(count - self.held)
            self.held = count


class HeldBytes:
    """Bytes that several holders share, and that are counted once.

    :ivar data: the bytes.
    """

    __slots__ = ("_holders", "_memory", "data")

    def __init__(self, memory: RequestMemory, data: bytes) -> None:
        self._memory = memory
        self._holders = 0
        self.data = data

    def hold(self) -> None:
        """Count one more holder."""
        self._holders += 1
        if self._holders == 1 and self.data:
            self._memory.change(len(self.data))

    def release(self) -> None:
        """Count one holder less."""
        self._holders -= 1
        if not self._holders and self.data:
            self._memory.change(-len(self.data))
