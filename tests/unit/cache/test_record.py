"""Records, their encoding, and the entries that are restored from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.record import (
    MAX_CLOCK_SKEW_SECONDS,
    VERSION,
    Record,
    RecordError,
    decode_record,
    encode_record,
    restored_entry,
)
from goproxyai.usage.usage import Details, Usage
from tests.unit.cache.snapshots import any_record, record

VERSION_1 = (
    "013030303030303030303030303030303030303030303030303030303030303030c80007000000000000000000"
)
"""The beginning of an encoded record of version 1: version, key, status and initial age."""


@given(any_record)
def test_encoded_record_is_decoded_unchanged(one: Record) -> None:
    assert decode_record(encode_record(one)) == one


def test_encoding_of_this_version_stays_the_same() -> None:
    usage = Usage("m", 1, 2, 3, 4, Details(5, 6, 7, 8, 9, 10, 11, 12))
    encoded = encode_record(record(0, head=b"h", body=b"b", timing=b"", initial_age=7, usage=usage))
    assert encoded.hex().startswith(VERSION_1)


@given(any_record, st.data())
def test_part_of_a_record_is_refused(one: Record, data: st.DataObject) -> None:
    encoded = encode_record(one)
    kept = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(RecordError):
        decode_record(encoded[:kept])


@given(any_record, st.binary(min_size=1, max_size=9))
def test_bytes_after_a_record_are_refused(one: Record, more: bytes) -> None:
    with pytest.raises(RecordError):
        decode_record(encode_record(one) + more)


@given(any_record)
def test_record_of_another_version_is_refused(one: Record) -> None:
    with pytest.raises(RecordError, match="version"):
        decode_record(bytes((VERSION + 1,)) + encode_record(one)[1:])


@given(st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        decoded = decode_record(bytes((VERSION,)) + data)
    except RecordError:
        return
    assert len(decoded.body) <= len(data)


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
