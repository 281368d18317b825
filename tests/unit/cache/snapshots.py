"""Snapshot files for the tests of their encryption and of their content."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any
from unittest import mock

from hypothesis import strategies as st
from msgspec import structs

from goproxyai.cache import snapshot_stream
from goproxyai.cache.entry import Entry
from goproxyai.cache.record import Record, restored_entry
from goproxyai.cache.snapshot_format import read_records, write_records
from goproxyai.cache.snapshot_stream import HEADER_BYTES, derive_key, new_header
from goproxyai.cache.store import Store
from goproxyai.usage.usage import NO_DETAILS, Details, Usage
from tests.unit.cache.stored import ALICE, FILES, HEAD, TTL

BODY = b'{"answer": "private text"}'
CONTEXT = b"https://api.openai.com"
KEY = b"\7" * 32


times = st.floats(allow_nan=False)
texts = st.binary(max_size=40)
any_record = st.builds(
    Record,
    key=st.binary(min_size=32, max_size=32),
    status=st.integers(0, 65_535),
    head=texts,
    body=st.binary(max_size=400),
    timing=st.none() | texts,
    initial_age=st.integers(0, 2**32 - 1),
    stored=times,
    expires=times,
    path=texts,
    owner=texts,
    usage=st.none()
    | st.builds(
        Usage,
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
        *[st.integers(0, 10**12)] * 4,
        st.just(NO_DETAILS) | st.builds(Details, *[st.integers(0, 10**12)] * 8),
    ),
)


def cheap_header(salt: bytes) -> bytes:
    """A header with the least cost of key derivation."""
    with (
        mock.patch.object(snapshot_stream, "KDF_MEMORY_BYTES", 8192),
        mock.patch.object(snapshot_stream, "KDF_PASSES", 1),
    ):
        return new_header(salt)


HEADER = cheap_header(b"\1" * 16)


def record(number: int = 0, **more: Any) -> Record:
    key = b"%032d" % number
    return structs.replace(
        Record(key, 200, HEAD, BODY, None, 0, 1e9, 1e9 + TTL, FILES, ALICE), **more
    )


def stored_entry(one: Record, now: float, unix_now: float, stale_seconds: float = 0.0) -> Entry:
    """The entry of a record, in a store.

    :param stale_seconds: how long ago the record may have expired.
    """
    entry = restored_entry(one, now, unix_now, stale_seconds)
    assert entry is not None
    store = Store(1_000_000_000)
    assert store.put(entry, one.path, one.owner, store.generation())
    return entry


def written(records: Iterable[Record], header: bytes = HEADER, key: bytes = KEY) -> bytes:
    return b"".join(write_records(records, header, key, CONTEXT))


def read(data: bytes, key: bytes = KEY, context: bytes = CONTEXT) -> list[Record]:
    content = io.BytesIO(data[HEADER_BYTES:])
    return list(read_records(content.read, data[:HEADER_BYTES], key, context))


def with_passphrase(
    data: bytes, passphrase: bytes = b"passphrase", context: bytes = CONTEXT
) -> list[Record]:
    return read(data, derive_key(data[:HEADER_BYTES], passphrase), context)


def small_file() -> bytes:
    """A file of one record that :func:`with_passphrase` reads."""
    return written([record()], HEADER, derive_key(HEADER, b"passphrase"))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
