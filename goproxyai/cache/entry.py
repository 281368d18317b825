"""A stored response, and the containers that invalidation finds it by.

The classes refer to each other, hence one module: an :class:`Entry` is in an :class:`OwnerBucket`
of its path and owner. A bucket is in the :class:`PathIndex` of its path, which a clearing drops,
and in the :class:`OwnerGroup` of its owner, which a write drops.
"""

from __future__ import annotations

from typing import Final

from goproxyai.usage.usage import Usage, UsageSource

ENTRY_OVERHEAD_BYTES: Final = 600
"""Memory of an entry besides its texts; a test compares the accounting with ``tracemalloc``."""

USAGE_OVERHEAD_BYTES: Final = 200
"""Memory of an entry's token usage."""


class Entry:
    """A stored response.

    The header is kept once, as the bytes that are sent. It has no ``Set-Cookie``, and none of the
    fields that differ between replies: ``Content-Length``, ``Transfer-Encoding``, ``Age``.

    :ivar key: 32 bytes, made by :func:`~.key.cache_key`.
    :ivar head: status line and header lines. The last line is the name of the request ID field
        without a value, see :func:`goproxyai.proxy.response_head.stored_lines`.
    :ivar body: the whole body as received, possibly compressed.
    :ivar stored_at: monotonic seconds.
    :ivar expires_at: monotonic seconds.
    :ivar initial_age: the ``Age`` of the upstream's response in seconds.
    :ivar timing: packed :class:`~.stream_timing.StreamTiming` of an event stream, else ``None``.
    :ivar usage_source: reads the token usage; ``None`` if the response cannot report any.
    :ivar bucket: the container in the index; ``None`` unless the entry is stored.
    :ivar size: bytes that the entry is accounted for, overhead included.
    :ivar last_use: sequence number of the last use.
    """

    __slots__ = (
        "body", "bucket", "expires_at", "head", "initial_age", "key", "last_use", "size", "status",
        "stored_at", "timing", "usage_source",
    )  # fmt: skip

    def __init__(
        self,
        key: bytes,
        status: int,
        head: bytes,
        body: bytes,
        stored_at: float,
        expires_at: float,
        initial_age: int,
        timing: bytes | None,
        usage_source: UsageSource | None = None,
    ) -> None:
        self.key = key
        self.status = status
        self.head = head
        self.body = body
        self.stored_at = stored_at
        self.expires_at = expires_at
        self.initial_age = initial_age
        self.timing = timing
        self.bucket: OwnerBucket | None = None
        self.last_use = 0
        self.usage_source = usage_source
        self.size = len(body) + len(head) + len(key) + len(timing or b"") + ENTRY_OVERHEAD_BYTES
        if usage_source is not None:
            self.size += USAGE_OVERHEAD_BYTES

    def usage(self) -> Usage | None:
        """Return the token usage of the response, ``None`` if it reports none."""
        return None if self.usage_source is None else self.usage_source.usage()

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a ``text/event-stream``."""
        return self.timing is not None

    @property
    def is_dropped(self) -> bool:
        """Whether an invalidation dropped the entry, which may still be in the store."""
        bucket = self.bucket
        return bucket is None or bucket.group.dropped or bucket.path_index.dropped

    def age(self, now: float) -> int:
        """Seconds since the upstream generated the response (RFC 9111 §4.2.3)."""
        return self.initial_age + max(0, int(now - self.stored_at))


class OwnerBucket(set[Entry]):
    """Entries of one path and owner.

    :ivar path_index: the buckets of the path.
    :ivar group: the buckets of the owner.
    :ivar previous: an older bucket of the same path and owner, if there is one.
    """

    __slots__ = ("group", "path_index", "previous")

    # A bucket is an element of its group, and two buckets are never equal.
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__

    def __init__(
        self, path_index: PathIndex, group: OwnerGroup, previous: OwnerBucket | None
    ) -> None:
        super().__init__()
        self.path_index = path_index
        self.group = group
        self.previous = previous

    @property
    def path(self) -> bytes:
        """The path of the entries' requests, without the query."""
        return self.path_index.path

    @property
    def owner(self) -> bytes:
        """The owner of the entries."""
        return self.group.owner


class PathIndex(dict[bytes, OwnerBucket]):
    """The newest bucket of each owner, for one path.

    :ivar dropped: whether the entries of all owners were cleared.
    """

    __slots__ = ("dropped", "path")

    def __init__(self, path: bytes) -> None:
        super().__init__()
        self.path = path
        self.dropped = False


class OwnerGroup(set[OwnerBucket]):
    """Buckets of one owner, of any paths.

    :ivar previous: a full group of the same owner, if there is one.
    :ivar dropped: whether a write invalidated the entries.
    """

    __slots__ = ("dropped", "owner", "previous")

    def __init__(self, owner: bytes, previous: OwnerGroup | None) -> None:
        super().__init__()
        self.owner = owner
        self.previous = previous
        self.dropped = False
