"""The JSON of the proxy's own answers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.errors import STATUS, ProxyError, json_bytes

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(-1e15, 1e15).map(lambda n: round(n, 3))
values = st.none() | st.booleans() | numbers | st.text()
documents = st.recursive(
    values, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(documents)
def test_json_is_byte_for_byte_that_of_the_standard_library(document: Any) -> None:
    assert json_bytes(document) == json.dumps(document, separators=(",", ":")).encode("ascii")


@pytest.mark.parametrize("text", ["é", "😀", "\u2028", "\x7f", "\x00\x1f\b\t", '"\\/', "\udc80"])
def test_json_escapes_all_but_printable_ascii(text: str) -> None:
    body = ProxyError("bad_request", text).body()
    assert body.isascii()
    assert body == json.dumps(
        {"error": {"message": text, "type": "proxy_error", "code": "bad_request"}},
        separators=(",", ":"),
    ).encode("ascii")


def test_json_of_a_struct_escapes_as_well() -> None:
    class Line(msgspec.Struct):
        text: str

    assert json_bytes(Line("é")) == b'{"text":"\\u00e9"}'


@pytest.mark.parametrize("code", STATUS)
def test_error_body_has_the_contract_shape(code: str) -> None:
    error = ProxyError(code, "It failed; try again.")
    assert error.status == STATUS[code]
    assert error.body() == (
        b'{"error":{"message":"It failed; try again.","type":"proxy_error","code":"%b"}}'
        % code.encode()
    )
