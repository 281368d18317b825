"""The snapshot's format: round trips, tampering, versions, memory, times."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Iterable
from itertools import product
from typing import Any
from unittest import mock

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache import snapshot_format as sealed
from goproxyai.cache.snapshot_format import HEADER_BYTES, MAGIC, Record, Refused
from goproxyai.usage.usage import Usage

ALICE = b"\0\0alice-alice-al"
FILES = b"/v1/files"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_1\r\n"
BODY = b'{"answer": "42"}'
TTL = 300.0

KEY = b"\7" * 32
HEADER = sealed.new_header(b"\1" * sealed.RANDOM_BYTES)

VERSION_2 = (
    "676f70726f787961692063616368650002000102030405060708090a0b0c0d0e0f101112131415162841fd71f2"
    "acc38ad3f2e4c909551926dd5b7bc4c0b5f01fdd3c0b712d4ef1ea659d2584910a831fc4030bdaa68aac899e26"
    "c6997e84eb27a746c639cc592ac7123eaf3352a82ab61c596079c9c955e6b1f941a70b73b9f768f251e7aa3d62"
    "6c849b7b5fdc2f1e0d145278157da66f7b9325c5c22db0e9661ac1261b96f8ebe122e47d2f93af9dcf7b6193e4"
    "22fbe398c5f054e9d7166499fb78721d43d17ea7f993b81a5ad22a0e65f1e1e3d35414db8ceeafbee4c4"
)
"""A file with one record, passphrase ``key``, upstream ``up`` and the real cost."""

REAL_COST = sealed.COST


@pytest.fixture(autouse=True)
def low_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys at a cost that tests can afford."""
    monkeypatch.setattr(sealed, "COST", 2)


times = st.floats(allow_nan=False)
texts = st.binary(max_size=40)
any_record = st.builds(
    Record,
    key=st.binary(min_size=32, max_size=32),
    status=st.integers(0, 65_535),
    head=texts,
    body=st.binary(max_size=400),
    pace=st.none() | texts,
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
any_records = st.lists(any_record, max_size=5)
frame_sizes = st.sampled_from([1, 7, 64, 2**20])


def record(number: int = 0, **more: Any) -> Record:
    key = b"%032d" % number
    return attrs.evolve(Record(key, 200, HEAD, BODY, None, 0, 1e9, 1e9 + TTL, FILES, ALICE), **more)


def write(records: Iterable[Record], header: bytes = HEADER, key: bytes = KEY) -> bytes:
    return b"".join(sealed.seal(records, header, key))


def read(data: bytes, key: bytes = KEY) -> list[Record]:
    return list(sealed.opened(io.BytesIO(data[HEADER_BYTES:]).read, data[:HEADER_BYTES], key))


def read_with_passphrase(
    data: bytes, passphrase: bytes = b"key", upstream: bytes = b"up"
) -> list[Record]:
    return read(data, sealed.key_of(data[:HEADER_BYTES], passphrase, upstream))


def small_file() -> bytes:
    """Return a file for :func:`read_with_passphrase`."""
    return write([record()], HEADER, sealed.key_of(HEADER, b"key", b"up"))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(any_records, frame_sizes)
def test_records_survive_a_round_trip(records: list[Record], frame: int) -> None:
    with mock.patch.object(sealed, "FRAME", frame):
        assert read(write(records)) == records


def test_body_of_several_frames_survives_a_round_trip() -> None:
    large = record(1, body=os.urandom(3 * sealed.FRAME + 17))
    records = [record(), large, record(2, body=bytes(sealed.FRAME)), record(3)]
    assert read(write(records)) == records


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_record_may_end_with_a_frame(more: int) -> None:
    frame = len(write([record()])) - HEADER_BYTES - 16
    with mock.patch.object(sealed, "FRAME", frame):
        records = [record(), record(1, body=BODY + bytes(frame + more))]
        assert read(write(records)) == records


def test_every_flipped_bit_is_refused() -> None:
    data = small_file()
    assert read_with_passphrase(data) == [record()]
    for bit in range(len(data) * 8):
        with pytest.raises(Refused):
            read_with_passphrase(flipped(data, bit))


def test_every_truncation_is_refused() -> None:
    data = small_file()
    for length in range(len(data)):
        with pytest.raises(Refused):
            read_with_passphrase(data[:length])


@given(any_records, frame_sizes, st.data())
def test_any_change_of_a_file_is_refused(
    records: list[Record], frame: int, data: st.DataObject
) -> None:
    with mock.patch.object(sealed, "FRAME", frame):
        whole = write(records)
        changed = data.draw(
            st.integers(0, len(whole) * 8 - 1).map(lambda bit: flipped(whole, bit))
            | st.integers(HEADER_BYTES, len(whole) - 1).map(lambda length: whole[:length])
            | st.binary(min_size=1, max_size=100).map(lambda more: whole + more)
        )
        with pytest.raises(Refused):
            read(changed)


def test_omitted_repeated_or_reordered_frames_are_refused() -> None:
    with mock.patch.object(sealed, "FRAME", 350):
        whole = write([record(body=bytes(1_500))])  # the frames of the body hold zeros only
        text = whole[HEADER_BYTES:]
        frames = [text[at : at + 366] for at in range(0, len(text), 366)]
        assert len(frames) == 5
        assert read(whole[:HEADER_BYTES] + b"".join(frames)) == [record(body=bytes(1_500))]
        for order in (each for count in range(6) for each in product(frames, repeat=count)):
            if list(order) != frames:
                with pytest.raises(Refused, match="damaged"):
                    read(whole[:HEADER_BYTES] + b"".join(order))


def test_frame_of_another_file_is_refused() -> None:
    other = sealed.new_header(b"\1" * 22 + b"\2")
    ours, theirs = write([record()]), write([record()], other)
    with pytest.raises(Refused, match="damaged"):
        read(ours[:HEADER_BYTES] + theirs[HEADER_BYTES:])


@pytest.mark.parametrize(("passphrase", "upstream"), [(b"kez", b"up"), (b"key", b"down")])
def test_other_key_or_upstream_is_refused(passphrase: bytes, upstream: bytes) -> None:
    with pytest.raises(Refused, match="damaged, or of another key or upstream"):
        read_with_passphrase(small_file(), passphrase, upstream)


@pytest.mark.parametrize("version", [b"\0", b"\1", b"\3", b"\xff"])
@pytest.mark.parametrize("rest", [b"", b"\n", small_file()[len(MAGIC) + 1 :]])
def test_other_version_is_refused(version: bytes, rest: bytes) -> None:
    with pytest.raises(Refused, match="of another version"):
        read_with_passphrase(MAGIC + version + rest)


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", MAGIC[:-1], b"x" * 500])
def test_file_of_another_program_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="no file of ours"):
        read_with_passphrase(data)


def hostile(**lengths: int) -> bytes:
    """Return an authentic file with a record that claims *lengths*."""
    names = ("head", "pace", "path", "owner", "model", "body")
    claimed = [lengths.get(name, 0) for name in names]
    numbers = sealed._RECORD.pack(bytes(32), 200, 0, 0.0, 0.0, *claimed, *sealed._NO_USAGE[1:])
    sealed_parts = sealed._sealed(sealed._cut([numbers, BODY]), HEADER, KEY)
    return HEADER + b"".join(sealed_parts)


@pytest.mark.parametrize("name", ["head", "pace", "path", "owner", "model", "body"])
@pytest.mark.parametrize("claimed", [len(BODY) + 1, 2**31, 2**40, 2**40 + 1, 2**63, 2**64 - 2])
def test_length_beyond_the_end_is_refused(name: str, claimed: int) -> None:
    with pytest.raises(Refused, match="damaged"):
        read(hostile(**{name: claimed}))


def test_bytes_after_the_last_record_are_refused() -> None:
    assert len(read(hostile(body=len(BODY)))) == 1
    with pytest.raises(Refused, match="damaged"):
        read(hostile(body=len(BODY) - 1))


def test_two_files_of_the_same_records_have_no_bytes_in_common() -> None:
    headers = [sealed.new_header(os.urandom(sealed.RANDOM_BYTES)) for _ in range(2)]
    keys = [sealed.key_of(header, b"key", b"up") for header in headers]
    one, other = (
        write([record()], header, key)[HEADER_BYTES:]
        for header, key in zip(headers, keys, strict=True)
    )
    assert not any(one[at : at + 8] in other for at in range(len(one) - 8))


def test_file_of_version_2_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sealed, "COST", REAL_COST)
    data = bytes.fromhex(VERSION_2)
    usage = Usage("m", 1, 2, 3, 4)
    kept = record(0, head=b"h", body=b"b", pace=b"", initial_age=7, usage=usage)
    assert read_with_passphrase(data) == [kept]


def test_memory_of_writing_and_reading_is_bounded() -> None:
    body = bytes(4 * sealed.FRAME)
    pieces = sealed.seal((record(number, body=body) for number in range(8)), HEADER, KEY)
    next(pieces)
    tracemalloc.start()
    try:
        for each in sealed.opened(lambda count: next(pieces, b""), HEADER, KEY):
            assert len(each.body) == len(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Three bodies: the previous record, the present one, and its parts.
    assert peak < 3 * len(body) + 8 * sealed.FRAME


# Times.

unix_times = st.floats(0, 4e9)


@given(unix_times, st.floats(0, 1e7), unix_times, unix_times, st.floats(0, 1e6))
def test_no_entry_outlives_its_lifetime(
    stored: float, lifetime: float, now: float, wall: float, stale: float
) -> None:
    old = record(stored=stored, expires=stored + lifetime)
    lifetime = old.expires - old.stored  # the rounded difference
    entry = sealed.revived(old, now, wall, stale)
    if entry is None:
        ahead = max(stored - wall, 0.0)
        assert lifetime + stale <= max(wall - stored, 0.0) + 1e-3 or ahead > sealed.LEEWAY
    else:
        assert stored <= wall + sealed.LEEWAY
        assert entry.stored_at <= now
        assert now - stale < entry.expires_at <= now + lifetime
        assert entry.expires_at - now <= old.expires - wall + sealed.LEEWAY + 1e-3
