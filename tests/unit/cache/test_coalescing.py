"""Which requests may share an upstream request."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.coalescing import MAX_PARSED_BODY_BYTES, is_deterministic, may_coalesce

CHAT = b"/v1/chat/completions"


def test_gets_and_embeddings_share_and_completions_depend_on_body() -> None:
    assert may_coalesce("deterministic", b"GET", CHAT)
    assert may_coalesce("deterministic", b"POST", b"/v1/embeddings")
    assert may_coalesce("deterministic", b"POST", CHAT) is None
    assert may_coalesce("deterministic", b"POST", b"/v1/completions") is None


def test_modes_all_and_off() -> None:
    assert may_coalesce("all", b"POST", CHAT) is True
    assert may_coalesce("off", b"GET", b"/v1/models") is False


@pytest.mark.parametrize(
    "body",
    [
        b'{"temperature":0}',
        b'{"temperature": 0.0, "n": 2}',
        b'{"temperature":-0.0}',
        b'{"temperature":1,"seed":7}',
        b'{"seed":0}',
    ],
)
def test_temperature_zero_or_seed_is_deterministic(body: bytes) -> None:
    assert is_deterministic(body)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"",
        b'{"temperature":0.1}',
        b'{"temperature":null,"seed":null}',
        b'{"temperature":false}',
        b'{"temperature":"0"}',
        b'{"seed":true}',
        b'{"seed":1.5}',
        b'{"messages":[{"content":"\\"seed\\": 7"}]}',
        b'{"tools":[{"seed":7,"temperature":0}]}',
        b'[{"seed":7}]',
        b'"seed"',
        b'{"seed":7',
        b'{"seed":7}\xff',
        b'{"seed":7,"x":' + b"[" * 100_000,
        b'{"seed":7,"x":"' + b"x" * MAX_PARSED_BODY_BYTES + b'"}',
    ],
)
def test_other_bodies_are_not_deterministic(body: bytes) -> None:
    assert not is_deterministic(body)


@given(st.dictionaries(st.sampled_from(["temperature", "seed", "n"]), st.integers() | st.floats()))
def test_result_agrees_with_plain_parsing(document: dict[str, float]) -> None:
    said = document.get("temperature") == 0 or isinstance(document.get("seed"), int)
    assert is_deterministic(json.dumps(document).encode()) is said
