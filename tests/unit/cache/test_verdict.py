"""Which answers succeeded, however they are cut."""

from __future__ import annotations

import gzip
import json
import zlib
from itertools import cycle, pairwise
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache import verdict
from goproxyai.cache.event_lines import MAX_EVENT_BYTES
from goproxyai.cache.verdict import (
    COMPLETION,
    EMBEDDINGS,
    JUDGED_TOGETHER_BYTES,
    MAX_CHOICES,
    OTHER,
    RESPONSE,
    AnswerCheck,
    StreamJudge,
    answer_check,
    coded_stream_succeeded,
    is_json,
    succeeded,
)
from goproxyai.usage.usage import UnreadResponse, Usage

JSON = {b"content-type": b"application/json; charset=utf-8"}

DONE = b"data: [DONE]\n\n"
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"error"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"total_tokens":1}}\n\n'
ERROR = b'data: {"error":{"message":"overloaded"}}\n\n'
COMPLETED = b'event: response.completed\ndata: {"type":"response.completed"}\n\n'

CODINGS = {
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"br": brotli.compress,
    b"zstd": zstandard.compress,
}


def event(document: object, name: str = "") -> bytes:
    prefix = f"event: {name}\n" if name else ""
    return f"{prefix}data: {json.dumps(document)}\n\n".encode()


def choice(index: int, reason: str | None) -> dict[str, object]:
    return {"index": index, "delta": {}, "finish_reason": reason}


def judge(*pieces: bytes) -> bool:
    judged = StreamJudge()
    for piece in pieces:
        judged.add(piece)
    return judged.succeeded()


# Whole answers.


@pytest.mark.parametrize(
    ("method", "path", "check"),
    [
        ("POST", b"/v1/chat/completions", COMPLETION),
        ("POST", b"/v1/completions", COMPLETION),
        ("POST", b"/v1/embeddings", EMBEDDINGS),
        ("POST", b"/v1/responses", RESPONSE),
        ("POST", b"/openai/deployments/x/chat/completions", COMPLETION),
        ("POST", b"/v1/moderations", OTHER),
        ("GET", b"/v1/chat/completions", OTHER),
        ("GET", b"/v1/models", OTHER),
    ],
)
def test_check_follows_method_and_path(method: str, path: bytes, check: AnswerCheck) -> None:
    assert answer_check(method == "GET", path) is check


@pytest.mark.parametrize(
    ("check", "document", "right"),
    [
        (COMPLETION, {"choices": [choice(0, "stop"), choice(1, "length")]}, True),
        (COMPLETION, {"choices": [choice(0, "stop")], "error": None}, True),
        (COMPLETION, {"choices": [choice(0, "tool_calls")], "error": {}}, True),
        (COMPLETION, {"choices": [choice(0, "stop")], "error": {"message": "x"}}, False),
        (COMPLETION, {"choices": [choice(0, "stop")], "error": "x"}, False),
        (COMPLETION, {"choices": [choice(0, "stop"), choice(1, None)]}, False),
        (COMPLETION, {"choices": [{"index": 0, "text": "x"}]}, False),
        (COMPLETION, {"choices": [choice(0, "error")]}, False),
        (COMPLETION, {"choices": [choice(0, "")]}, False),
        (COMPLETION, {"choices": [{**choice(0, "stop"), "error": {"code": 502}}]}, False),
        (COMPLETION, {"choices": [{"index": 0, "finish_reason": {"type": "stop"}}]}, False),
        (COMPLETION, ["stop"], False),
        (EMBEDDINGS, {"data": [{"embedding": [0.1]}]}, True),
        (EMBEDDINGS, {"data": []}, False),
        (EMBEDDINGS, {"data": None}, False),
        (EMBEDDINGS, {"object": "list"}, False),
        (EMBEDDINGS, {"data": [{"embedding": [0.1]}], "error": {"code": 1}}, False),
        (RESPONSE, {"status": "completed", "error": None}, True),
        (RESPONSE, {"status": "incomplete"}, False),
        (RESPONSE, {"status": "failed", "error": {"code": "x"}}, False),
        (RESPONSE, {}, False),
        (OTHER, {"data": [{"id": "gpt"}]}, True),
        (OTHER, [1, 2], True),
        (OTHER, {"error": {"message": "x"}}, False),
        (OTHER, {"error": {"message": "x"}, "choices": 1}, False),
    ],
)
def test_whole_answer_is_judged_by_its_shape(
    check: AnswerCheck, document: Any, right: bool
) -> None:
    body = json.dumps(document).encode()
    assert succeeded(check, JSON, body) is right
    for coding, compress in CODINGS.items():
        assert succeeded(check, {**JSON, b"content-encoding": coding}, compress(body)) is right


@pytest.mark.parametrize("usage", [{"prompt_tokens": 3}, {"prompt_tokens": -3}, "x"])
def test_usage_of_any_shape_does_not_decide(usage: Any) -> None:
    counts = isinstance(usage, dict) and usage["prompt_tokens"] > 0
    for check, shape in (
        (COMPLETION, {"choices": [choice(0, "stop")]}),
        (EMBEDDINGS, {"data": [{}]}),
        (RESPONSE, {"status": "completed"}),
    ):
        body = json.dumps({"model": "m", **shape, "usage": usage}).encode()
        unread = UnreadResponse(body)
        assert succeeded(check, JSON, body, unread)
        assert (unread.document is not None) is counts
        assert unread.usage() == (Usage("m", 3, 0, 0, 0) if counts else None)


@pytest.mark.parametrize("check", [COMPLETION, EMBEDDINGS, RESPONSE, OTHER])
def test_unreadable_json_did_not_succeed(check: AnswerCheck) -> None:
    for body in (b"", b"{", b'{"choices":[', b"<html>", b'{"error":' + b"[" * 100_000):
        assert not succeeded(check, JSON, body)
    shape = b'{"choices":[{"finish_reason":"stop"}],"data":[{}],"status":"completed","x":"%b"}'
    assert succeeded(check, JSON, shape % "\u00e9".encode())
    assert not succeeded(check, JSON, shape % b"\xe9")
    coded = {**JSON, b"content-encoding": b"br"}
    assert not succeeded(check, coded, b'{"data":[1]}')
    assert not succeeded(check, {**JSON, b"content-encoding": b"x"}, b'{"data":[1]}')


def test_only_a_get_may_have_another_content_type() -> None:
    assert not succeeded(OTHER, {b"content-type": b"text/html"}, b"<html>")
    for fields in ({}, {b"content-type": b"text/plain"}):
        assert succeeded(OTHER, fields, b"<html>")
        assert not succeeded(COMPLETION, fields, b"<html>")
        assert not succeeded(EMBEDDINGS, fields, b"")


def test_json_of_another_content_type_may_report_an_error() -> None:
    error = b' {"error":{"message":"x"}}'
    for fields in ({}, {b"content-type": b"text/plain"}):
        assert not succeeded(OTHER, fields, error)
        assert succeeded(OTHER, fields, b'{"data":1}')
        assert succeeded(OTHER, fields, b'{"error":')
        for coding, compress in CODINGS.items():
            coded = {**fields, b"content-encoding": coding}
            assert not succeeded(OTHER, coded, compress(error))
            assert succeeded(OTHER, coded, compress(b"text"))
            assert succeeded(OTHER, coded, error)


@pytest.mark.parametrize("body", [b'{"error":1}', b"[]", b'""'])
def test_json_is_recognised_in_any_coding(body: bytes) -> None:
    assert is_json({}, body)
    assert not is_json({}, body[:-1])
    for coding, compress in CODINGS.items():
        assert is_json({b"content-encoding": coding}, compress(body))
        assert not is_json({b"content-encoding": coding}, body)


# Event streams.


@pytest.mark.parametrize(
    "body",
    [
        DELTA + STOP + DONE,
        DELTA + STOP + USAGE + DONE,
        DELTA.replace(b"error", "\u00e9".encode()) + STOP + DONE,
        DELTA + STOP + b"data: [DONE]\n",
        DELTA + STOP + b"data: [DONE]",
        DELTA + STOP + b"data:[DONE]\n\n",
        DELTA + STOP + DONE + b": bye\n\n",
        DELTA + STOP + DONE + b": bye",
        DELTA + STOP + DONE + b"\n\n\n",
        b"\xef\xbb\xbf" + DELTA + STOP + DONE,
        b": ping\n\n" + DELTA + b"retry: 3\n\n" + STOP + DONE,
        event({"choices": [choice(0, "stop"), choice(1, None)]})
        + event({"choices": [choice(1, "length")]})
        + DONE,
        COMPLETED,
        COMPLETED + DONE,
        event({"type": "response.created"}) + COMPLETED + DONE + DONE,
        b'data: {"type":"response.completed","response":{"error":null}}\n\n',
        b"event: response.completed\ndata: junk\n\n",
        b'data: {"n":1}\n\n' + DONE,
        b"data: junk\n\n" + DONE,
        b'data: {"choices":[{"index":0,\ndata: "finish_reason":"stop"}]}\n\n' + DONE,
    ],
)
def test_stream_with_its_proper_end_succeeded(body: bytes) -> None:
    for line_end in (b"\n", b"\r\n", b"\r"):
        text = body.replace(b"\n", line_end)
        assert judge(text)
        assert judge(*[text[at : at + 1] for at in range(len(text))])
        for coding, compress in CODINGS.items():
            assert coded_stream_succeeded(coding, compress(text))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b": nothing\n\n",
        b": ping\n\n: ping\n\n",
        DONE,
        b": ping\n\n" + DONE,
        event({"choices": [{**choice(0, "stop"), "error": {"code": 502}}]}) + DONE,
        DELTA,
        DELTA + STOP,
        DELTA + DONE,
        event({"choices": [choice(0, None), choice(1, "stop")]}) + DONE,
        event({"choices": [choice(0, "error")]}) + DONE,
        ERROR + DELTA + STOP + DONE,
        DELTA + ERROR + STOP + DONE,
        DELTA + STOP + ERROR + DONE,
        DELTA + STOP + DONE + ERROR,
        DELTA + STOP + DONE + DELTA,
        DELTA + b'data: {"type":"error","message":"x"}\n\n' + STOP + DONE,
        DELTA + b"event: error\ndata: {}\n\n" + STOP + DONE,
        DELTA + b"event: error\n\n" + STOP + DONE,
        b'event: response.failed\ndata: {"type":"response.failed"}\n\n' + DONE,
        COMPLETED + event({"type": "response.created"}),
        event({"type": "response.incomplete"}),
        event({"type": "response.incomplete"}) + DONE,
        event({"type": "response.created"}) + DONE,
        COMPLETED + event({"type": "response.created"}) + DONE,
        event({"response": 1}, "response.cancelled") + DONE,
        event({"type": "response.queued", "choices": 0}) + DONE,
        b"event: response.incomplete\ndata: junk\n\n" + DONE,
        DELTA + STOP + DONE + b"data: {",
        DELTA + STOP + b"data: {\n\n" + DONE,
        DELTA.replace(b"error", b"\xe9") + STOP + DONE,
        DELTA + STOP + DONE[:-5],
        b'data: {"choices":"x"}\n\n' + DONE,
        b'data: {"error":"x",\ndata: "code":1}\n\n' + DONE,
        event({"choices": [choice(n, "stop") for n in range(MAX_CHOICES + 1)]}) + DONE,
        b"data: " + b"x" * MAX_EVENT_BYTES + b"\n\n" + DONE,
        (b"data: " + b"x" * 1000 + b"\n") * (MAX_EVENT_BYTES // 1000) + b"\n" + DONE,
    ],
)
def test_failed_or_unfinished_stream_did_not_succeed(body: bytes) -> None:
    assert not judge(body)
    for coding, compress in CODINGS.items():
        assert not coded_stream_succeeded(coding, compress(body))


def test_truncated_coding_did_not_succeed() -> None:
    for coding, compress in CODINGS.items():
        assert not coded_stream_succeeded(coding, compress((DELTA + STOP + DONE) * 9)[:-1])


def test_answer_over_the_bound_did_not_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "MAX_JUDGED_BYTES", 1000)
    document, stream = b'{"choices":[]}', DELTA + STOP + DONE
    for coding, compress in CODINGS.items():
        fields = {**JSON, b"content-encoding": coding}
        for over in (False, True):
            body = document + b" " * (1000 - len(document) + over)
            assert succeeded(COMPLETION, fields, compress(body)) is (not over)
            body = b":" * (999 - len(stream) + over) + b"\n" + stream
            assert coded_stream_succeeded(coding, compress(body)) is (not over)


EVENTS = st.one_of(
    st.sampled_from([DELTA, STOP, USAGE, DONE, ERROR, COMPLETED, b": ping\n\n", b"id: 7\n\n"]),
    st.builds(
        lambda index, reason: event({"choices": [choice(index, reason)]}),
        st.integers(0, 2),
        st.sampled_from([None, "stop", "error"]),
    ),
    st.builds(
        event,
        st.dictionaries(
            st.sampled_from(["type", "error", "n"]),
            st.sampled_from(["error", "x", "response.created", None]),
        ),
        st.sampled_from(["", "error", "x", "response.created"]),
    ),
)


def naive_verdict(body: bytes) -> bool:
    """Judge a stream whose lines end with LF by reading all of it."""
    ended, has_data, begun, finished = False, False, set(), set()
    is_response = False
    for block in body.decode().split("\n\n")[:-1]:
        lines = [line.split(": ", 1) for line in block.split("\n") if ": " in line]
        name = next((value for field, value in lines if field == "event"), "")
        data = "\n".join(value for field, value in lines if field == "data")
        if name == "error":
            return False
        if not data:
            continue
        if data == "[DONE]":
            if begun - finished or not has_data or (is_response and not ended):
                return False
            ended = True
            continue
        has_data = True
        document = json.loads(data)
        kind = document.get("type") or name
        if kind in ("error", "response.failed") or document.get("error"):
            return False
        ended = kind == "response.completed"
        is_response = is_response or kind.startswith("response.")
        for each in document.get("choices", ()):
            begun.add(each["index"])
            if each["finish_reason"] == "error":
                return False
            if each["finish_reason"]:
                finished.add(each["index"])
    return ended


@given(
    st.lists(EVENTS, max_size=12), st.lists(st.integers(0, 1500), max_size=8), st.integers(1, 500)
)
def test_verdict_is_that_of_a_naive_reader_however_the_stream_is_cut(
    events: list[bytes], cuts: list[int], together: int
) -> None:
    body = b"".join(events)
    bounds = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[begin:end] for begin, end in pairwise(bounds)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "JUDGED_TOGETHER_BYTES", together)
        assert judge(*pieces) is naive_verdict(body)


@given(
    st.lists(EVENTS, max_size=12),
    st.sampled_from([b"\n", b"\r"]).flatmap(  # CR and LF of two lines would be one line end
        lambda end: st.lists(st.sampled_from([end, b"\r\n"]), min_size=1, max_size=4)
    ),
    st.lists(st.integers(0, 1500), max_size=8),
    st.integers(1, 500),
)
def test_line_ends_do_not_change_the_verdict_however_the_stream_is_cut(
    events: list[bytes], line_ends: list[bytes], cuts: list[int], together: int
) -> None:
    body = b"".join(events)
    text = b"".join(
        [line + end for line, end in zip(body.split(b"\n")[:-1], cycle(line_ends), strict=False)]
    )
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "JUDGED_TOGETHER_BYTES", together)
        assert judge(*[text[begin:end] for begin, end in pairwise(bounds)]) is naive_verdict(body)


@pytest.mark.parametrize("position", [0, 50, 150])
def test_error_in_a_long_stream_of_short_pieces_is_found(position: int) -> None:
    events = [DELTA] * 150 + [STOP, DONE]
    assert sum(map(len, events)) > JUDGED_TOGETHER_BYTES
    assert judge(*events)
    events.insert(position, ERROR)
    assert not judge(*events)


@given(st.binary() | st.text('data: {}"eror[DONE]\n\r').map(str.encode))
def test_any_stream_is_judged(body: bytes) -> None:
    assert judge(body) in (True, False)
