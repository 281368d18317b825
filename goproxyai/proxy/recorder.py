"""Collect response bodies for the cache, and store them.

A recorder holds the body of one response while it is relayed. All recorders together hold at most
what the store lets them reserve (:meth:`~goproxyai.cache.store.Store.reserve`); one holds at most
the largest storable entry. A recorder that would exceed either bound drops its body, and the
response is relayed without being stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from goproxyai.cache.entry import Entry, new_entry
from goproxyai.cache.freshness import (
    age_seconds,
    allowed_lifetime,
    changes_by_itself,
)
from goproxyai.cache.rules import may_store
from goproxyai.cache.store import Store
from goproxyai.cache.stream_timing import StreamTiming
from goproxyai.cache.verdict import StreamJudge, coded_stream_succeeded, is_json, succeeded
from goproxyai.http11.response import Response
from goproxyai.messages.headers import has_request_id
from goproxyai.proxy.cache_lookup import CacheMiss
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.proxy.response_head import shared_lines, status_line, stored_lines, stream_lines
from goproxyai.usage.usage import UnreadResponse, UsageSource

PIECE_OVERHEAD_BYTES = 60
"""Memory that a piece takes besides its bytes."""


class Recorder:
    """Collects the body of one response.

    :param lifetime: seconds for which the response may be served; 0 if it is not to be stored.
    :param seconds: the monotonic clock.
    :ivar active: the body so far is complete in :attr:`pieces`.
    :ivar size: bytes of the body so far.
    """

    __slots__ = (
        "_judge", "_lifetime", "_max_bytes", "_reserved", "_response", "_seconds", "_store",
        "_timing", "active", "pieces", "size",
    )  # fmt: skip

    def __init__(
        self, store: Store, response: Response, lifetime: float, seconds: Callable[[], float]
    ) -> None:
        self._store = store
        self._response = response
        self._lifetime = lifetime
        self._seconds = seconds
        self._timing: StreamTiming | None = None
        self._judge: StreamJudge | None = None  # of a stream without content coding
        if response.is_event_stream:
            self._timing = StreamTiming(seconds())
            if b"content-encoding" not in response.fields:
                self._judge = StreamJudge()
        self._max_bytes = store.max_entry_bytes
        length = response.length
        self.active = not (isinstance(length, int) and length > self._max_bytes)
        self.pieces: list[bytes] = []
        self.size = self._reserved = 0

    def add(self, data: bytes) -> bool:
        """Append *data* to the body; returns whether the body is still complete."""
        if not self.active:
            return False
        size = len(data)
        if self.size + size > self._max_bytes or not self._store.reserve(
            size + PIECE_OVERHEAD_BYTES
        ):
            self.drop()
            return False
        self.size += size
        self._reserved += size + PIECE_OVERHEAD_BYTES
        self.pieces.append(data)
        if self._timing is not None:
            self._timing.add(self._seconds(), size)
        if self._judge is not None:
            self._judge.add(data)
        return True

    def drop(self) -> None:
        """Give the response up: drop the body, and the event of a stream that is incomplete."""
        self._release()
        self._judge = self._timing = None

    def _release(self) -> None:
        """Drop the body, and release its reservation."""
        self.active = False
        self.pieces = []
        self.size = 0
        self._store.release(self._reserved)
        self._reserved = 0

    def take(self) -> bytes:
        """Return the complete body, and drop it here."""
        pieces = self.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._release()
        return body

    def store(
        self, body: bytes, miss: CacheMiss, usage: UsageSource | None, framed: bool = True
    ) -> Entry | None:
        """Store the response with its complete *body*, if it may be stored.

        :param framed: the body was ended by its framing, not by the end of the connection.
        :returns: the entry; ``None`` if the response is not stored.
        """
        plan, response, timing = miss.plan, self._response, None
        if self._timing is None:
            if not (framed and _is_storable(plan, response, body, usage)):
                return None
        elif self._is_storable_stream(plan, body):
            timing = self._timing.packed()
        else:
            return None
        now = self._seconds()
        entry = _make_entry(miss, response, body, usage, now, self._lifetime, timing)
        return entry if _put(self._store, miss, entry) else None

    def _is_storable_stream(self, plan: RequestPlan, body: bytes) -> bool:
        """Whether the body of an event stream permits storing it."""
        fields = self._response.fields
        if plan.is_get and changes_by_itself(plan.path, fields, body):
            return False
        if self._judge is not None:
            return self._judge.succeeded()
        return coded_stream_succeeded(fields[b"content-encoding"], body)


def recorder_for(
    store: Store, miss: CacheMiss, response: Response, seconds: Callable[[], float]
) -> Recorder | None:
    """Return a recorder for *response*; ``None`` where its head forbids storing it."""
    lifetime = _lifetime(miss.plan, response)
    return Recorder(store, response, lifetime, seconds) if lifetime > 0 else None


def store_whole(
    store: Store,
    miss: CacheMiss,
    response: Response,
    body: bytes,
    usage: UsageSource | None,
    now: float,
) -> None:
    """Store a response whose *body* arrived together with its head, if it may be stored."""
    lifetime = _lifetime(miss.plan, response)
    if lifetime <= 0:
        return
    if response.is_event_stream:
        recorder = Recorder(store, response, lifetime, lambda: now)
        if recorder.add(body):
            recorder.store(recorder.take(), miss, usage)
    elif _is_storable(miss.plan, response, body, usage):
        _put(store, miss, _make_entry(miss, response, body, usage, now, lifetime, None))


def _put(store: Store, miss: CacheMiss, entry: Entry) -> bool:
    """Store *entry* in this process and in the second level; return whether it was stored here."""
    plan, claim = miss.plan, miss.claim
    stored = store.put(entry, plan.entry_path, plan.owner, miss.generation)
    if stored and claim is not None:
        claim.store(entry, miss.reason == "request")
    return stored


def _lifetime(plan: RequestPlan, response: Response) -> float:
    """Return the seconds for which the response may be served; 0 if it must not be stored."""
    ttl = plan.ttl_of(response.code)
    method = b"GET" if plan.is_get else b"POST"
    if ttl <= 0 or not may_store(
        method, response.code, response.fields, plan.directives, plan.across_credentials
    ):
        return 0.0
    if plan.is_get:
        allowed = allowed_lifetime(response.fields, time.time())
        if allowed is not None:
            return min(ttl, allowed)
    return ttl


def _is_storable(
    plan: RequestPlan, response: Response, body: bytes, usage: UsageSource | None
) -> bool:
    """Whether the body of a response that is no event stream permits storing it."""
    if plan.is_get and changes_by_itself(plan.path, response.fields, body):
        return False
    if response.code >= 300:
        return is_json(response.fields, body)
    unread = usage if type(usage) is UnreadResponse else None
    return succeeded(plan.answer_check, response.fields, body, unread)


def _make_entry(
    miss: CacheMiss,
    response: Response,
    body: bytes,
    usage: UsageSource | None,
    now: float,
    lifetime: float,
    timing: bytes | None,
) -> Entry:
    plan, fields = miss.plan, response.fields
    upstream_has_id = has_request_id(fields) and not plan.across_credentials
    head = status_line(response.code, response.phrase) + shared_lines(
        response, plan.across_credentials
    )
    if response.is_event_stream:
        head += stream_lines(fields)
    head += stored_lines(int(time.time()), upstream_has_id)
    age = age_seconds(fields) if b"age" in fields else 0
    read = None if usage is None else usage.usage()
    return new_entry(miss.key, response.code, head, body, now, lifetime, age, timing, read)
