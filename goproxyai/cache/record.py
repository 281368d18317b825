"""A stored response apart from the store: what a snapshot and another process get of an entry.

1. A record is a struct of numbers, which include the lengths of six texts, and the texts.
2. Times are unix seconds of the wall clock, because monotonic clocks differ between processes and
   start anew with the machine.
3. A length that exceeds the content is an error and takes no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

import msgspec

from goproxyai.cache.entry import Entry, new_entry
from goproxyai.usage.usage import COUNTS, Usage

VERSION: Final = 1
"""Of :func:`encode_record`. Covers the way in which :mod:`~.key` makes cache keys too."""

MAX_CLOCK_SKEW_SECONDS: Final = 60.0
"""A record that was stored further in the future is not restored: the wall clock was set back."""

_NUMBERS = Struct(f"<32sHQddQQQQQQ{COUNTS}Q")
_VERSION = bytes((VERSION,))
_NONE = 2**64 - 1
_NO_TOKENS = (_NONE,) * COUNTS


class RecordError(ValueError):
    """The bytes are no record of this version."""


class Record(msgspec.Struct, frozen=True, gc=False):
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
    times = restored_times(record, now, unix_now, stale_seconds)
    if times is None:
        return None
    return new_entry(
        record.key,
        record.status,
        record.head,
        record.body,
        *times,
        record.initial_age,
        record.timing,
        record.usage,
    )


def restored_times(
    record: Record, now: float, unix_now: float, stale_seconds: float
) -> tuple[float, float] | None:
    """Return ``stored_at`` and ``lifetime`` of the entry that :func:`restored_entry` returns."""
    age = unix_now - record.stored
    stored_at = now - max(age, 0.0)
    lifetime = record.expires - record.stored
    if age < -MAX_CLOCK_SKEW_SECONDS or stored_at + lifetime + stale_seconds <= now:
        return None
    return stored_at, lifetime


def encode_record(record: Record) -> bytes:
    """Return *record* as bytes, which :func:`decode_record` reads."""
    return b"".join(encoded_parts(record))


def encoded_parts(record: Record) -> tuple[bytes, ...]:
    """Return the parts of :func:`encode_record`: a large body is not copied."""
    return (_VERSION, *record_parts(record))


def encoded_entry_parts(entry: Entry, path: bytes, owner: bytes) -> tuple[bytes, ...]:
    """Return :func:`encoded_parts` of the record of *entry*, whose times are monotonic seconds."""
    return _VERSION, *_parts(
        entry.key, entry.status, entry.initial_age, entry.stored_at, entry.expires_at,
        entry.head, entry.timing, path, owner, entry.usage(), entry.body,
    )  # fmt: skip


def decode_record(data: bytes) -> Record:
    """Return the record of :func:`encode_record`.

    :raises RecordError: *data* is not what this version of :func:`encode_record` made.
    """
    if data[:1] != _VERSION:
        raise RecordError(f"the version of a record is {data[:1]!r}, expected {VERSION}")
    position = 1

    def take(count: int) -> bytes:
        nonlocal position
        begin, position = position, position + count
        if position > len(data):
            raise RecordError("a record is shorter than it says")
        return data[begin:position]

    record = read_record(take)
    if position != len(data):
        raise RecordError("a record is longer than it says")
    return record


def record_parts(record: Record) -> tuple[bytes, bytes]:
    """Return what :func:`read_record` reads, in two parts: a large body is not copied."""
    return _parts(
        record.key, record.status, record.initial_age, record.stored, record.expires,
        record.head, record.timing, record.path, record.owner, record.usage, record.body,
    )  # fmt: skip


def _parts(
    key: bytes,
    status: int,
    initial_age: int,
    stored: float,
    expires: float,
    head: bytes,
    timing: bytes | None,
    path: bytes,
    owner: bytes,
    usage: Usage | None,
    body: bytes,
) -> tuple[bytes, bytes]:
    if usage is None:
        model, tokens = b"", _NO_TOKENS
    else:
        model, tokens = usage.model.encode("ascii"), usage.counts()
    timing_size = _NONE if timing is None else len(timing)
    numbers = _NUMBERS.pack(
        key, status, initial_age, stored, expires,
        len(head), timing_size, len(path), len(owner), len(model), len(body), *tokens,
    )  # fmt: skip
    return b"".join((numbers, head, timing or b"", path, owner, model)), body


def read_record(take: Callable[[int], bytes]) -> Record:
    """Return the next record.

    :param take: returns the next bytes, exactly as many as its argument says, or raises an error.
    """
    numbers = _NUMBERS.unpack(take(_NUMBERS.size))
    key, status, initial_age, stored, expires, head, timing, path, owner, model, body = numbers[:11]
    after_head = head + (0 if timing == _NONE else timing)
    after_path = after_head + path
    after_owner = after_path + owner
    texts = take(after_owner + model)  # at once: for each, a call takes longer than a slice
    return Record(
        key,
        status,
        texts[:head],
        take(body),
        None if timing == _NONE else texts[head:after_head],
        initial_age,
        stored,
        expires,
        texts[after_head:after_path],
        texts[after_path:after_owner],
        _usage(texts[after_owner:], numbers[11:]),
    )


def _usage(model: bytes, tokens: tuple[int, ...]) -> Usage | None:
    return None if tokens == _NO_TOKENS else Usage.of(model.decode("ascii", "replace"), tokens)
