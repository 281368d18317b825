"""Step five: what came is kept, if it may be and came whole.

A recorder holds the body of one answer while it is relayed. All recorders together hold at most as
much as the store lets them (:meth:`~goproxyai.cache.store.Store.reserve`); one holds at most the
largest storable entry. A recorder that would exceed either forgets what it has and the answer is
relayed unrecorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from goproxyai.cache.entry import Entry
from goproxyai.cache.rules import is_in_progress, may_store
from goproxyai.cache.store import Store
from goproxyai.cache.stream_end import StreamEnd, is_event_stream, stream_end
from goproxyai.cache.stream_timing import StreamTiming
from goproxyai.http11.response import Response
from goproxyai.messages.headers import has_request_id
from goproxyai.proxy.replay import shareable_lines, status_line, stored_lines
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.usage.usage import Usage

PIECE_BYTES = 60
"""That a piece takes beside its bytes."""


class CacheMiss(NamedTuple):
    """A cacheable request that went upstream.

    :ivar reason: ``miss``; ``stale`` where the stored answer has expired; ``request`` where the
        request did not want it.
    :ivar notes: on its head.
    :ivar generation: what the store needs to know whether the answer is outdated when it comes.
    """

    reason: str
    key: bytes
    notes: RequestPlan
    generation: int


class Recorder:
    """Keeps the body of one answer as it passes.

    :param seconds: the monotonic clock.
    :ivar on: whether all that came is here.
    :ivar pieces: the body so far, while it is.
    :ivar size: bytes of it.
    """

    __slots__ = (
        "_most",
        "_pace",
        "_reserved",
        "_response",
        "_seconds",
        "_store",
        "on",
        "pieces",
        "size",
    )

    def __init__(self, store: Store, response: Response, seconds: Callable[[], float]) -> None:
        self._store = store
        self._response = response
        self._seconds = seconds
        self._pace = StreamTiming(seconds()) if is_event_stream(response.fields) else None
        self._most = store.max_entry_bytes
        length = response.length
        self.on = not (isinstance(length, int) and length > self._most)
        self.pieces: list[bytes] = []
        self.size = self._reserved = 0

    def add(self, data: bytes) -> bool:
        """More of the body; says whether all of it is still here."""
        if not self.on:
            return False
        size = len(data)
        if self.size + size > self._most or not self._store.reserve(size + PIECE_BYTES):
            self.forget()
            return False
        self.size += size
        self._reserved += size + PIECE_BYTES
        self.pieces.append(data)
        if self._pace is not None:
            self._pace.add(self._seconds(), size)
        return True

    def forget(self) -> None:
        """The answer will not be stored."""
        self.on = False
        self.pieces = []
        self.size = 0
        self.release()

    def release(self) -> None:
        """Give back the room that was held for it."""
        self._store.release(self._reserved)
        self._reserved = 0

    def whole(self) -> bytes:
        """The body, which is all here; nothing is kept of it."""
        pieces = self.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.forget()
        return body

    def keep(
        self, body: bytes, wanted: CacheMiss, usage: Usage | None, framed: bool = True
    ) -> bool:
        """Store the answer, whose *body* came whole, if it may be stored.

        :param usage: tokens that it took, where it says so.
        :param framed: whether its framing ended the body, rather than the connection.
        :returns: whether it is stored.
        """
        packed = None
        if self._pace is not None:
            how = stream_end(self._response.fields, body)
            if how is StreamEnd.FAILED or (how is StreamEnd.UNMARKED and not framed):
                return False
            packed = self._pace.packed()
        elif not framed:
            return False
        return _keep(self._store, wanted, self._response, body, usage, self._seconds(), packed)


def _keep(
    store: Store,
    wanted: CacheMiss,
    response: Response,
    body: bytes,
    usage: Usage | None,
    now: float,
    pace: bytes | None,
) -> bool:
    notes, fields = wanted.notes, response.fields
    if notes.is_get and is_in_progress(fields, body):
        return False
    named = has_request_id(fields) and not notes.shared
    head = (
        status_line(response.code, response.phrase)
        + shareable_lines(response, notes.shared)
        + stored_lines(int(time.time()), named)
    )
    age = fields.get(b"age")
    entry = Entry(
        wanted.key,
        response.code,
        head,
        body,
        now,
        now + notes.ttl,
        0 if age is None else _age(age),
        pace,
        usage,
    )
    return store.put(entry, notes.path.rstrip(b"/"), notes.owner, wanted.generation)


def _age(text: bytes) -> int:
    text = text.strip()
    return int(text) if text.isdigit() and len(text) < 10 else 0


def keep_whole(
    store: Store,
    wanted: CacheMiss,
    response: Response,
    body: bytes,
    usage: Usage | None,
    now: float,
) -> None:
    """As a recorder does, with an answer that came in one read."""
    if not _may_keep(wanted, response):
        return
    if is_event_stream(response.fields):
        one = Recorder(store, response, lambda: now)
        if one.add(body):
            one.keep(one.whole(), wanted, usage)
    else:
        _keep(store, wanted, response, body, usage, now, None)


def recorder(
    store: Store, wanted: CacheMiss, response: Response, seconds: Callable[[], float]
) -> Recorder | None:
    """Who is to keep *response*; ``None`` where it may not be kept, judged by its head."""
    return Recorder(store, response, seconds) if _may_keep(wanted, response) else None


def _may_keep(wanted: CacheMiss, response: Response) -> bool:
    notes = wanted.notes
    method = b"GET" if notes.is_get else b"POST"
    return notes.ttl > 0 and may_store(
        method, response.code, response.fields, notes.directives, notes.shared
    )
