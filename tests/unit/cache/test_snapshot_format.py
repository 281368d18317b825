"""The records of a snapshot, and the entries that are restored from them."""

from __future__ import annotations

import os
import tracemalloc
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache import snapshot_format, snapshot_stream
from goproxyai.cache.snapshot_format import (
    MAX_CLOCK_SKEW_SECONDS,
    Record,
    read_records,
    restored_entry,
    write_records,
)
from goproxyai.cache.snapshot_stream import CHUNK_BYTES, HEADER_BYTES, SnapshotError, encrypt
from goproxyai.usage.usage import Usage
from tests.unit.cache.snapshots import (
    BODY,
    CONTEXT,
    HEADER,
    KEY,
    read,
    record,
    with_passphrase,
    written,
)

VERSION_3 = (
    "676f70726f7879616920636163686500030201300000000102030405060708090a0b0c0d0e0f65c379906a43ba"
    "c5372659baf6ab8be1f0b728f750dcf4199704ea2f9e87cb6d8cc6551282af6a0396ae888271f1be1edd35f479"
    "81597b86b37d391649dc1827717568a0b670226ce788485bb0e688c10ebb5ac1a77f1dab9804e0278e4beec227"
    "8df0eacee5c3145a3150abe918f2074cddd0f8aaff6ccfb41843350f7e1b35be36cce5063fb9ffd560acc1c239"
    "bfaa9b9a08df741c831226cdb976cf581ed1dcaf1edc6231b12340f691db745e65eea557888fa00e58b975da32"
    "7b5ccd17da18315d28b179e8b299069f6b8dc559"
)
"""A file of one record, of the real cost, that a release wrote as version 3."""

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
    ),
)


@given(st.lists(any_record, max_size=5), st.sampled_from([1, 7, 64, 2**20]))
def test_written_records_are_read_unchanged(records: list[Record], size: int) -> None:
    with mock.patch.object(snapshot_stream, "CHUNK_BYTES", size):
        assert read(written(records)) == records


def test_body_of_several_chunks_is_read_unchanged() -> None:
    large = record(1, body=os.urandom(3 * CHUNK_BYTES + 17))
    records = [record(), large, record(2, body=bytes(CHUNK_BYTES)), record(3)]
    assert read(written(records)) == records


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_record_may_end_at_the_end_of_a_chunk(more: int) -> None:
    size = len(written([record()])) - HEADER_BYTES - 24 - 17
    with mock.patch.object(snapshot_stream, "CHUNK_BYTES", size):
        records = [record(), record(1, body=BODY + bytes(size + more))]
        assert read(written(records)) == records


def test_file_of_this_version_stays_readable() -> None:
    usage = Usage("m", 1, 2, 3, 4)
    kept = record(0, head=b"h", body=b"b", timing=b"", initial_age=7, usage=usage)
    assert with_passphrase(bytes.fromhex(VERSION_3)) == [kept]


def with_lengths(**lengths: int) -> bytes:
    """An authentic file with a record that claims *lengths*."""
    names = ("head", "timing", "path", "owner", "model", "body")
    claimed = [lengths.get(name, 0) for name in names]
    none = snapshot_format._NO_USAGE[1:]
    numbers = snapshot_format._NUMBERS.pack(bytes(32), 200, 0, 0.0, 0.0, *claimed, *none)
    return HEADER + b"".join(encrypt([numbers, BODY], HEADER, KEY, CONTEXT))


@pytest.mark.parametrize("name", ["head", "timing", "path", "owner", "model", "body"])
@pytest.mark.parametrize("claimed", [len(BODY) + 1, 2**31, 2**40, 2**40 + 1, 2**63, 2**64 - 2])
def test_length_beyond_the_content_is_refused(name: str, claimed: int) -> None:
    with pytest.raises(SnapshotError, match="damaged"):
        read(with_lengths(**{name: claimed}))


def test_bytes_after_the_last_record_are_refused() -> None:
    assert len(read(with_lengths(body=len(BODY)))) == 1
    with pytest.raises(SnapshotError, match="damaged"):
        read(with_lengths(body=len(BODY) - 1))


def test_writing_and_reading_hold_a_few_chunks_and_one_entry() -> None:
    body = bytes(4 * CHUNK_BYTES)
    records = (record(number, body=body) for number in range(8))
    parts = write_records(records, HEADER, KEY, CONTEXT)
    next(parts)
    tracemalloc.start()
    try:
        for each in read_records(lambda count: next(parts, b""), HEADER, KEY, CONTEXT):
            assert len(each.body) == len(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Three bodies: the entry before, the current entry, and the parts of the current entry.
    assert peak < 3 * len(body) + 8 * CHUNK_BYTES


moments = st.floats(0, 4e9)


@given(moments, st.floats(0, 1e7), moments, moments, st.floats(0, 1e6))
def test_restored_entry_never_exceeds_its_lifetime(
    stored: float, lifetime: float, now: float, unix_now: float, stale: float
) -> None:
    old = record(stored=stored, expires=stored + lifetime)
    lifetime = old.expires - old.stored  # rounded
    entry = restored_entry(old, now, unix_now, stale)
    if entry is None:
        ahead = max(stored - unix_now, 0.0)
        expired = lifetime + stale <= max(unix_now - stored, 0.0) + 1e-3
        assert expired or ahead > MAX_CLOCK_SKEW_SECONDS
    else:
        assert stored <= unix_now + MAX_CLOCK_SKEW_SECONDS
        assert entry.stored_at <= now
        assert now - stale < entry.expires_at <= now + lifetime
        left = old.expires - unix_now
        assert entry.expires_at - now <= left + MAX_CLOCK_SKEW_SECONDS + 1e-3
