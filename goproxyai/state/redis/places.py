"""The keys in Redis of what the cache shares."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from goproxyai.state.redis.names import Names

EPOCH_MILLISECONDS: Final = 48 * 3600 * 1000
"""Time to live of epochs, which a look-up renews; entries live no longer."""


_KEPT_NAMES = 1024
_MAX_KEPT_PATH_BYTES = 256


class Place(NamedTuple):
    """The keys of one request.

    :ivar entry: the stored response. :ivar claim: the process that asks upstream.
    :ivar clearing: the epoch of all responses. :ivar owner: that of the owner's.
    :ivar path: that of the path's.
    """

    entry: bytes
    claim: bytes
    clearing: bytes
    owner: bytes
    path: bytes


class Places:
    """Makes the keys; keeps those of some owners and paths, which most requests share."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._kept = lru_cache(_KEPT_NAMES)(names.hashed)
        self.clearing = names.plain(b"clearing")
        self.announcements = names.plain(b"announcements")

    def of(self, key: bytes, owner: bytes, path: bytes) -> Place:
        """Return the keys of a request; the arguments are those of a look-up."""
        hashed = self._names.hashed
        entry, claim = hashed(b"entry", key), hashed(b"claim", key)
        return Place(entry, claim, self.clearing, self.owner(owner), self.path(path))

    def owner(self, owner: bytes) -> bytes:
        """Return the key of the epoch of *owner*."""
        return self._kept(b"owner", owner)

    def path(self, path: bytes) -> bytes:
        """Return the key of the epoch of *path*."""
        hashed = self._kept if len(path) <= _MAX_KEPT_PATH_BYTES else self._names.hashed
        return hashed(b"path", path)
