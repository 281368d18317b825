"""Look-ups in the second level of the cache, for requests that missed in this process.

1. Requests of the same key share a look-up, unless some refuse the stored response. A look-up that
   a write or a clearing has overtaken gets no more requests.
2. A record becomes an entry of this process, unless a write or a clearing has overtaken the look-up
   meanwhile; then each request is looked up here again.
3. A request that waits holds its body, which :class:`.RequestMemory` counts, and its connection.
   The look-up is cancelled when the clients of all its requests have left.
4. Where it is known at once that there is no response, the request has a claim without a look-up.
5. An exclusive claim goes to the first request that starts a single flight with it. If none does,
   the claim is given up.
"""

from __future__ import annotations

import time
from functools import partial
from typing import NamedTuple, Protocol

from twisted.python.failure import Failure

from goproxyai.cache.record import Record, restored_entry
from goproxyai.cache.store import Store
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.proxy.cache_lookup import CacheMiss
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.error_response import proxy_error_for
from goproxyai.state.second_level import Claim, LookUp, SecondLevel


class LookUpOwner(Protocol):
    """Goes on with requests after their look-up."""

    def looked_up(self, request: WaitingRequest, claim: Claim | None) -> bool:
        """Answer *request* from the cache of this process, or forward it.

        :returns: whether a single flight has *claim* now.
        """

    def client_gone(self, exchange: Exchange, client: str) -> None:
        """The client has left."""

    def fail(self, exchange: Exchange, client: str, error: ProxyError) -> None:
        """Answer with an error."""


class WaitingRequest:
    """A request that waits for the second level; the listener of its exchange.

    :ivar miss: of the first level.
    :ivar body: whole.
    :ivar coalesces: whether identical requests may share an upstream request.
    """

    __slots__ = ("_group", "_owner", "body", "client", "coalesces", "exchange", "miss")

    def __init__(
        self,
        owner: LookUpOwner,
        exchange: Exchange,
        client: str,
        miss: CacheMiss,
        body: bytes,
        coalesces: bool,
    ) -> None:
        self._owner = owner
        self._group: _Group | None = None
        self.exchange = exchange
        self.client = client
        self.miss = miss
        self.body = body
        self.coalesces = coalesces

    def wait(self, group: _Group) -> None:
        """Wait until *group* is answered."""
        self._group = group
        group.requests[self] = None
        self.exchange.listener = self

    def go_on(self, claim: Claim | None) -> bool:
        """The look-up has ended: return whether a single flight has *claim* now."""
        self._group = None
        if self.exchange.over:
            return False
        self.exchange.listener = None
        try:
            return self._owner.looked_up(self, claim)
        except Exception:
            self._owner.fail(self.exchange, self.client, proxy_error_for(Failure()))
            return False

    # ExchangeListener.

    def client_gone(self) -> None:
        self._leave()
        self._owner.client_gone(self.exchange, self.client)

    def request_failed(self, error: ProxyError) -> None:
        """The rest of the client's request is invalid."""
        self._leave()
        self._owner.fail(self.exchange, self.client, error)

    def _leave(self) -> None:
        group, self._group = self._group, None
        self.exchange.listener = None
        if group is not None:
            group.discard(self)


class _Place(NamedTuple):
    """What requests that share a look-up have in common.

    :ivar is_exclusive: whether the claim is to be exclusive.
    :ivar replaces: whether the stored response is refused.
    """

    key: bytes
    is_exclusive: bool
    replaces: bool


class _Group:
    """The requests that share a look-up.

    :ivar generation: of the store of this process when the look-up began.
    :ivar look_up: ``None`` until the second level has been asked.
    """

    __slots__ = ("_look_ups", "generation", "look_up", "place", "requests")

    def __init__(self, look_ups: SharedLookUps, place: _Place, generation: int) -> None:
        self._look_ups = look_ups
        self.place = place
        self.generation = generation
        self.requests: dict[WaitingRequest, None] = {}  # an ordered set
        self.look_up: LookUp | None = None

    def discard(self, request: WaitingRequest) -> None:
        """Remove *request*, whose client has left."""
        self.requests.pop(request, None)
        if not self.requests and self.look_up is not None:
            self._look_ups.close(self)
            self.look_up.cancel()


class SharedLookUps:
    """The requests that wait for the second level."""

    def __init__(self, context: ProxyContext, second_level: SecondLevel) -> None:
        self._store: Store = context.store
        self._seconds = context.seconds
        self._counts = context.counters.shared_look_ups
        self._second_level = second_level
        self._groups: dict[_Place, _Group] = {}

    def claim_at_once(self, miss: CacheMiss, coalesces: bool) -> Claim | None:
        """Return a claim for *miss*, if it needs no look-up."""
        plan = miss.plan
        claim = self._second_level.claim_at_once(miss.key, plan.owner, plan.entry_path, coalesces)
        if claim is not None:
            self._counts["miss"] += 1
        return claim

    def start(self, request: WaitingRequest) -> None:
        """Look *request* up, together with those of the same key that wait already."""
        miss = request.miss
        plan, replaces = miss.plan, miss.reason == "request"
        place = _Place(miss.key, request.coalesces, replaces)
        group = self._groups.get(place)
        if group is not None and not self._store.is_outdated(plan.owner, group.generation):
            request.wait(group)
            return
        group = self._groups[place] = _Group(self, place, miss.generation)
        request.wait(group)
        group.look_up = self._second_level.look_up(
            miss.key, plan.owner, plan.entry_path, request.coalesces,
            partial(self._answered, group), request.exchange.state_seconds,
            replaces,
        )  # fmt: skip

    def close(self, group: _Group) -> None:
        """Let no more requests share the look-up of *group*."""
        if self._groups.get(group.place) is group:
            del self._groups[group.place]

    def _answered(self, group: _Group, record: Record | None, claim: Claim | None) -> None:
        self.close(group)
        requests, group.requests = list(group.requests), {}
        if not group.place.replaces:
            found = "hit" if record is not None else "unavailable" if claim is None else "miss"
            self._counts[found] += 1
        if record is not None and requests:
            self._keep(record, requests[0].miss, group.generation)
        exclusive = group.place.is_exclusive
        for request in requests:
            if request.go_on(claim) and exclusive:
                claim = None
        if claim is not None and exclusive:
            claim.give_up()

    def _keep(self, record: Record, miss: CacheMiss, generation: int) -> None:
        """Store *record* in this process, unless it is outdated or that of another key."""
        plan = miss.plan
        entry = restored_entry(record, self._seconds(), time.time(), self._store.stale_seconds)
        if entry is not None and record.key == miss.key:
            self._store.put(entry, plan.entry_path, plan.owner, generation)
