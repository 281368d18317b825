"""The encryption of the snapshot: every change of a file is detected."""

from __future__ import annotations

import os
from itertools import product
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache import snapshot_stream
from goproxyai.cache.snapshot_stream import (
    HEADER_BYTES,
    MAGIC,
    VERSION,
    SnapshotError,
    decrypt,
    derive_key,
    encrypt,
    new_header,
)
from tests.unit.cache.snapshots import (
    CONTEXT,
    HEADER,
    KEY,
    cheap_header,
    flipped,
    read,
    record,
    small_file,
    with_passphrase,
    written,
)

STREAM_HEADER_BYTES = 24
TAG_BYTES = 17

chunk_sizes = st.sampled_from([1, 7, 64, 2**20])


def encrypted(content: bytes) -> bytes:
    return b"".join(encrypt([content], HEADER, KEY, CONTEXT))


def decrypted(data: bytes) -> bytes:
    def take(count: int) -> bytes:
        nonlocal data
        taken, data = data[:count], data[count:]
        return taken

    return b"".join(decrypt(take, HEADER, KEY, CONTEXT))


@given(st.lists(st.binary(max_size=200), max_size=5), chunk_sizes)
def test_decrypted_content_is_the_encrypted_content(parts: list[bytes], size: int) -> None:
    with mock.patch.object(snapshot_stream, "CHUNK_BYTES", size):
        assert decrypted(b"".join(encrypt(parts, HEADER, KEY, CONTEXT))) == b"".join(parts)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 128])
def test_content_is_cut_into_chunks(count: int) -> None:
    with mock.patch.object(snapshot_stream, "CHUNK_BYTES", 64):
        parts = list(encrypt([bytes(count)], HEADER, KEY, CONTEXT))
    sizes = [len(part) - TAG_BYTES for part in parts[1:]]
    assert len(parts[0]) == STREAM_HEADER_BYTES
    assert sum(sizes) == count
    assert sizes[:-1] == [64] * (len(sizes) - 1)


def test_each_flipped_bit_is_detected() -> None:
    data = small_file()
    assert with_passphrase(data) == [record()]
    for bit in range(len(data) * 8):
        with pytest.raises(SnapshotError):
            with_passphrase(flipped(data, bit))


def test_each_truncation_is_detected() -> None:
    data = small_file()
    for length in range(len(data)):
        with pytest.raises(SnapshotError):
            with_passphrase(data[:length])


@given(st.binary(max_size=300), chunk_sizes, st.data())
def test_changed_truncated_or_extended_content_is_detected(
    content: bytes, size: int, data: st.DataObject
) -> None:
    with mock.patch.object(snapshot_stream, "CHUNK_BYTES", size):
        whole = encrypted(content)
        changed = data.draw(
            st.integers(0, len(whole) * 8 - 1).map(lambda bit: flipped(whole, bit))
            | st.integers(0, len(whole) - 1).map(lambda length: whole[:length])
            | st.binary(min_size=1, max_size=100).map(lambda more: whole + more)
        )
        with pytest.raises(SnapshotError):
            decrypted(changed)


def test_missing_repeated_and_reordered_chunks_are_detected() -> None:
    with mock.patch.object(snapshot_stream, "CHUNK_BYTES", 350):
        whole = encrypted(bytes(1_500))  # the chunks differ in their place only
        start, text = whole[:STREAM_HEADER_BYTES], whole[STREAM_HEADER_BYTES:]
        size = 350 + TAG_BYTES
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        assert len(chunks) == 5
        for order in (each for count in range(6) for each in product(chunks, repeat=count)):
            if list(order) == chunks:
                assert decrypted(start + b"".join(order)) == bytes(1_500)
            else:
                with pytest.raises(SnapshotError, match="damaged"):
                    decrypted(start + b"".join(order))


def test_content_of_another_file_is_detected() -> None:
    one, other = written([record()]), written([record()], cheap_header(b"\2" * 16))
    with pytest.raises(SnapshotError, match="damaged"):
        read(one[:HEADER_BYTES] + other[HEADER_BYTES:])
    again = written([record()])
    with pytest.raises(SnapshotError, match="damaged"):
        read(
            one[: HEADER_BYTES + STREAM_HEADER_BYTES] + again[HEADER_BYTES + STREAM_HEADER_BYTES :]
        )


@pytest.mark.parametrize(
    ("passphrase", "context"), [(b"passphrasf", CONTEXT), (b"passphrase", b"https://a.example")]
)
def test_another_passphrase_or_context_is_refused(passphrase: bytes, context: bytes) -> None:
    with pytest.raises(SnapshotError, match="damaged, or was written with another key or for"):
        with_passphrase(small_file(), passphrase, context)


@pytest.mark.parametrize("version", [0, 1, 2, 3, 5, 255])
@pytest.mark.parametrize("rest", [b"", b"\n", small_file()[len(MAGIC) + 1 :]])
def test_another_version_is_refused(version: int, rest: bytes) -> None:
    with pytest.raises(SnapshotError, match=f"its format version is {version}, expected 4"):
        with_passphrase(MAGIC + bytes([version]) + rest)


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", MAGIC[:-1], b"x" * 500])
def test_file_without_magic_is_refused(data: bytes) -> None:
    with pytest.raises(SnapshotError, match="not a cache snapshot"):
        with_passphrase(data)


@pytest.mark.parametrize(("passes", "memory"), [(9, 8192), (0, 8192), (1, 2**27), (1, 0)])
def test_excessive_or_invalid_cost_is_refused(passes: int, memory: int) -> None:
    header = snapshot_stream._HEADER.pack(MAGIC, VERSION, passes, memory, bytes(16))
    with pytest.raises(SnapshotError, match="damaged"):
        derive_key(header, b"passphrase")


def test_key_depends_on_salt_and_cost() -> None:
    headers = [HEADER, cheap_header(b"\2" * 16), new_header(b"\1" * 16)]
    assert len({derive_key(header, b"passphrase") for header in headers}) == 3


def test_files_of_equal_content_have_nothing_in_common() -> None:
    one, other = (
        written([record()], header, derive_key(header, b"passphrase"))[HEADER_BYTES:]
        for header in (cheap_header(os.urandom(16)) for _ in range(2))
    )
    assert not any(one[at : at + 8] in other for at in range(len(one) - 8))
