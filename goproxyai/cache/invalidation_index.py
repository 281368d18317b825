"""The entries by path and owner: the index that a write or a clearing finds entries by.

An invalidation marks a whole bucket, or a whole path, as dropped, which takes constant time. The
entries in it are then removed in slices: :meth:`InvalidationIndex.next_dropped` returns them one by
one. A bucket holds at most :data:`MAX_BUCKET_ENTRIES`, because growing a large set takes long; a
full bucket is followed by another one.
"""

from __future__ import annotations

from typing import Any, Final

from goproxyai.cache.entry import Entry, OwnerBucket, PathIndex

MAX_BUCKET_ENTRIES: Final = 4096

BUCKET_OVERHEAD_BYTES: Final = 320
PATH_OVERHEAD_BYTES: Final = 330

_SHARDS = 256


class InvalidationIndex:
    """Buckets by path and owner.

    :ivar pending: dropped buckets and paths whose entries are still stored.
    """

    __slots__ = ("_shards", "pending")

    def __init__(self) -> None:
        self._shards = _empty_shards()
        self.pending: list[OwnerBucket | PathIndex] = []

    def find(self, path: bytes) -> PathIndex | None:
        """Return the buckets of *path*."""
        return self._shards[hash(path) % _SHARDS].get(path)

    def add(self, entry: Entry, path: bytes, owner: bytes) -> int:
        """Add an entry; return the bytes of overhead that were added."""
        added = 0
        shard = self._shards[hash(path) % _SHARDS]
        path_index = shard.get(path)
        if path_index is None:
            path_index = shard[path] = PathIndex(path)
            added += PATH_OVERHEAD_BYTES + len(path)
        bucket = path_index.get(owner)
        if bucket is None or len(bucket) >= MAX_BUCKET_ENTRIES:
            bucket = path_index[owner] = OwnerBucket(path_index, owner, bucket)
            added += BUCKET_OVERHEAD_BYTES
        bucket.add(entry)
        entry.bucket = bucket
        return added

    def remove(self, entry: Entry) -> int:
        """Remove an entry, which :meth:`next_dropped` may have taken; return the bytes freed."""
        bucket = entry.bucket
        assert bucket is not None, "a stored entry is in a bucket"
        entry.bucket = None
        bucket.discard(entry)
        if bucket:
            return 0
        if bucket.dropped or bucket.path_index.dropped:
            return BUCKET_OVERHEAD_BYTES
        return BUCKET_OVERHEAD_BYTES + self._unlink(bucket)

    def _unlink(self, empty: OwnerBucket) -> int:
        """Take an empty bucket out of its path; return the bytes freed besides the bucket's."""
        path_index, owner = empty.path_index, empty.owner
        newer = path_index[owner]
        if newer is not empty:
            while newer.previous is not None and newer.previous is not empty:
                newer = newer.previous
            newer.previous = empty.previous
        elif empty.previous is not None:
            path_index[owner] = empty.previous
        else:
            del path_index[owner]
            return self._remove_if_empty(path_index)
        return 0

    def _remove_if_empty(self, path_index: PathIndex) -> int:
        if path_index:
            return 0
        del self._shards[hash(path_index.path) % _SHARDS][path_index.path]
        return PATH_OVERHEAD_BYTES + len(path_index.path)

    def drop(self, path: bytes, owner: bytes) -> int:
        """Mark the entries of *path* and *owner* as dropped; return the bytes freed at once."""
        path_index = self.find(path)
        bucket = None if path_index is None else path_index.pop(owner, None)
        if path_index is None or bucket is None:
            return 0
        self.pending.append(bucket)
        each: OwnerBucket | None = bucket
        while each is not None:
            each.dropped = True
            each = each.previous
        return self._remove_if_empty(path_index)

    def drop_path(self, path: bytes) -> None:
        """Mark the entries of *path* of all owners as dropped."""
        path_index = self._shards[hash(path) % _SHARDS].pop(path, None)
        if path_index is not None:
            path_index.dropped = True
            self.pending.append(path_index)

    def next_dropped(self) -> tuple[Entry | None, int]:
        """Do one step towards the next dropped entry; :attr:`pending` must not be empty.

        :returns: the entry, which the caller passes to :meth:`remove`, if the step found one; and
            the bytes that the step freed.
        """
        last = self.pending[-1]
        if isinstance(last, PathIndex):
            if last:
                self.pending.append(last.popitem()[1])
                return None, 0
            self.pending.pop()
            return None, PATH_OVERHEAD_BYTES + len(last.path)
        if last:
            return last.pop(), 0
        self.pending.pop()
        if last.previous is not None:
            self.pending.append(last.previous)
        return None, 0

    def detach(self) -> list[Any]:
        """Become empty; return the containers that hold the entries."""
        containers = [self.pending, self._shards]
        self.pending, self._shards = [], _empty_shards()
        return containers


def _empty_shards() -> list[dict[bytes, PathIndex]]:
    return [{} for _ in range(_SHARDS)]
