"""Token usage is read from complete answers and from answers in pieces."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.usage import scanner as scanner_module
from goproxyai.usage.scanner import UsageScanner, usage_of
from goproxyai.usage.usage import (
    MAX_MODEL_CHARACTERS,
    TAIL_BYTES,
    UnreadResponse,
    Usage,
    generates,
)

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": 'It says "usage":{"prompt_tokens":999,"total_tokens":999}, and '
                '"model":"other".',
            },
        }
    ],
    "usage": {
        "prompt_tokens": 19,
        "completion_tokens": 10,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 3, "accepted_prediction_tokens": 7},
    },
    "service_tier": "default",
}
EXPECTED = Usage("gpt-4o-mini-2024-07-18", 19, 10, 4, 3)
RESPONSE = {
    "id": "resp_1",
    "status": "completed",
    "instructions": 'Say "usage" and "model".',
    "model": "gpt-5",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "hello"}]}],
    "tools": [{"parameters": {"properties": {"usage": {"type": "object"}}}}],
    "usage": {
        "input_tokens": 36,
        "input_tokens_details": {"cached_tokens": 8},
        "output_tokens": 87,
        "output_tokens_details": {"reasoning_tokens": 64},
        "total_tokens": 123,
    },
    "user": None,
    "metadata": {"usage": "none"},
}
EMBEDDINGS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.0023064255, -0.009327292] * 3000}],
    "model": "text-embedding-3-small",
    "usage": {"prompt_tokens": 8, "total_tokens": 8},
}


def json_bytes(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def with_usage(**counts: Any) -> bytes:
    return json_bytes({"model": "m", "usage": counts})


def scan(body: bytes, pieces: list[int] | None = None, **fields: str) -> Usage | None:
    """Return what a scanner finds in *body*, cut into *pieces* of these sizes, repeated."""
    scanner = UsageScanner(
        {name.replace("_", "-").encode(): v.encode() for name, v in fields.items()}
    )
    at, sizes = 0, pieces or [len(body) or 1]
    while at < len(body):
        for size in sizes:
            scanner.add(body[at : at + size])
            at += size
    return scanner.usage()


@pytest.mark.parametrize("indent", [None, 0, 2, 4])
@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (COMPLETION, EXPECTED),
        (RESPONSE, Usage("gpt-5", 36, 87, 8, 64)),
        (EMBEDDINGS, Usage("text-embedding-3-small", 8, 0, 0, 0)),
    ],
    ids=["completion", "response", "embeddings"],
)
def test_usage_is_read_in_any_indentation(
    document: dict[str, Any], expected: Usage, indent: int | None
) -> None:
    body = json.dumps(document, indent=indent).encode()
    for text in (body, json_bytes(document), b"\n" + body + b"\n"):
        assert usage_of({}, text) == expected
        assert scan(text) == expected
        assert scan(text, [1, 2, 3, 500]) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (with_usage(prompt_tokens=1, completion_tokens=2), (1, 2, 0, 0)),
        (with_usage(completion_tokens=2, prompt_tokens=1, total_tokens=3), (1, 2, 0, 0)),
        (with_usage(prompt_tokens=1, total_tokens=1, completion_tokens=0), (1, 0, 0, 0)),
        (with_usage(input_tokens=5), (5, 0, 0, 0)),
        (with_usage(output_tokens=5), (0, 5, 0, 0)),
        (
            with_usage(
                prompt_tokens=9,
                completion_tokens=5,
                total_tokens=14,
                completion_tokens_details={"reasoning_tokens": 4},
                prompt_tokens_details={"cached_tokens": 2},
            ),
            (9, 5, 2, 4),
        ),
        (
            with_usage(
                prompt_tokens=9,
                completion_tokens=5,
                total_tokens=14,
                prompt_tokens_details={"audio_tokens": 1, "cached_tokens": 2},
            ),
            (9, 5, 2, 0),
        ),
        (with_usage(prompt_tokens=9, total_tokens=9, prompt_tokens_details=None), (9, 0, 0, 0)),
        (with_usage(prompt_tokens=9, prompt_tokens_details={"cached_tokens": "x"}), (9, 0, 0, 0)),
    ],
)
def test_usage_is_read_in_any_key_order(body: bytes, expected: tuple[int, ...]) -> None:
    assert usage_of({}, body) == Usage("m", *expected)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"model":"m"}',
        b'{"usage"',
        b'{"usage":',
        b'{"usage":{',
        b'{"usage":{"prompt_tokens":1',
        b'{"usage":null}',
        b'{"usage":[1]}',
        b'{"usage":7}',
        b'{"usage":"prompt_tokens"}',
        b'{"name":"usage","prompt_tokens":1}',
        b'{"text":"\\"usage\\":{\\"prompt_tokens\\":1}"}',
        with_usage(),
        with_usage(type="duration", seconds=3),
        with_usage(prompt_tokens=-1),
        with_usage(prompt_tokens=1.5),
        with_usage(prompt_tokens=True),
        with_usage(prompt_tokens="1"),
        with_usage(prompt_tokens=10**12),
        with_usage(prompt_tokens=10**400),
        b'{"usage":' + b'{"a":' * 3_000 + b"1" + b"}" * 3_001,
        b'{"usage":{"prompt_tokens":1,"x":"' + b"x" * 10_000 + b'"}}',
        b'{"usage":"a",' * 1_000,
    ],
)
def test_answer_without_valid_usage_has_none(body: bytes) -> None:
    assert usage_of({}, body) is None
    assert scan(body) is None


def events(*documents: Any) -> bytes:
    return (
        b"".join(b"data: " + json_bytes(each) + b"\n\n" for each in documents) + b"data: [DONE]\n\n"
    )


CHUNK = {"id": "c", "model": "gpt-4o", "choices": [{"delta": {"content": "word "}}], "usage": None}
LAST = {"id": "c", "model": "gpt-4o", "choices": [], "usage": COMPLETION["usage"]}
STREAM = events(*[CHUNK] * 700, LAST)
COMPLETED = (
    b"event: response.created\ndata: "
    + json_bytes({"type": "response.created", "response": {**RESPONSE, "usage": None}})
    + b"\n\nevent: response.completed\ndata: "
    + json_bytes(
        {
            "type": "response.completed",
            "response": {**RESPONSE, "output": ["x" * 5 * TAIL_BYTES]},
        }
    )
    + b"\n\n"
)


@pytest.mark.parametrize("pieces", [[1], [7, 3], [113], [4096], [TAIL_BYTES], [10 * TAIL_BYTES]])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (STREAM, Usage("gpt-4o", 19, 10, 4, 3)),
        (COMPLETED, Usage("gpt-5", 36, 87, 8, 64)),
        (events(*[CHUNK] * 200), None),
    ],
    ids=["chat", "responses", "none"],
)
def test_stream_usage_is_read_across_piece_boundaries(
    body: bytes, expected: Usage, pieces: list[int]
) -> None:
    assert scan(body, pieces) == expected
    assert scan(gzip.compress(body), pieces, content_encoding="gzip") == expected


@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=8),
    st.sampled_from(["gzip", "x-gzip", "deflate", " GZIP ", "identity", ""]),
)
def test_coded_stream_usage_is_read_in_any_pieces(pieces: list[int], coding: str) -> None:
    text = events(CHUNK, LAST)
    coded = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}.get(
        coding.strip().lower(), bytes
    )(text)
    assert scan(coded, pieces, content_encoding=coding) == Usage("gpt-4o", 19, 10, 4, 3)


def test_complete_gzip_answer_is_decoded() -> None:
    coded = gzip.compress(json_bytes(COMPLETION))
    assert usage_of({b"content-encoding": b"gzip"}, coded) == EXPECTED
    halves = gzip.compress(json_bytes(COMPLETION)[:200]) + gzip.compress(
        json_bytes(COMPLETION)[200:]
    )
    assert usage_of({b"content-encoding": b"gzip"}, halves) == EXPECTED


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_unsupported_coding_has_no_usage(coding: str) -> None:
    assert scan(json_bytes(COMPLETION), content_encoding=coding) is None


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_body_that_contradicts_its_coding_has_no_usage(coding: str) -> None:
    assert scan(json_bytes(COMPLETION) * 2, [5], content_encoding=coding) is None


def test_decompression_bomb_has_no_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner_module, "MAX_INFLATED_BYTES", 1_000_000)
    text = b" " * 5_000_000 + json_bytes(COMPLETION)
    assert scan(gzip.compress(text), content_encoding="gzip") is None
    monkeypatch.setattr(scanner_module, "MAX_INFLATED_BYTES", 10_000_000)
    assert scan(gzip.compress(text), content_encoding="gzip") == EXPECTED


@given(
    st.lists(st.binary(max_size=3 * TAIL_BYTES) | st.just(b"x"), max_size=6), st.integers(1, 400)
)
def test_scanner_memory_is_bounded(chunks: list[bytes], times: int) -> None:
    scanner = UsageScanner({})
    for chunk in chunks:
        for _ in range(times if len(chunk) < 10 else 1):
            scanner.add(chunk)
            assert sum(map(len, scanner._pieces)) < 2 * TAIL_BYTES
            assert len(scanner._pieces) <= scanner_module._MAX_PIECES
            assert len(scanner._overlap) <= scanner_module._OVERLAP_BYTES


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_arbitrary_bytes_raise_nothing(data: bytes) -> None:
    for text in (
        data,
        b'"usage":' + data,
        b'{"model":' + data,
        b'"usage":{"prompt_tokens":' + data,
    ):
        assert isinstance(usage_of({}, text), Usage | None)
        assert isinstance(scan(text, [3], content_encoding="gzip"), Usage | None)


counts = st.integers(0, 10**12 - 1)


@given(
    st.text(
        st.characters(min_codepoint=35, max_codepoint=91),
        min_size=1,
        max_size=MAX_MODEL_CHARACTERS,
    ),
    counts, counts, counts, counts, st.sampled_from([None, 1, 2]), st.text(max_size=60),
    st.lists(st.integers(1, 90), min_size=1, max_size=4),
)  # fmt: skip
def test_written_usage_is_read_back(
    model: str, prompt: int, completion: int, cached: int, reasoning: int,
    indent: int | None, content: str, pieces: list[int],
) -> None:  # fmt: skip
    document = {
        "model": model,
        "choices": [{"message": {"content": content}}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        },
    }
    body = json.dumps(document, indent=indent).encode()
    assert usage_of({}, body) == Usage(model, prompt, completion, cached, reasoning)
    assert scan(body, pieces) == usage_of({}, body)


@pytest.mark.parametrize(
    "name", ["", "x" * (MAX_MODEL_CHARACTERS + 1), 'a"b', "a\\b", "é", "a b", "a\nb"]
)
def test_invalid_model_name_is_empty(name: str) -> None:
    body = json_bytes({"model": name, "usage": {"prompt_tokens": 1}})
    assert usage_of({}, body) == Usage("", 1, 0, 0, 0)
    assert scan(body, [1]).model == ""


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        (b"POST", b"/v1/chat/completions", True),
        (b"POST", b"/v1/responses", True),
        (b"POST", b"/v1/embeddings", True),
        (b"GET", b"/v1/chat/completions", False),
        (b"GET", b"/v1/responses/resp_1", False),
        (b"POST", b"/v1/responses/resp_1/cancel", False),
        (b"POST", b"/v1/files", False),
    ],
)
def test_only_posts_to_generating_paths_are_billed(
    method: bytes, path: bytes, expected: bool
) -> None:
    assert generates(method, path) is expected


@pytest.mark.parametrize("size", [1, 7, 50, 63, 64, 1000, TAIL_BYTES - 1, TAIL_BYTES + 1])
def test_scanner_memory_is_bounded_for_any_piece_size(size: int) -> None:
    scanner = UsageScanner({})
    for _ in range(min(100_000, 100 * TAIL_BYTES // size)):
        scanner.add(b"x" * size)
    assert sum(map(len, scanner._pieces)) < 2 * TAIL_BYTES
    scanner.add(json_bytes(COMPLETION)[-600:])
    assert scanner.usage()[1:] == EXPECTED[1:]


def test_gzip_padding_is_ignored_and_members_are_limited() -> None:
    coded = gzip.compress(json_bytes(COMPLETION))
    assert scan(coded + bytes(700), [100], content_encoding="gzip") == EXPECTED
    assert scan(gzip.compress(b"") * 300 + coded, [100], content_encoding="gzip") is None


def test_model_is_found_after_null_model() -> None:
    body = b'{"model":null,"x":"' + b"x" * 400 + b'","model":"gpt-4o","usage":{"prompt_tokens":1}}'
    for pieces in ([1], [50], [420], [427], [431], [1000]):
        assert scan(body, pieces).model == "gpt-4o"


def test_unread_answer_is_read_once_and_released() -> None:
    answer = UnreadResponse(json_bytes(COMPLETION))
    assert answer.usage() == EXPECTED
    assert answer._body is None
    assert answer.usage() == EXPECTED
    assert UnreadResponse(b"{}").usage() is None
