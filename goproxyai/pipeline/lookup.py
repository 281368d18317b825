"""Step three: may the request be answered from the cache, and is there an answer?"""

from __future__ import annotations

from typing import NamedTuple

from goproxyai.http11.exchange import Exchange
from goproxyai.pipeline.notes import Notes
from goproxyai.pipeline.store import Wanted
from goproxyai.policy.freshness import Directives
from goproxyai.policy.store import Entry, Store
from goproxyai.problems import Problem

MOST_KEYED = 10 * 1024 * 1024
"""Bytes of request body that are read whole to make a key; larger ones stream past the cache."""


class Miss(NamedTuple):
    """A cacheable request that upstream is to answer.

    :ivar reason: ``miss``, or ``request`` where the request did not want the stored answer.
    :ivar wanted: with which upstream's answer may be stored.
    :ivar directives: of the request.
    """

    reason: str
    wanted: Wanted
    directives: Directives


class Lookup:
    """Asks the store.

    :param store: ``None`` where the cache is turned off.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store

    def bypass(self, notes: Notes, exchange: Exchange) -> str | None:
        """Why the cache is left aside, judged by the head; ``None`` where a key is to be made.

        :raises Problem: ``only_if_cached`` where nothing but a stored answer was wanted.
        """
        reason = "off" if self._store is None else notes.reason
        if reason is None:
            length = exchange.body.length
            if not isinstance(length, int) or length <= MOST_KEYED:
                return None
            reason = "size"
        if notes.directives.only_if_cached:
            raise only_if_cached()
        return reason

    def find(self, notes: Notes, exchange: Exchange, body: bytes, now: float) -> Entry | Miss:
        """Look for an answer to *exchange*, which no :meth:`bypass` keeps from the cache.

        :raises Problem: ``only_if_cached``.
        """
        store = self._store
        assert store is not None, "bypass() says off"
        directives = notes.directives
        key = notes.key(body)
        entry = None if directives.no_cache else store.get(key, now)
        reason = "request" if directives.no_cache else "miss"
        if entry is not None:
            max_age = directives.max_age  # fractions count: 0 accepts nothing that is stored
            if max_age is None or entry.initial_age + now - entry.stored_at <= max_age:
                return entry
            reason = "request"
        if directives.only_if_cached:
            raise only_if_cached()
        is_get = exchange.method == b"GET"
        wanted = Wanted(key, is_get, notes.path, notes.credential, store.ticket())
        return Miss(reason, wanted, directives)


def only_if_cached() -> Problem:
    """The 504 of RFC 9111 §5.2.1.7."""
    return Problem(
        "only_if_cached",
        "There is no stored answer to this request, and Cache-Control: only-if-cached asks for "
        "nothing else; send it without that directive.",
    )
