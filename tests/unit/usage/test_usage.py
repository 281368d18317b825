"""Token usage is read from complete answers and from answers in pieces."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio.transcription import UsageTokens
from openai.types.completion_usage import CompletionUsage
from openai.types.create_embedding_response import Usage as EmbeddingsUsage
from openai.types.decision import Usage as DecisionUsage
from openai.types.images_response import Usage as ImagesUsage
from openai.types.responses.response_usage import ResponseUsage
from pydantic import BaseModel

from goproxyai.usage import scanner as scanner_module
from goproxyai.usage.scanner import UsageScanner, usage_of
from goproxyai.usage.usage import (
    MAX_MODEL_CHARACTERS,
    NO_DETAILS,
    TAIL_BYTES,
    Details,
    UnreadResponse,
    Usage,
    generates,
)

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-5.4-mini-2026-03-17",
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
EXPECTED = Usage(
    "gpt-5.4-mini-2026-03-17", 19, 10, 4, 3, Details(audio_prompt=1, accepted_prediction=7)
)
RESPONSE = {
    "id": "resp_1",
    "status": "completed",
    "instructions": 'Say "usage" and "model".',
    "model": "gpt-6.1-terra",
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
        (RESPONSE, Usage("gpt-6.1-terra", 36, 87, 8, 64)),
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
                prompt_tokens_details={"text_tokens": 1, "cached_tokens": 2},
            ),
            (9, 5, 2, 0),
        ),
        (with_usage(prompt_tokens=9, total_tokens=9, prompt_tokens_details=None), (9, 0, 0, 0)),
        (with_usage(prompt_tokens=9, prompt_tokens_details={"cached_tokens": "x"}), (9, 0, 0, 0)),
        (with_usage(prompt_tokens=9, prompt_tokens_details=[1]), (9, 0, 0, 0)),
        (with_usage(prompt_tokens=9, prompt_tokens_details={"cached_tokens": None}), (9, 0, 0, 0)),
        (b'{"model":"m","usage":{"prompt_tokens":9}, "usage":null}', (9, 0, 0, 0)),
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
        b'{"usage":{"prompt_tokens":1,"x":"' + b"x" * TAIL_BYTES + b'"}}',
        b'{"usage":"a",' * 1_000,
    ],
)
def test_answer_without_valid_usage_has_none(body: bytes) -> None:
    assert usage_of({}, body) is None
    assert scan(body) is None


CHAT_USAGE = {
    "prompt_tokens": 900,
    "completion_tokens": 80,
    "total_tokens": 980,
    "prompt_tokens_details": {
        "audio_tokens": 5, "cache_write_tokens": 300, "cached_tokens": 200, "image_tokens": 6,
        "text_tokens": 889,
    },
    "completion_tokens_details": {
        "accepted_prediction_tokens": 7, "audio_tokens": 8, "reasoning_tokens": 9,
        "rejected_prediction_tokens": 10, "text_tokens": 63,
    },
}  # fmt: skip
RESPONSE_USAGE = {
    "input_tokens": 900,
    "input_tokens_details": {
        "cached_tokens": 200, "cache_write_tokens": 300,
        "cache_write_tokens_details": {"ttl_12h_tokens": 100, "ttl_30m_tokens": 200},
    },
    "output_tokens": 80,
    "output_tokens_details": {"reasoning_tokens": 9},
    "total_tokens": 980,
}  # fmt: skip
TRANSCRIPTION_USAGE = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 2, "audio_tokens": 12},
    "output_tokens": 45,
    "total_tokens": 59,
}
IMAGE_USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "output_tokens": 196,
    "output_tokens_details": {"text_tokens": 0, "image_tokens": 196},
    "total_tokens": 246,
}
ALL_CHAT = Details(
    cache_write=300, audio_prompt=5, audio_completion=8, image_prompt=6,
    accepted_prediction=7, rejected_prediction=10,
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "document", "expected"),
    [
        (CompletionUsage, CHAT_USAGE, (900, 80, 200, 9, ALL_CHAT)),
        (ResponseUsage, RESPONSE_USAGE, (900, 80, 200, 9, Details(300, 100))),
        (DecisionUsage, RESPONSE_USAGE, (900, 80, 200, 9, Details(300, 100))),
        (UsageTokens, TRANSCRIPTION_USAGE, (14, 45, 0, 0, Details(audio_prompt=12))),
        (
            ImagesUsage,
            IMAGE_USAGE,
            (50, 196, 0, 0, Details(image_prompt=40, image_completion=196)),
        ),
        (EmbeddingsUsage, {"prompt_tokens": 8, "total_tokens": 8}, (8, 0, 0, 0, NO_DETAILS)),
    ],
)
def test_every_count_that_the_sdk_names_is_read(
    model: type[BaseModel], document: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert sdk_counts(model) <= COUNTED | DERIVED
    model.model_validate(document, strict=True)
    for indent in (None, 2):
        body = json.dumps({"model": "m", "usage": document}, indent=indent).encode()
        assert usage_of({}, body) == Usage("m", *expected)
        streamed = b"data: " + body + b"\n\ndata: [DONE]\n\n"
        assert scan(streamed, [7]) == Usage("m", *expected)


COUNTED = {
    "prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "cached_tokens",
    "reasoning_tokens", "cache_write_tokens", "ttl_12h_tokens", "audio_tokens", "image_tokens",
    "accepted_prediction_tokens", "rejected_prediction_tokens",
}  # fmt: skip
DERIVED = {"total_tokens", "text_tokens", "ttl_30m_tokens"}
"""Counts that are sums or differences of others."""


def sdk_counts(model: Any) -> set[str]:
    """Return the names of all counts in a model of the SDK, at any depth."""
    found = set()
    for name, field in getattr(model, "model_fields", {}).items():
        if name.endswith("_tokens"):
            found.add(name)
        for inner in (field.annotation, *get_args(field.annotation)):
            found |= sdk_counts(inner)
    return found


def test_usage_far_from_the_end_is_found_in_no_pieces() -> None:
    usage = b'"usage":{"prompt_tokens":1}'
    for behind in (TAIL_BYTES - len(usage), TAIL_BYTES - len(usage) + 1, 2 * TAIL_BYTES):
        body = b'{"model":"m",' + usage + b" " * (behind - 1) + b"}"
        expected = Usage("m", 1, 0, 0, 0) if behind == TAIL_BYTES - len(usage) else None
        assert usage_of({}, body) == expected
        for size in (1, 1000, TAIL_BYTES - 1, 10 * TAIL_BYTES):
            assert scan(body, [size]) == expected


def test_model_name_is_read_to_its_end_in_any_pieces() -> None:
    known = b'{"model":"gpt-6","usage":{"prompt_tokens":1}}'
    assert scan(known) == Usage("gpt-6", 1, 0, 0, 0)
    longer = b'{"model":"gpt-6-luna","usage":{"prompt_tokens":1}}'
    for at in range(len(longer)):
        assert scan(longer, [at + 1, len(longer)]) == Usage("gpt-6-luna", 1, 0, 0, 0)


def events(*documents: Any) -> bytes:
    return (
        b"".join(b"data: " + json_bytes(each) + b"\n\n" for each in documents) + b"data: [DONE]\n\n"
    )


CHUNK = {
    "id": "c",
    "model": "gpt-6.2-sol",
    "choices": [{"delta": {"content": "word "}}],
    "usage": None,
}
LAST = {"id": "c", "model": "gpt-6.2-sol", "choices": [], "usage": COMPLETION["usage"]}
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
        (STREAM, EXPECTED._replace(model="gpt-6.2-sol")),
        (COMPLETED, Usage("gpt-6.1-terra", 36, 87, 8, 64)),
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
    assert scan(coded, pieces, content_encoding=coding) == EXPECTED._replace(model="gpt-6.2-sol")


details = st.dictionaries(
    st.sampled_from(sorted(COUNTED | DERIVED)), st.none() | st.integers(0, 10**9), max_size=5
)
usages = st.none() | st.fixed_dictionaries(
    {"total_tokens": st.integers(0, 10**9)},
    optional={
        "prompt_tokens": st.integers(0, 10**9),
        "output_tokens": st.integers(0, 10**9),
        "prompt_tokens_details": st.none() | details,
        "input_tokens_details": st.none() | details,
        "output_tokens_details": details,
    },
)
texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.just('"usage":{"prompt_tokens":9}')
event = st.one_of(
    st.builds(lambda text: {"model": "m", "choices": [{"delta": {"content": text}}]}, texts),
    st.builds(lambda usage: {"model": "gpt-6-luna", "choices": [], "usage": usage}, usages),
    st.builds(
        lambda usage, text: {"response": {"model": "n", "usage": usage, "user": text}},
        usages,
        texts,
    ),
)
framings = st.sampled_from(
    [b"data: %b\n\n", b"event: x\ndata: %b\r\n\r\n", b": ping\n\ndata:%b\n\n"]
)


def naive_usage(documents: list[dict[str, Any]]) -> Usage | None:
    """Return the usage of a stream of *documents*, with the parsed documents at hand."""
    bodies = [each.get("response", each) for each in documents]
    for usage in reversed([body["usage"] for body in bodies if body.get("usage")]):
        prompt, completion = usage.get("prompt_tokens"), usage.get("output_tokens")
        if prompt is None and completion is None:
            continue
        before = usage.get("prompt_tokens_details")
        before = usage.get("input_tokens_details") if before is None else before
        before, after = before or {}, usage.get("output_tokens_details") or {}
        return Usage(
            bodies[0]["model"], prompt or 0, completion or 0,
            before.get("cached_tokens") or 0, after.get("reasoning_tokens") or 0,
            Details(
                before.get("cache_write_tokens") or 0, 0,
                before.get("audio_tokens") or 0, after.get("audio_tokens") or 0,
                before.get("image_tokens") or 0, after.get("image_tokens") or 0,
                after.get("accepted_prediction_tokens") or 0,
                after.get("rejected_prediction_tokens") or 0,
            ),
        )  # fmt: skip
    return None


@given(
    st.lists(event, min_size=1, max_size=6), framings,
    st.booleans(), st.lists(st.integers(1, 400), min_size=1, max_size=8),
)  # fmt: skip
def test_stream_has_the_usage_that_a_naive_reader_finds_however_it_is_cut(
    documents: list[dict[str, Any]], framing: bytes, ascii_only: bool, pieces: list[int]
) -> None:
    body = b"".join(
        framing % json.dumps(each, ensure_ascii=ascii_only).encode() for each in documents
    )
    expected = naive_usage(documents)
    assert usage_of({}, body) == expected
    assert scan(body, pieces) == expected
    assert scan(gzip.compress(body), pieces, content_encoding="gzip") == expected


@pytest.mark.parametrize("coding", ["", "gzip"])
@pytest.mark.parametrize("usage", [CHAT_USAGE, RESPONSE_USAGE])
def test_usage_is_the_same_wherever_a_stream_is_cut(usage: dict[str, Any], coding: str) -> None:
    body = events({"model": "gpt-6-luna", "usage": None}, {"model": "gpt-6-luna", "usage": usage})
    expected = usage_of({}, body)
    assert expected is not None
    coded = gzip.compress(body) if coding else body
    for at in range(1, len(coded)):
        assert scan(coded, [at, len(coded) - at], content_encoding=coding) == expected


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
            assert sum(map(len, scanner._unread)) < scanner_module.READ_TOGETHER_BYTES


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
        (b"POST", b"/v1/responses/compact", True),
        (b"POST", b"/v1/decisions", True),
        (b"POST", b"/v1/embeddings", True),
        (b"POST", b"/openai/deployments/sol/chat/completions", True),
        (b"POST", b"/openai/v1/responses", True),
        (b"GET", b"/openai/v1/responses", False),
        (b"POST", b"/openai/v1/responses/resp_1/cancel", False),
        (b"POST", b"/v1/threads/responses", False),
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
    assert sum(map(len, scanner._unread)) < scanner_module.READ_TOGETHER_BYTES
    assert len(scanner._unread) < scanner_module.READ_TOGETHER_BYTES // 60
    scanner.add(json_bytes(COMPLETION)[-600:])
    assert scanner.usage()[1:] == EXPECTED[1:]


def test_gzip_padding_is_ignored_and_members_are_limited() -> None:
    coded = gzip.compress(json_bytes(COMPLETION))
    assert scan(coded + bytes(700), [100], content_encoding="gzip") == EXPECTED
    assert scan(gzip.compress(b"") * 300 + coded, [100], content_encoding="gzip") is None


def test_model_is_known_after_the_piece_that_names_it() -> None:
    for fields in ({}, {b"content-encoding": b"gzip"}):
        scanner = UsageScanner(fields)
        assert scanner.model == ""
        body = json_bytes(COMPLETION)
        scanner.add(gzip.compress(body) if fields else body)
        assert scanner.model == EXPECTED.model


def test_model_is_found_after_null_model() -> None:
    body = (
        b'{"model":null,"x":"'
        + b"x" * 400
        + b'","model":"gpt-6.2-sol","usage":{"prompt_tokens":1}}'
    )
    for pieces in ([1], [50], [420], [427], [431], [1000]):
        assert scan(body, pieces).model == "gpt-6.2-sol"


def test_unread_answer_is_read_once_and_released() -> None:
    answer = UnreadResponse(json_bytes(COMPLETION))
    assert answer.usage() == EXPECTED
    assert answer._body is None
    assert answer.usage() == EXPECTED
    assert UnreadResponse(b"{}").usage() is None
