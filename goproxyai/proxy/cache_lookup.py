"""Step three: may the request be answered from the cache, and is there an answer?"""

from __future__ import annotations

from goproxyai.cache.entry import Entry
from goproxyai.cache.rules import may_serve_stale
from goproxyai.cache.store import Store
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.proxy.recorder import CacheMiss
from goproxyai.proxy.request_plan import RequestPlan

MOST_KEYED = 10 * 1024 * 1024
"""Bytes of request body that are read whole to make a key; larger ones stream past the cache."""


class CacheLookup:
    """Asks the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def bypass(self, notes: RequestPlan, exchange: Exchange) -> str | None:
        """Why the cache is left aside, judged by the head; ``None`` where a key is to be made.

        :raises Problem: ``only_if_cached`` where nothing but a stored answer was wanted.
        """
        reason = notes.reason
        if reason is None:
            length = exchange.body.length
            if not isinstance(length, int) or length <= MOST_KEYED:
                return None
            reason = "size"
        if notes.directives.only_if_cached:
            raise only_if_cached()
        return reason

    def find(self, notes: RequestPlan, body: bytes, now: float) -> Entry | CacheMiss:
        """Look for an answer to a request that no :meth:`bypass` keeps from the cache.

        :raises Problem: ``only_if_cached``.
        """
        store = self._store
        directives = notes.directives
        key = notes.key(body)
        reason = "miss"
        if directives.no_cache:
            reason = "request"
        else:
            entry = store.get(key, now)
            if entry is not None:
                max_age = directives.max_age  # fractions count: 0 accepts nothing that is stored
                if max_age is not None and entry.initial_age + now - entry.stored_at > max_age:
                    reason = "request"
                elif entry.expires_at > now or (
                    now - entry.expires_at <= directives.max_stale and may_serve_stale(entry.head)
                ):
                    return entry
                else:
                    reason = "stale"
        if directives.only_if_cached:
            raise only_if_cached()
        return CacheMiss(reason, key, notes, store.generation())

    def stale(self, wanted: CacheMiss, now: float) -> Entry | None:
        """What may answer instead of an upstream that failed: an entry that was kept for that."""
        store = self._store
        directives = wanted.notes.directives
        if directives.no_cache or not store.stale_seconds:
            return None
        entry = store.get(wanted.key, now)
        if entry is None or not may_serve_stale(entry.head):
            return None
        max_age = directives.max_age
        if max_age is not None and entry.initial_age + now - entry.stored_at > max_age:
            return None
        return entry


def only_if_cached() -> ProxyError:
    """The 504 of RFC 9111 §5.2.1.7."""
    return ProxyError(
        "only_if_cached",
        "There is no stored answer to this request, and Cache-Control: only-if-cached asks for "
        "nothing else; send it without that directive.",
    )
