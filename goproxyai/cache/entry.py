"""A stored response, and the containers that it is found by.

The classes refer to each other, hence one module. An :class:`Entry` is in an :class:`OwnerBucket`
of its path and owner, and in a :class:`Segment` of the :class:`~.entry_table.EntryTable`. A bucket
is in the :class:`PathIndex` of its path, which a clearing drops, and in the :class:`OwnerGroup` of
its owner, which a write drops.

A hit of one of a million entries mostly waits for memory: each object that it touches costs 0.1 us
or more. So an entry is one struct and one text, the lists that hold it know its place instead of
hashing it, and numbers are shared where they repeat (``python -m bench.entries``).
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from goproxyai.usage.usage import NO_DETAILS, Usage

ENTRY_OVERHEAD_BYTES: Final = 320
"""Memory of an entry besides its texts; a test compares the accounting with ``tracemalloc``."""

EXTRA_OVERHEAD_BYTES: Final = 90
"""Memory of an :class:`Extra` and of a body besides its bytes."""

USAGE_OVERHEAD_BYTES: Final = 300
"""Memory of a token usage that does not fit into the text of an entry."""

MAX_PACKED_BODY_BYTES: Final = 4096
"""A body up to this size is copied into the text of its entry; the copy takes 0.2 us at most."""

INDEXES: Final = tuple(range(8192))
"""Shared numbers: an ``int`` above 256 of its own takes 32 bytes."""

# Prompt, completion, cached and reasoning tokens, and the number of the model.
_COUNTS = struct.Struct("<4IH")
HEAD_AT: Final = _COUNTS.size
"""Where the header begins in the text of an entry."""

_NO_USAGE = _COUNTS.pack(0, 0, 0, 0, 0)
_MAX_MODELS = 1000

_models: list[str] = [""]  # by number; 0 means that there is no usage
_model_numbers: dict[str, int] = {}


class Extra(msgspec.Struct, gc=False, eq=False):
    """What few entries have.

    :ivar body: one that is larger than :data:`MAX_PACKED_BODY_BYTES`.
    :ivar timing: packed :class:`~.stream_timing.StreamTiming` of an event stream.
    :ivar usage: one that does not fit into the text.
    """

    body: bytes | None
    timing: bytes | None
    usage: Usage | None


class Entry(msgspec.Struct, gc=False, eq=False):
    """A stored response; :func:`new_entry` makes one.

    The header is kept once, as the bytes that are sent. It has no ``Set-Cookie``, and none of the
    fields that differ between replies: ``Content-Length``, ``Transfer-Encoding``, ``Age``.

    The garbage collector does not see entries, which saves 16 bytes and the time of its passes. So
    an entry that leaves the store must not keep its references to the containers, which refer to
    it.

    :ivar text: packed token usage, then the header, then the body unless it is in :attr:`extra`.
    :ivar head_end: where the header ends in :attr:`text`.
    :ivar stored_at: monotonic seconds.
    :ivar lifetime: seconds from :attr:`stored_at` for which the entry is fresh.
    :ivar initial_age: the ``Age`` of the upstream's response in seconds.
    :ivar key: 32 bytes, made by :func:`~.key.cache_key`.
    :ivar bucket: the container in the index; ``None`` unless the entry is stored.
    :ivar bucket_index: the place in :attr:`bucket`.
    :ivar segment: the container in the table; ``None`` unless the entry is stored.
    :ivar slot: the place in :attr:`segment`.
    """

    text: bytes
    head_end: int
    stored_at: float
    lifetime: float
    initial_age: int
    status: int
    extra: Extra | None
    key: bytes
    segment: Segment | None = None
    slot: int = 0
    bucket: OwnerBucket | None = None
    bucket_index: int = 0

    __repr__ = object.__repr__  # without texts

    @property
    def head(self) -> bytes:
        """Status line and header lines.

        The last line is the name of the request ID field without a value, see
        :func:`goproxyai.proxy.response_head.stored_lines`.
        """
        return self.text[HEAD_AT : self.head_end]

    @property
    def body(self) -> bytes:
        """The whole body as received, possibly compressed. A small one is copied."""
        extra = self.extra
        if extra is None or extra.body is None:
            return self.text[self.head_end :]
        return extra.body

    @property
    def body_size(self) -> int:
        """Bytes of the body."""
        extra = self.extra
        if extra is None or extra.body is None:
            return len(self.text) - self.head_end
        return len(extra.body)

    @property
    def timing(self) -> bytes | None:
        """Packed :class:`~.stream_timing.StreamTiming` of an event stream, else ``None``."""
        return None if self.extra is None else self.extra.timing

    @property
    def expires_at(self) -> float:
        """Monotonic seconds."""
        return self.stored_at + self.lifetime

    @property
    def size(self) -> int:
        """Bytes that the entry is accounted for, overhead included."""
        size = len(self.text) - HEAD_AT + len(self.key) + ENTRY_OVERHEAD_BYTES
        extra = self.extra
        if extra is not None:
            size += len(extra.body or b"") + len(extra.timing or b"") + EXTRA_OVERHEAD_BYTES
            if extra.usage is not None:
                size += USAGE_OVERHEAD_BYTES
        return size

    def usage(self) -> Usage | None:
        """Return the token usage of the response, ``None`` if it reports none."""
        if self.extra is not None and self.extra.usage is not None:
            return self.extra.usage
        prompt, completion, cached, reasoning, model = _COUNTS.unpack_from(self.text)
        if not model:
            return None
        # `Usage(...)` takes three times as long.
        return tuple.__new__(
            Usage, (_models[model], prompt, completion, cached, reasoning, NO_DETAILS)
        )

    def free(self) -> None:
        """Let go of the containers, and of the texts but for the usage, which may be logged later.

        A replay of the entry holds the body itself.
        """
        self.text = self.text[:HEAD_AT]
        self.segment = self.bucket = None
        if self.extra is not None:
            self.extra.body = None

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a ``text/event-stream``."""
        return self.extra is not None and self.extra.timing is not None

    @property
    def is_dropped(self) -> bool:
        """Whether an invalidation dropped the entry, which may still be in the store."""
        bucket = self.bucket
        return bucket is None or bucket.group.dropped or bucket.path_index.dropped

    def age(self, now: float) -> int:
        """Seconds since the upstream generated the response (RFC 9111 §4.2.3)."""
        return self.initial_age + max(0, int(now - self.stored_at))


def new_entry(
    key: bytes,
    status: int,
    head: bytes,
    body: bytes,
    stored_at: float,
    lifetime: float,
    initial_age: int,
    timing: bytes | None,
    usage: Usage | None = None,
) -> Entry:
    """Return an entry that is not stored.

    The parameters are the attributes of :class:`Entry`.

    :param lifetime: the setting itself in most entries, which share this object.
    """
    counts, extra = _NO_USAGE, None
    if usage is not None:
        packed = _packed(usage)
        if packed is not None:
            counts, usage = packed, None
    is_large = len(body) > MAX_PACKED_BODY_BYTES
    if is_large or timing is not None or usage is not None:
        extra = Extra(body if is_large else None, timing, usage)
        body = b"" if is_large else body
    head_end = HEAD_AT + len(head)
    if head_end < len(INDEXES):
        head_end = INDEXES[head_end]
    return Entry(
        b"".join((counts, head, body)), head_end, stored_at, lifetime, initial_age, status, extra,
        key,
    )  # fmt: skip


def _packed(usage: Usage) -> bytes | None:
    """Return *usage* as the first bytes of an entry's text, ``None`` if it does not fit."""
    model, prompt, completion, cached, reasoning, details = usage
    number = _model_numbers.get(model)
    if number is None:
        if len(_models) > _MAX_MODELS:
            return None
        number = _model_numbers[model] = len(_models)
        _models.append(model)
    if details is not NO_DETAILS:
        return None
    try:
        return _COUNTS.pack(prompt, completion, cached, reasoning, number)
    except struct.error:  # a count of 2**32 or more
        return None


class Segment:
    """A part of all entries, by column: the entry in slot *n* has the *n*-th byte of each column.

    :ivar entries: at most :data:`~.segments.SEGMENT_ENTRIES`.
    :ivar epochs: when the entry was used last, see :mod:`.use_order`.
    :ivar expiries: when the entry is removed, see :mod:`.expiry_wheel`.
    """

    __slots__ = ("entries", "epochs", "expiries")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.epochs = bytearray()
        self.expiries = bytearray()


class OwnerBucket(list[Entry]):
    """Entries of one path and owner, in any order.

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

    def add(self, entry: Entry) -> None:
        """Add an entry that is in no bucket."""
        entry.bucket = self
        entry.bucket_index = INDEXES[len(self)]
        self.append(entry)

    def discard(self, entry: Entry) -> None:
        """Remove an entry of this bucket, which ``pop`` may have taken."""
        index = entry.bucket_index
        entry.bucket = None
        if index < len(self) and self[index] is entry:
            last = self.pop()
            if last is not entry:
                self[index] = last
                last.bucket_index = index

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
