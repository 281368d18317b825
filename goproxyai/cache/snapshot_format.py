"""The content of a cache snapshot: the stored responses, one record each.

1. A record is a struct of numbers, which include the lengths of six texts, and the texts.
2. Times are unix seconds of the wall clock, because monotonic clocks start anew with the machine.
3. :mod:`.snapshot_stream` authenticates the bytes before they are parsed. A length that exceeds
   the content is nevertheless an error and takes no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Final

import attrs

from goproxyai.cache.entry import Entry, new_entry
from goproxyai.cache.snapshot_stream import DAMAGED, SnapshotError, decrypt, encrypt
from goproxyai.usage.usage import COUNTS, Usage

MAX_CLOCK_SKEW_SECONDS: Final = 60.0
"""An entry that was stored further in the future is not restored: the wall clock was set back."""

_NUMBERS = Struct(f"<32sHQddQQQQQQ{COUNTS}Q")
_NONE = 2**64 - 1
_NO_TOKENS = (_NONE,) * COUNTS


@attrs.frozen
class Record:
    """The attributes of an :class:`~.entry.Entry` and its place in the index.

    :ivar key: 32 bytes.
    :ivar stored: unix seconds.
    :ivar expires: unix seconds.
    """

    key: bytes
    status: int
    head: bytes
    body: bytes
    timing: bytes | None
    initial_age: int
    stored: float
    expires: float
    path: bytes
    owner: bytes
    usage: Usage | None = None


def record_of(entry: Entry, shift: float) -> Record:
    """Return the record of a stored *entry*.

    :param shift: unix seconds minus monotonic seconds.
    """
    bucket = entry.bucket
    assert bucket is not None, "the entry is stored"
    return Record(
        entry.key,
        entry.status,
        entry.head,
        entry.body,
        entry.timing,
        entry.initial_age,
        entry.stored_at + shift,
        entry.expires_at + shift,
        bucket.path,
        bucket.owner,
        entry.usage(),
    )


def restored_entry(
    record: Record, now: float, unix_now: float, stale_seconds: float
) -> Entry | None:
    """Return the entry of *record*, or ``None`` if it has expired or is of the future.

    The entry never lives longer than its lifetime at storage, even if the wall clock was set back.

    :param now: monotonic seconds.
    :param unix_now: unix seconds at the same moment.
    :param stale_seconds: time for which an expired entry is kept.
    """
    age = unix_now - record.stored
    stored_at = now - max(age, 0.0)
    lifetime = record.expires - record.stored
    if age < -MAX_CLOCK_SKEW_SECONDS or stored_at + lifetime + stale_seconds <= now:
        return None
    return new_entry(
        record.key,
        record.status,
        record.head,
        record.body,
        stored_at,
        lifetime,
        record.initial_age,
        record.timing,
        record.usage,
    )


def write_records(
    records: Iterable[Record], header: bytes, key: bytes, context: bytes
) -> Iterator[bytes]:
    """Yield the parts of a snapshot file.

    :param records: in the order in which :func:`read_records` yields them.
    :param header: made by :func:`~.snapshot_stream.new_header`, and not used before.
    :param key: made by :func:`~.snapshot_stream.derive_key`.
    :param context: see :mod:`.snapshot_stream`.
    """
    yield header
    yield from encrypt(_encode(records), header, key, context)


def read_records(
    read: Callable[[int], bytes], header: bytes, key: bytes, context: bytes
) -> Iterator[Record]:
    """Yield the records of a snapshot file.

    Each record is authentic when it is yielded. Whether the file is complete is known at the end.

    :param read: returns the given number of bytes that follow the header, fewer at the end.
    :raises SnapshotError: if the file is not what :func:`write_records` made.
    """
    content = _Content(decrypt(read, header, key, context))
    while not content.at_end():
        yield _decode(content)


def _encode(records: Iterable[Record]) -> Iterator[bytes]:
    """Yield two parts for each record: the body is large and is not copied here."""
    for one in records:
        timing = b"" if one.timing is None else one.timing
        model = "" if one.usage is None else one.usage.model
        tokens = _NO_TOKENS if one.usage is None else one.usage.counts()
        numbers = _NUMBERS.pack(
            one.key,
            one.status,
            one.initial_age,
            one.stored,
            one.expires,
            len(one.head),
            _NONE if one.timing is None else len(timing),
            len(one.path),
            len(one.owner),
            len(model),
            len(one.body),
            *tokens,
        )
        yield b"".join((numbers, one.head, timing, one.path, one.owner, model.encode("ascii")))
        yield one.body


def _decode(content: _Content) -> Record:
    numbers = _NUMBERS.unpack(content.take(_NUMBERS.size))
    key, status, initial_age, stored, expires, head, timing, path, owner, model, body = numbers[:11]
    tokens = numbers[11:]
    return Record(
        key=key,
        status=status,
        initial_age=initial_age,
        stored=stored,
        expires=expires,
        # Arguments are evaluated in this order, which is the order of the texts.
        head=content.take(head),
        timing=None if timing == _NONE else content.take(timing),
        path=content.take(path),
        owner=content.take(owner),
        usage=_usage(content.take(model), tokens),
        body=content.take(body),
    )


def _usage(model: bytes, tokens: tuple[int, ...]) -> Usage | None:
    return None if tokens == _NO_TOKENS else Usage.of(model.decode("ascii", "replace"), tokens)


class _Content:
    """Reads chunks as one sequence of bytes."""

    __slots__ = ("_chunk", "_chunks", "_position")

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._position = 0

    def at_end(self) -> bool:
        """Whether no byte is left; reads the next chunk if the current one is used up."""
        while self._position == len(self._chunk):
            chunk = next(self._chunks, None)
            if chunk is None:
                return True
            self._chunk, self._position = chunk, 0
        return False

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes; never allocates more than the content has.

        :raises SnapshotError: if there are fewer bytes.
        """
        start, end = self._position, self._position + count
        if end <= len(self._chunk):
            self._position = end
            return self._chunk[start:end]
        parts = []
        while count:
            if self.at_end():
                raise SnapshotError(DAMAGED)
            part = self._chunk[self._position : self._position + count]
            self._position += len(part)
            count -= len(part)
            parts.append(part)
        return b"".join(parts)
