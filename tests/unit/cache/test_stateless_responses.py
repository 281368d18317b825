"""Which requests to ``/v1/responses`` have nothing to do with state at the upstream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.stateless_responses import (
    MAX_PARSED_BODY_BYTES,
    STATE_REASONS,
    state_bypass,
)

STATELESS: dict[str, Any] = {"model": "gpt-5", "input": "hi", "store": False}


@pytest.mark.parametrize(
    "added",
    [
        {},
        {"stream": True},
        {"background": False},
        {"background": None},
        {"previous_response_id": None, "conversation": None, "prompt": None},
        {"tools": []},
        {"tools": None},
        {"tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "c"}]},
        {"include": ["reasoning.encrypted_content"]},
        {"input": [{"role": "user", "content": '"store":true'}]},
    ],
)
def test_stateless_request_is_looked_up(added: dict[str, Any]) -> None:
    assert state_bypass(json.dumps(STATELESS | added).encode()) is None


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ({"store": True}, "store"),
        ({"store": None}, "store"),
        ({"store": 0}, "store"),
        ({"store": "false"}, "store"),
        ({"background": True}, "background"),
        ({"background": 0}, "background"),
        ({"background": {}}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"previous_response_id": ""}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "function", "name": "f"}, {"type": "mcp"}]}, "tools"),
        ({"tools": [{"type": ["function"]}]}, "tools"),
        ({"tools": [{}]}, "tools"),
        ({"tools": ["function"]}, "tools"),
        ({"tools": {"type": "function"}}, "tools"),
    ],
)
def test_request_with_state_bypasses(added: dict[str, Any], reason: str) -> None:
    assert state_bypass(json.dumps(STATELESS | added).encode()) == reason


def test_request_without_store_bypasses() -> None:
    assert state_bypass(b'{"model":"gpt-5","input":"hi"}') == "store"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"null",
        b'{"store":true,"store":false}',
        b'{"store":false,"tools":[{"type":"mcp","type":"function"}]}',
        b"[" * 100_000,
        b'{"store":false,"input":"' + b"x" * MAX_PARSED_BODY_BYTES + b'"}',
    ],
)
def test_unreadable_body_bypasses(body: bytes) -> None:
    assert state_bypass(body) == "body"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_NAMES = st.sampled_from([*STATE_REASONS, "type", "model"])


@given(st.dictionaries(_NAMES, _JSON))
def test_looked_up_request_never_stores(document: dict[str, Any]) -> None:
    reason = state_bypass(json.dumps(document).encode())
    assert reason in (None, *STATE_REASONS)
    if reason is None:
        assert document["store"] is False
