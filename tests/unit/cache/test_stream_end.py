"""Whether an event stream is complete."""

from __future__ import annotations

import gzip
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.stream_end import (
    MAX_SEARCHED_BLOCKS,
    MAX_TAIL_BYTES,
    StreamEnd,
    is_event_stream,
    stream_end,
)
from goproxyai.messages.decoding import MAX_DECODED_BYTES

SSE = {b"content-type": b"text/event-stream; charset=utf-8"}
CHUNK = b'data: {"choices":[{"delta":{"content":"error"}}]}\n\n'
COMPLETE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"overloaded"}}\n\n'
COMPLETED = b'event: response.completed\ndata: {"type":"response.completed"}\n\n'


@pytest.mark.parametrize(
    "body",
    [
        CHUNK + COMPLETE,
        COMPLETE,
        CHUNK + b"data: [DONE]\n",
        CHUNK + b"data: [DONE]",
        CHUNK + b"data:[DONE]\n\n",
        CHUNK + COMPLETE + b": bye\n\n",
        CHUNK + COMPLETE + b": bye",
        CHUNK + COMPLETE + b"\n\n\n",
        CHUNK + COMPLETED,
        CHUNK + b'data: {"type":"response.completed","response":{"error":null}}\n\n',
        CHUNK + b"event: response.completed\ndata: junk\n\n",
        b"x" * MAX_TAIL_BYTES + b"\n\n" + CHUNK + COMPLETE,
        b"\xef\xbb\xbf" + COMPLETE,
    ],
)
def test_stream_with_end_marker_is_complete(body: bytes) -> None:
    assert stream_end(SSE, body) is StreamEnd.COMPLETE
    for line_end in (b"\r\n", b"\r"):
        assert stream_end(SSE, body.replace(b"\n", line_end)) is StreamEnd.COMPLETE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b": nothing yet\n\n",
        b": nothing yet",
        CHUNK,
        CHUNK + b": ping\n\n: ping\n\n",
        CHUNK + CHUNK + b"id: 7\nevent: x\n\n",
        b"data: junk\n\n",
        b"data: [1]\n\n",
        b'data: {"error":null}\n\n',
        ERROR + CHUNK,
        CHUNK + b'data: {"type":"response.incomplete"}\n\n',
    ],
)
def test_stream_without_end_marker_is_unmarked(body: bytes) -> None:
    assert stream_end(SSE, body) is StreamEnd.UNMARKED
    assert stream_end(SSE, body.replace(b"\n", b"\r\n")) is StreamEnd.UNMARKED


@pytest.mark.parametrize(
    "body",
    [
        CHUNK + ERROR,
        CHUNK + ERROR + COMPLETE,
        CHUNK + ERROR + b"data: [DONE]",
        CHUNK + ERROR + b": bye\n\n" + COMPLETE,
        CHUNK + b"event: error\ndata: {}\n\n",
        CHUNK + b'data: {"type":"error","message":"x"}\n\n',
        CHUNK + b'event: response.failed\ndata: {"type":"response.failed"}\n\n',
        CHUNK + b'data: {"error":"x",\ndata: "code":1}\n\n',
        CHUNK[:-1],
        CHUNK + CHUNK[:20],
        b"data",
        CHUNK + b"data: " + b"x" * MAX_TAIL_BYTES + b"\n\n",
        b": " + b"x" * MAX_TAIL_BYTES + b"\n\n",
        ERROR + b"retry: 3000\n\n" + COMPLETE,
        ERROR + b"retry: 3000\n\n",
        ERROR + b"id: 7\n\n",
        ERROR + b"event: end\n\n",
        CHUNK + b"event: error\n\n",
        b"\xef\xbb\xbf" + ERROR,
        b'data: {"error":{"message":"x"},"n":' + b"1" * 5000 + b"}\n\n",
        CHUNK + b": ping\n\n" * MAX_SEARCHED_BLOCKS,
    ],
)
def test_truncated_stream_or_stream_with_error_is_failed(body: bytes) -> None:
    assert stream_end(SSE, body) is StreamEnd.FAILED


def test_decoding_of_stream_is_bounded() -> None:
    coded = {**SSE, b"content-encoding": b"gzip"}
    assert stream_end(coded, gzip.compress(CHUNK + COMPLETE)) is StreamEnd.COMPLETE
    assert stream_end(coded, gzip.compress(CHUNK + ERROR)) is StreamEnd.FAILED
    assert stream_end(coded, gzip.compress(CHUNK + COMPLETE)[:-1]) is StreamEnd.FAILED
    assert (
        stream_end(coded, gzip.compress(b"\n" * MAX_DECODED_BYTES + COMPLETE)) is StreamEnd.FAILED
    )
    assert stream_end({**SSE, b"content-encoding": b"br"}, CHUNK + COMPLETE) is StreamEnd.FAILED


@given(st.lists(st.sampled_from([CHUNK, b": ping\n\n"])), st.integers(1, 200))
def test_no_truncation_is_complete(before: list[bytes], cut: int) -> None:
    whole = b"".join([*before, CHUNK, COMPLETE])
    assert stream_end(SSE, whole) is StreamEnd.COMPLETE
    left = whole[: max(0, len(whole) - cut)]
    if not left.endswith((b"[DONE]", b"[DONE]\n")):
        assert stream_end(SSE, left) is not StreamEnd.COMPLETE


@pytest.mark.parametrize("block", [b"\n", b":\n\n", b": ping\n\n", b"x\n\n", b"data\n"])
def test_stream_without_events_takes_linear_time(block: bytes) -> None:
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    body = block * (MAX_DECODED_BYTES // len(block))
    sys.setprofile(count)
    try:
        stream_end(SSE, body)
    finally:
        sys.setprofile(None)
    assert calls < MAX_TAIL_BYTES


@given(st.binary() | st.text('data: {}"eror[DONE]\n\r').map(str.encode))
def test_any_stream_has_an_end(body: bytes) -> None:
    assert stream_end(SSE, body) in StreamEnd


def test_event_stream_is_recognized_by_media_type() -> None:
    assert is_event_stream(SSE)
    assert is_event_stream({b"content-type": b"Text/Event-Stream"})
    assert not is_event_stream({b"content-type": b"text/event-streams"})
    assert not is_event_stream({})
