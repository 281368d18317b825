"""Chunks, header lines, and the error for a header over the limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from goproxyai.http11.framing import LAST_CHUNK, MAX_HEADER_FIELDS, chunk, headers_too_large
from goproxyai.messages.headers import serialize_headers


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_chunks_decode_to_their_content(pieces: list[bytes]) -> None:
    raw = b"".join(map(chunk, pieces)) + LAST_CHUNK
    decoded = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        decoded += raw[:length]
        assert raw[length : length + 2] == b"\r\n"
        raw = raw[length + 2 :]
        if not length:
            break
    assert decoded == b"".join(pieces)
    assert raw == b""


def test_empty_data_makes_no_chunk() -> None:
    assert chunk(b"") == b""
    assert chunk(b"a" * 26) == b"1a\r\n" + b"a" * 26 + b"\r\n"


def test_header_lines_keep_order_case_and_repeats() -> None:
    headers = [(b"X-b", b"1"), (b"x-A", b""), (b"X-b", b"\xff,  2")]
    assert serialize_headers(headers) == b"X-b: 1\r\nx-A: \r\nX-b: \xff,  2\r\n"
    assert serialize_headers([]) == b""


def test_header_over_the_limits_is_431() -> None:
    problem = headers_too_large()
    assert (problem.status, problem.code) == (431, "headers_too_large")
    assert str(MAX_HEADER_FIELDS) in problem.message
