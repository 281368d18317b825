"""Look a request up in the cache, or say why the cache is bypassed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from goproxyai.cache.entry import Entry
from goproxyai.cache.rules import ERROR_STATUSES, may_serve_stale
from goproxyai.cache.stateless_responses import state_bypass
from goproxyai.cache.write_log import UNOWNED
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.state.second_level import Claim

MAX_KEYED_BODY_BYTES: Final = 10 * 1024 * 1024
"""Largest request body that is collected for a cache key; larger ones stream past the cache."""


class CacheMiss(msgspec.Struct, frozen=True, gc=False):
    """A cacheable request that has to go upstream.

    :ivar reason: ``miss``; ``stale`` where the entry has expired; ``request`` where the request's
        ``Cache-Control`` refused the entry.
    :ivar generation: the store's generation at the look-up; a later write makes the response
        outdated.
    :ivar claim: stores the response in the second level; ``None`` where it is not asked.
    """

    reason: str
    key: bytes
    plan: RequestPlan
    generation: int
    claim: Claim | None = None

    def with_claim(self, claim: Claim | None) -> CacheMiss:
        return CacheMiss(self.reason, self.key, self.plan, self.generation, claim)


class Entries(Protocol):
    """The part of a :class:`~goproxyai.cache.store.Store` that a look-up needs."""

    @property
    def stale_seconds(self) -> float: ...

    def get(self, key: bytes, now: float) -> Entry | None: ...
    def generation(self) -> int: ...


class CacheLookup:
    """Looks requests up in the memory of this process.

    :param is_first_level: whether a second level may have what this process has not.
    :param catch_up: drops the entries of an owner if another process has announced a write of it.
    """

    def __init__(
        self,
        store: Entries,
        is_first_level: bool = False,
        catch_up: Callable[[bytes], None] | None = None,
    ) -> None:
        self._store = store
        self._is_first_level = is_first_level
        self._catch_up = catch_up

    def bypass_reason(self, plan: RequestPlan, exchange: Exchange) -> str | None:
        """Return why the cache is bypassed, judged by the request's head; ``None``: it is used.

        :raises ProxyError: ``only_if_cached``.
        """
        reason = plan.bypass_reason
        if reason is None:
            length = exchange.body.length
            if not isinstance(length, int) or length <= MAX_KEYED_BODY_BYTES:
                return None
            reason = "size"
        if plan.directives.only_if_cached:
            raise only_if_cached()
        return reason

    def state_bypass(self, plan: RequestPlan, body: bytes) -> str | None:
        """Return why the cache is bypassed, judged by the request's body; ``None``: it is used.

        :raises ProxyError: ``only_if_cached``.
        """
        reason = state_bypass(body)
        if reason is not None and plan.directives.only_if_cached:
            raise only_if_cached()
        return reason

    def find(self, plan: RequestPlan, key: bytes, now: float) -> Entry | CacheMiss:
        """Return the entry that answers the request, or the miss.

        :param key: made by :meth:`.RequestPlan.key`.
        :raises ProxyError: ``only_if_cached``, unless the second level is left to ask.
        """
        store = self._store
        directives = plan.directives
        reason = "miss"
        if self._catch_up is not None and plan.owner != UNOWNED:
            self._catch_up(plan.owner)
        if directives.no_cache:
            reason = "request"
        else:
            entry = store.get(key, now)
            if entry is not None:
                passed = now - entry.stored_at
                max_age = directives.max_age  # compared with fractions: 0 accepts no entry
                if max_age is not None and entry.initial_age + passed > max_age:
                    reason = "request"
                elif passed < entry.lifetime or (
                    passed - entry.lifetime <= directives.max_stale and _may_be_stale(entry)
                ):
                    return entry
                else:
                    reason = "stale"
        if directives.only_if_cached and (reason == "request" or not self._is_first_level):
            raise only_if_cached()
        return CacheMiss(reason, key, plan, store.generation())

    def find_stale(self, miss: CacheMiss, now: float) -> Entry | None:
        """Return an expired entry that may replace a failed response (RFC 5861 §4), if any."""
        store = self._store
        directives = miss.plan.directives
        if directives.no_cache or not store.stale_seconds:
            return None
        entry = store.get(miss.key, now)
        if entry is None or not _may_be_stale(entry):
            return None
        max_age = directives.max_age
        if max_age is not None and entry.initial_age + now - entry.stored_at > max_age:
            return None
        return entry


def _may_be_stale(entry: Entry) -> bool:
    """Whether an expired entry may be served. An error may not: ``CACHE_ERROR_TTL`` is its end."""
    return entry.status not in ERROR_STATUSES and may_serve_stale(entry.head)


def only_if_cached() -> ProxyError:
    """Return the 504 of RFC 9111 §5.2.1.7."""
    return ProxyError(
        "only_if_cached",
        "The cache has no response to this request, and Cache-Control: only-if-cached forbids "
        "forwarding it; send the request without that directive.",
    )
