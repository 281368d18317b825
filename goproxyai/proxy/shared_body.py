"""The body of a response that several subscribers read at their own pace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final

from goproxyai.cache.entry import Entry
from goproxyai.http11.response import Response
from goproxyai.proxy.cache_lookup import CacheMiss
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.recorder import Recorder, recorder_for
from goproxyai.usage.usage import Usage

MAX_SHARED_BYTES: Final = 4 * 1024 * 1024
"""Bytes of a body that are kept for subscribers to come and for slow ones."""


def too_large_to_share(size: int) -> bool:
    return size > MAX_SHARED_BYTES


def shared_body_for(
    context: ProxyContext, miss: CacheMiss, response: Response, shareable: bool
) -> SharedBody | None:
    """Return where the body of *response* is collected; ``None``: it is neither stored nor shared.

    :param shareable: several clients may receive the response.
    """
    store, seconds = context.store, context.seconds
    recorder = recorder_for(store, miss, response, seconds)
    storable = recorder is not None
    if recorder is None and shareable:
        recorder = Recorder(store, response, 0.0, seconds)
    return SharedBody(recorder, storable) if recorder is not None and recorder.active else None


class SharedBody:
    """The pieces of one body so far, kept once for all subscribers.

    A subscriber's position is the number of pieces that it has received. The memory is that of the
    recorder, which the store bounds.

    :param storable: the body is stored in the cache when it is complete.
    :ivar pieces: the body so far, one piece a read from upstream.
    """

    __slots__ = ("_recorder", "pieces", "storable")

    def __init__(self, recorder: Recorder, storable: bool) -> None:
        self._recorder = recorder
        self.storable = storable
        self.pieces = recorder.pieces

    def add(self, data: bytes) -> bool:
        """Append a piece; returns whether the recorder still holds the whole body."""
        return not data or self._recorder.add(data)

    @property
    def exceeds_sharing(self) -> bool:
        """The body is larger than what is kept for subscribers."""
        return too_large_to_share(self._recorder.size)

    def complete(
        self, miss: CacheMiss, usage: Usage | None, framed: bool
    ) -> tuple[bytes, Entry | None]:
        """End the body; returns all of it, and the entry in which it is stored, if it is.

        :param framed: the body was ended by its framing, not by the end of the connection.
        """
        body = self._recorder.take()
        entry = self._recorder.store(body, miss, usage, framed) if self.storable else None
        return body, entry

    def drop(self) -> None:
        """Release the recorder; the pieces stay until the last subscriber has read them."""
        self._recorder.drop()

    def rest(self, position: int) -> bytes:
        """Return the body from *position* on."""
        return b"".join(self.pieces[position:])

    def offsets(self, positions: Iterable[int]) -> Iterator[int]:
        """Yield the byte offset of each of *positions*, which are sorted."""
        offset = previous = 0
        for position in positions:
            offset += sum(map(len, self.pieces[previous:position]))
            previous = position
            yield offset

    def digests(self, positions: Iterable[int]) -> Iterator[tuple[int, Any]]:
        """Yield byte offset and digest of the body up to each of *positions*, which are sorted."""
        digest = blake2b()
        offset = previous = 0
        for position in positions:
            for piece in self.pieces[previous:position]:
                digest.update(piece)
                offset += len(piece)
            previous = position
            yield offset, digest.copy()
