"""The entries by owner and by path: the index that a write or a clearing finds entries by.

1. An entry is in a bucket of its path and owner. A write drops all buckets of an owner, a clearing
   all buckets of a path.
2. An invalidation marks a whole :class:`~.entry.OwnerGroup`, or a whole :class:`~.entry.PathIndex`,
   as dropped, which takes constant time. The entries in it are then removed in slices:
   :meth:`InvalidationIndex.next_dropped` returns them one by one.
3. A bucket holds at most :data:`MAX_BUCKET_ENTRIES`, and a group as many buckets, because growing a
   large set takes long. A full one is followed by another one.
4. A dropped bucket gets no more entries.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from goproxyai.cache.entry import Entry, OwnerBucket, OwnerGroup, PathIndex

MAX_BUCKET_ENTRIES: Final = 4096

BUCKET_OVERHEAD_BYTES: Final = 200
PATH_OVERHEAD_BYTES: Final = 300
GROUP_OVERHEAD_BYTES: Final = 360

_SHARDS = 256

_Chained = TypeVar("_Chained", OwnerBucket, OwnerGroup)


class InvalidationIndex:
    """Buckets by path and by owner.

    :ivar pending: dropped containers whose entries are still stored.
    """

    __slots__ = ("_groups", "_shards", "pending")

    def __init__(self) -> None:
        self._shards: list[dict[bytes, PathIndex]] = _empty_shards()
        self._groups: list[dict[bytes, OwnerGroup]] = _empty_shards()
        self.pending: list[OwnerBucket | OwnerGroup | PathIndex] = []

    def add(self, entry: Entry, path: bytes, owner: bytes) -> int:
        """Add an entry; return the bytes of overhead that were added."""
        added = 0
        shard = self._shards[hash(path) % _SHARDS]
        path_index = shard.get(path)
        if path_index is None:
            path_index = shard[path] = PathIndex(path)
            added += PATH_OVERHEAD_BYTES + len(path)
        bucket = path_index.get(owner)
        if bucket is None or len(bucket) >= MAX_BUCKET_ENTRIES or bucket.group.dropped:
            groups = self._groups[hash(owner) % _SHARDS]
            group = groups.get(owner)
            if group is None or len(group) >= MAX_BUCKET_ENTRIES:
                group = groups[owner] = OwnerGroup(owner, group)
                added += GROUP_OVERHEAD_BYTES
            bucket = path_index[owner] = OwnerBucket(path_index, group, bucket)
            group.add(bucket)
            added += BUCKET_OVERHEAD_BYTES
        bucket.add(entry)
        return added

    def remove(self, entry: Entry) -> int:
        """Remove an entry, which :meth:`next_dropped` may have taken; return the bytes freed."""
        bucket = entry.bucket
        assert bucket is not None, "a stored entry is in a bucket"
        bucket.discard(entry)
        return 0 if bucket else BUCKET_OVERHEAD_BYTES + self._remove_bucket(bucket)

    def _remove_bucket(self, empty: OwnerBucket) -> int:
        """Take an empty bucket out of its containers; return the bytes freed of these."""
        freed = 0
        group, path_index = empty.group, empty.path_index
        group.discard(empty)
        if not group and not group.dropped:
            _unlink(self._groups[hash(group.owner) % _SHARDS], group.owner, group)
            freed += GROUP_OVERHEAD_BYTES
        if not path_index.dropped:
            _unlink(path_index, group.owner, empty)
            if not path_index:
                del self._shards[hash(path_index.path) % _SHARDS][path_index.path]
                freed += PATH_OVERHEAD_BYTES + len(path_index.path)
        return freed

    def drop_owner(self, owner: bytes) -> None:
        """Mark the entries of *owner* as dropped."""
        group = self._groups[hash(owner) % _SHARDS].pop(owner, None)
        if group is not None:
            self.pending.append(group)
        while group is not None:
            group.dropped = True
            group = group.previous

    def drop_path(self, path: bytes) -> None:
        """Mark the entries of *path* of all owners as dropped."""
        path_index = self._shards[hash(path) % _SHARDS].pop(path, None)
        if path_index is not None:
            path_index.dropped = True
            self.pending.append(path_index)

    def next_dropped(self) -> tuple[Entry | None, int]:
        """Do one step towards the next dropped entry; :attr:`pending` must not be empty.

        A bucket may be found twice, by its path and by its owner.

        :returns: the entry, which the caller passes to :meth:`remove`, if the step found one; and
            the bytes that the step freed.
        """
        last = self.pending[-1]
        if isinstance(last, OwnerBucket) and last:
            return last.pop(), 0
        if isinstance(last, OwnerGroup) and last:
            self.pending.append(last.pop())
            return None, 0
        if isinstance(last, PathIndex):
            if last:
                self.pending.append(last.popitem()[1])
                return None, 0
            self.pending.pop()
            return None, PATH_OVERHEAD_BYTES + len(last.path)
        self.pending.pop()
        # The older buckets of a dropped owner are in its groups as well.
        follows = isinstance(last, OwnerGroup) or last.path_index.dropped
        if follows and last.previous is not None:
            self.pending.append(last.previous)
        return None, GROUP_OVERHEAD_BYTES if isinstance(last, OwnerGroup) else 0

    def detach(self) -> list[Any]:
        """Become empty; return the containers that hold the entries."""
        containers = [self.pending, self._shards, self._groups]
        self.pending, self._shards, self._groups = [], _empty_shards(), _empty_shards()
        return containers


def _empty_shards() -> list[dict[bytes, Any]]:
    return [{} for _ in range(_SHARDS)]


def _unlink(newest: dict[bytes, _Chained], owner: bytes, empty: _Chained) -> None:
    """Take an empty container out of the chain of *owner*."""
    newer = newest[owner]
    if newer is not empty:
        while newer.previous is not None and newer.previous is not empty:
            newer = newer.previous
        newer.previous = empty.previous
    elif empty.previous is not None:
        newest[owner] = empty.previous
    else:
        del newest[owner]
