"""The records of a snapshot."""

from __future__ import annotations

import os
import tracemalloc
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache import record as record_module
from goproxyai.cache import snapshot_stream
from goproxyai.cache.record import Record
from goproxyai.cache.snapshot_format import read_records, write_records
from goproxyai.cache.snapshot_stream import CHUNK_BYTES, HEADER_BYTES, SnapshotError, encrypt
from goproxyai.usage.usage import Details, Usage
from tests.unit.cache.snapshots import (
    BODY,
    CONTEXT,
    HEADER,
    KEY,
    any_record,
    read,
    record,
    with_passphrase,
    written,
)

VERSION_4 = (
    "676f70726f7879616920636163686500040201300000000102030405060708090a0b0c0d0e0f0318b215d4a03e"
    "d9de77c4375de7a6096cddd64a14acc602fdca0830701caf28cea99cf4f77e871016afd24b7490f1ffde2577e0"
    "8cabab67db80240439fa9dcc8eb7b052e5910641f54ae8bf00626b6c41ecbb3d8c22777b6d1f23fbd4768e1ad1"
    "563288676d74d890155ede15bd242170f9885ac8cc537592fdeef0c7c7b8c631452d3271fa357c4cabe73e0212"
    "32987a8b2a4223d5457824ae6e96c71ea66e5a204f0fcb3628daf496832a14478c5e4133147649d826d6adb01e"
    "b9600afc78c5f6ca99b2fe0863ad9776ca27b8479f5e70c85f95e68a2c9d8b3ec33ce74a7a54a6e5b1deb97979"
    "f75bd72ae1914a3b20cecc81e0de5750e09054a7e2171a506fb0583e2fddb93c63388a976ef6e6"
)
"""A file of one record, of the real cost, of version 4."""


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
    usage = Usage("m", 1, 2, 3, 4, Details(5, 6, 7, 8, 9, 10, 11, 12))
    kept = record(0, head=b"h", body=b"b", timing=b"", initial_age=7, usage=usage)
    assert with_passphrase(bytes.fromhex(VERSION_4)) == [kept]


def with_lengths(**lengths: int) -> bytes:
    """An authentic file with a record that claims *lengths*."""
    names = ("head", "timing", "path", "owner", "model", "body")
    claimed = [lengths.get(name, 0) for name in names]
    none = record_module._NO_TOKENS
    numbers = record_module._NUMBERS.pack(bytes(32), 200, 0, 0.0, 0.0, *claimed, *none)
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
