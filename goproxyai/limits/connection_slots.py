"""Who may be connected, and who goes to make room.

1. A connection that finds a place is *inside*. There is a bound on all, and one on each client
   where that is wanted; both hold at any time.
2. Where there is no place, who has *rested* longest goes: of the same client where its own bound
   is reached, of all where the other one is. To rest is to be open without a request, for
   :data:`GRACE` seconds at least: a client that asks again and again is not cut off in between,
   and a newcomer has time to ask.
3. Where nobody rests, the newcomer waits *outside*, to be told so when it asks; it comes in if
   there is a place by then. At most :data:`RESERVE` are outside, and who came first goes when
   another comes: a health check is heard behind any number of connections that say nothing.
4. Every step takes the same time for ten connections and ten thousand. Whether somebody still
   rests is asked when it is to go, :data:`LOOKS` times at the most, and not noted at each request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Literal, TypeVar

import attrs

RESERVE = 64
"""Connections that are outside at a time."""

GRACE = 1.0
"""Seconds without a request, before which nobody makes room for another."""

LOOKS = 8
"""Connections that are asked whether they still rest, a newcomer."""

BESIDE = 100
"""Files that are open beside: listening sockets, the log, the reactor's own, name look-ups."""

M = TypeVar("M", bound=Hashable)

Bound = Literal["", "full", "per_client"]
"""Which bound is reached; empty is none."""


@attrs.define(eq=False)
class _Client(Generic[M]):
    """One client's connections: how many are inside, and which of them rest."""

    inside: int = 0
    resting: OrderedDict[M, float] = attrs.field(factory=OrderedDict)


class ConnectionSlots(Generic[M]):
    """Connections, inside and outside. Takes memory for ``most + RESERVE`` of them at the most.

    :ivar most: inside; may be lowered while nobody is.
    :param each: inside, of one client; 0 is no bound of its own.
    :param still_rests: whether one that rested when it was last looked at still does.
    """

    def __init__(self, most: int, each: int, still_rests: Callable[[M], bool]) -> None:
        self.most = most
        self._each = each
        self._still_rests = still_rests
        self._inside: dict[M, str | None] = {}
        self._outside: OrderedDict[M, None] = OrderedDict()
        self._resting: OrderedDict[M, float] = OrderedDict()  # since when, the longest first
        self._clients: dict[str, _Client[M]] = {}  # only where each client is bounded

    @property
    def inside(self) -> int:
        """How many are inside."""
        return len(self._inside)

    @property
    def outside(self) -> int:
        """How many are outside."""
        return len(self._outside)

    def reached(self, client: str | None) -> Bound:
        """The bound that keeps *client* from one more place."""
        if client is not None and client in self._clients:
            if self._clients[client].inside >= self._each:
                return "per_client"
        return "full" if len(self._inside) >= self.most else ""

    def enter(self, one: M, client: str | None, now: float) -> tuple[bool, M | None]:
        """Give *one* a place, from outside or as it comes.

        :param client: whose it is; ``None`` where no bound but that on all is to hold.
        :param now: seconds, as in :meth:`rests`.
        :returns: whether it is inside; and who is to be closed for that, and counts no more.
        """
        bound, goes = self.reached(client), None
        if bound:
            goes = self._first_to_go(client if bound == "per_client" else None, now)
            if goes is None:
                return False, None
            self.leave(goes)
        self._outside.pop(one, None)
        if not self._each:
            client = None
        self._inside[one] = client
        if client is not None:
            self._clients.setdefault(client, _Client()).inside += 1
        return True, goes

    def wait(self, one: M) -> M | None:
        """Let *one*, for whom there is no place, wait outside; gives who is to be closed for it."""
        goes = None
        if len(self._outside) >= RESERVE:
            goes, _ = self._outside.popitem(last=False)
        self._outside[one] = None
        return goes

    def leave(self, one: M) -> None:
        """*one* is gone, wherever it was; once more does no harm."""
        self.works(one)
        self._outside.pop(one, None)
        client = self._inside.pop(one, None)
        if client is not None:
            row = self._clients[client]
            row.inside -= 1
            if not row.inside:
                del self._clients[client]

    def rests(self, one: M, now: float) -> None:
        """*one* has no request; *now* never goes back. Who is not inside is not noted."""
        if one not in self._inside:
            return
        self.works(one)
        self._resting[one] = now
        client = self._inside[one]
        if client is not None:
            self._clients[client].resting[one] = now

    def works(self, one: M) -> None:
        """*one* has a request."""
        if self._resting.pop(one, None) is not None:
            client = self._inside[one]
            if client is not None:
                del self._clients[client].resting[one]

    def _first_to_go(self, client: str | None, now: float) -> M | None:
        resting = self._resting if client is None else self._clients[client].resting
        for _ in range(LOOKS):
            one, since = next(iter(resting.items()), (None, now))
            if one is None or now - since < GRACE:
                return None
            if self._still_rests(one):
                return one
            self.works(one)  # until it is noted again
        return None


def places(descriptors: int, wanted: int) -> int:
    """How many of *wanted* connections *descriptors* files suffice for; 1 at the least."""
    return max(1, min(wanted, (descriptors - RESERVE - BESIDE) * 2 // 3))


def descriptors(connections: int) -> int:
    """Files that so many connections need, where every other one has one to upstream.

    Idle ones need none. Should more be at work, connecting to upstream fails.
    """
    return connections + -(-connections // 2) + RESERVE + BESIDE
