from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.messages.decoding import DecodingFailed, decode_body, decoded_pieces

CODINGS = {
    b"gzip": gzip.compress,
    b"x-gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"br": brotli.compress,
    b"zstd": zstandard.compress,
}


@given(st.sampled_from(sorted(CODINGS)), st.binary(max_size=3_000), st.integers(1, 100))
def test_coded_body_is_decoded(coding: bytes, part: bytes, times: int) -> None:
    assert decode_body(coding.upper(), CODINGS[coding](part * times)) == part * times


@pytest.mark.parametrize("coding", sorted(CODINGS))
def test_decoding_is_bounded(coding: bytes) -> None:
    coded = CODINGS[coding](b"\0" * 10_000_000)
    pieces: list[bytes] = []
    with pytest.raises(DecodingFailed):
        pieces.extend(decoded_pieces(coding, coded, 1_000_000))
    assert sum(map(len, pieces)) <= 1_000_000
    assert decode_body(coding, CODINGS[coding](b"\0" * 1_000_000), 1_000_000) == b"\0" * 1_000_000


@given(st.sampled_from(sorted(CODINGS)), st.binary(min_size=1, max_size=500), st.data())
def test_truncated_or_damaged_body_is_not_decoded_wrongly(
    coding: bytes, plain: bytes, data: st.DataObject
) -> None:
    coded = CODINGS[coding](plain)
    cut = data.draw(st.integers(0, len(coded) - 1))
    assert decode_body(coding, coded[:cut]) is None
    decode_body(coding, data.draw(st.binary(max_size=200)))  # raises nothing


@pytest.mark.parametrize("coding", [b"gzip", b"zstd"])
def test_members_of_a_body_are_joined_and_limited(coding: bytes) -> None:
    one = CODINGS[coding](b"one")
    assert decode_body(coding, one * 3) == b"one" * 3
    assert decode_body(coding, one * 17) is None


def test_unknown_coding_is_not_decoded() -> None:
    assert decode_body(b"compress", b"x") is None
    assert decode_body(b"gzip, br", b"x") is None
    assert decode_body(b" identity ", b"x") == b"x"


def test_raw_deflate_is_decoded() -> None:
    raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    assert decode_body(b"deflate", raw.compress(b"plain") + raw.flush()) == b"plain"
