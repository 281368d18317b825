"""Step five: what came is kept, if it may be and came whole.

A recorder holds the body of one answer while it is relayed. All recorders together hold at most as
much as the cache may (:meth:`~goproxyai.policy.store.Store.reserve`); one holds at most the largest
storable entry. A recorder that would exceed either forgets what it has and the answer is relayed
unrecorded.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from goproxyai.http11.response import Response
from goproxyai.pipeline.respond import stored_headers
from goproxyai.policy.freshness import still_changing
from goproxyai.policy.headers import relayed
from goproxyai.policy.store import Entry, Store


class Wanted(NamedTuple):
    """A cacheable request that went upstream.

    :ivar ticket: what the store needs to know whether the answer is outdated when it comes.
    """

    key: bytes
    is_get: bool
    path: bytes
    credential: bytes
    ticket: int


class Recorder:
    """Keeps the body of one answer as it passes."""

    def __init__(self, store: Store, wanted: Wanted, response: Response) -> None:
        self._store = store
        self._wanted = wanted
        self._response = response
        self._pieces: list[bytes] = []
        self._size = 0
        self._most = store.most_bytes // 10
        length = response.length
        self._on = not (isinstance(length, int) and length > self._most)

    def add(self, data: bytes) -> None:
        """More of the body."""
        if not self._on:
            return
        size = len(data)
        if self._size + size > self._most or not self._store.reserve(size):
            self.forget()
        else:
            self._size += size
            self._pieces.append(data)

    def forget(self) -> None:
        """The answer will not be stored."""
        self._on = False
        self._pieces = []
        self._store.release(self._size)
        self._size = 0

    def complete(self, now: float) -> bool:
        """The body came whole: store it, if it may be stored."""
        if not self._on:
            return False
        body = b"".join(self._pieces)
        self.forget()
        wanted, response = self._wanted, self._response
        fields = response.fields
        if wanted.is_get and still_changing(fields, body):
            return False
        wall = time.time()
        age = fields.get(b"age", b"0").strip()
        kind = fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
        entry = Entry(
            key=wanted.key,
            status=response.code,
            reason=response.phrase,
            headers=stored_headers(relayed(response.raw, fields), wall),
            body=body,
            stored_at=now,
            stored_wall=wall,
            expires_at=now + self._store.ttl,
            initial_age=int(age) if age.isdigit() and len(age) < 10 else 0,
            credential=wanted.credential,
            path=wanted.path,
            is_get=wanted.is_get,
            stream=kind == b"text/event-stream",
        )
        return self._store.put(entry, wanted.ticket)
