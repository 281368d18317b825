"""Step three: may the request be answered from the cache, and is there an answer?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from goproxyai.http11.exchange import Exchange
from goproxyai.pipeline.notes import notes_on
from goproxyai.pipeline.store import Wanted
from goproxyai.policy.cachekey import finished_key
from goproxyai.policy.freshness import Directives, route_reason
from goproxyai.policy.store import Entry, Store
from goproxyai.problems import Problem

MOST_KEYED = 10 * 1024 * 1024
"""Bytes of request body that are read whole to make a key; larger ones stream past the cache."""


class Verdict(NamedTuple):
    """What the cache has to say about a request.

    :ivar entry: the answer, if there is one that may be used.
    :ivar reason: why there is none: ``miss``, ``request``, or why the cache was left aside.
    :ivar wanted: with which upstream's answer may be stored, if it may.
    :ivar directives: of the request.
    """

    entry: Entry | None
    reason: str
    wanted: Wanted | None
    directives: Directives


class Lookup:
    """Asks the store.

    :param store: ``None`` where the cache is turned off.
    """

    def __init__(self, store: Store | None, seconds: Callable[[], float]) -> None:
        self._store = store
        self._seconds = seconds

    def bypass(self, exchange: Exchange) -> str | None:
        """Why the cache is left aside, judged by the head; ``None`` where a key is to be made.

        :raises Problem: ``only_if_cached`` where nothing but a stored answer was wanted.
        """
        notes = notes_on(exchange)
        if self._store is None:
            reason: str | None = "off"
        else:
            path = exchange.target.partition(b"?")[0]
            reason = route_reason(exchange.method, path) or notes.reason
            if reason is None:
                length = exchange.body.length
                if isinstance(length, int) and length > MOST_KEYED:
                    reason = "size"
                elif notes.directives.no_store:
                    reason = "no-store"
        if reason is not None and notes.directives.only_if_cached:
            raise only_if_cached()
        return reason

    def find(self, exchange: Exchange, body: bytes) -> Verdict:
        """Look for an answer to *exchange*, which no :meth:`bypass` keeps from the cache.

        :raises Problem: ``only_if_cached``.
        """
        store = self._store
        assert store is not None, "bypass() says off"
        method, target = exchange.method, exchange.target
        notes = notes_on(exchange)
        directives = notes.directives
        key = finished_key(notes.key, method, target, body)
        now = self._seconds()
        entry = None if directives.no_cache else store.get(key, now)
        reason = "request" if directives.no_cache else "miss"
        if entry is not None:
            max_age = directives.max_age  # fractions count: 0 accepts nothing that is stored
            if max_age is None or entry.initial_age + now - entry.stored_at <= max_age:
                return Verdict(entry, "hit", None, directives)
            reason = "request"
        if directives.only_if_cached:
            raise only_if_cached()
        path = target.partition(b"?")[0]
        wanted = Wanted(key, method == b"GET", path, notes.credential, store.ticket())
        return Verdict(None, reason, wanted, directives)


def only_if_cached() -> Problem:
    """The 504 of RFC 9111 §5.2.1.7."""
    return Problem(
        "only_if_cached",
        "There is no stored answer to this request, and Cache-Control: only-if-cached asks for "
        "nothing else; send it without that directive.",
    )
