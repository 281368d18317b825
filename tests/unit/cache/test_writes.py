"""Which requests are writes, whether a body asks to store the response, and what a write drops."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.coalescing import MAX_PARSED_BODY_BYTES
from goproxyai.cache.writes import (
    COMPUTATIONS,
    STORED_BY_REQUEST,
    asks_to_store,
    is_write,
    owner_of,
    stores_by_default,
    written_owners,
)

ALICE, BOB = b"alice-alice-alic", b"bob-bob-bob-bob-"
LONG = b'"' + b"x" * MAX_PARSED_BODY_BYTES + b'"'


# Requests


@pytest.mark.parametrize("method", [b"PUT", b"PATCH", b"DELETE"])
@pytest.mark.parametrize("path", [b"/v1/files/a", b"/v1/embeddings", b"/openai/x"])
def test_other_methods_than_post_are_writes(method: bytes, path: bytes) -> None:
    assert is_write(method, path)
    assert stores_by_default(method, path) is None


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_safe_methods_are_no_writes(method: bytes) -> None:
    assert not is_write(method, b"/v1/files")
    assert stores_by_default(method, b"/v1/responses") is None


@pytest.mark.parametrize("endpoint", COMPUTATIONS)
@pytest.mark.parametrize("prefix", [b"/v1/", b"/openai/v1/", b"/openai/deployments/gpt/"])
def test_computations_are_no_writes(prefix: bytes, endpoint: bytes) -> None:
    assert not is_write(b"POST", prefix + endpoint)
    assert stores_by_default(b"POST", prefix + endpoint) is None


@pytest.mark.parametrize(("endpoint", "default"), STORED_BY_REQUEST.items())
@pytest.mark.parametrize("prefix", [b"/v1/", b"/openai/v1/", b"/openai/deployments/gpt/"])
def test_body_decides_whether_a_generation_is_a_write(
    prefix: bytes, endpoint: bytes, default: bool
) -> None:
    assert is_write(b"POST", prefix + endpoint)
    assert stores_by_default(b"POST", prefix + endpoint) is default


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/files",
        b"/v1/chat/completions/chatcmpl-1",
        b"/v1/responses/resp_1/cancel",
        b"/v1/vector_stores/vs_1/search",
        b"/v1/threads/runs",
        b"/v1/x/embeddings",
        b"/v1/embeddings/",
        b"/v1/unknown",
        b"/openai/files",
        b"/openai/my-embeddings",
    ],
)
def test_other_posts_are_writes(path: bytes) -> None:
    assert is_write(b"POST", path)
    assert stores_by_default(b"POST", path) is None


# The body


@pytest.mark.parametrize(
    ("body", "for_chat", "for_responses"),
    [
        (b"{}", False, True),
        (b'{"store":true}', True, True),
        (b'{ "store" : true , "model":"gpt" }', True, True),
        (b'{"store":false}', False, False),
        (b'{"store":null}', False, True),
        (b'{"store":0}', True, True),
        (b'{"store":"false"}', True, True),
        (b'{"store":false,"store":true}', True, True),
        (b'{"store":true,"store":false}', True, True),
        (b'{"store":false,"store":false}', False, False),
        (b'{"st\\u006fre":true}', True, True),
        (b'{"store":false,"input":"\\u006f"}', False, False),
        (b'{"input":"\\u00e9\\u2019"}', False, True),
        (b'{"input":"\\"store\\":true"}', False, True),
        (b'{"metadata":{"store":true}}', False, True),
        (b'{"metadata":{"store":false}}', False, True),
        ('{"store":true}'.encode("utf-16"), True, True),
        ('{"store":false}'.encode("utf-16"), False, False),
        (b'{"store":true', True, True),
        (b'{"store":false', True, True),
        (b'["store"]', True, True),
        (b'{"store":' + b"[" * 100_000, True, True),
        (b'{"input":' + LONG + b"}", False, True),
        (b'{"store":false,"input":' + LONG + b"}", True, True),
        (b'{"input":"\\u0074",' + LONG + b":1}", True, True),
    ],
)
def test_store_is_read_from_the_body(body: bytes, for_chat: bool, for_responses: bool) -> None:
    assert asks_to_store(body, default=False) is for_chat
    assert asks_to_store(body, default=True) is for_responses


@given(
    st.dictionaries(st.sampled_from(["store", "model"]), st.booleans() | st.none()),
    st.booleans(),
)
def test_result_agrees_with_plain_parsing(document: dict[str, bool | None], default: bool) -> None:
    plain = document.get("store")
    expected = default if plain is None else plain
    assert asks_to_store(json.dumps(document).encode(), default) is expected


# Owners


@pytest.mark.parametrize(
    "path", [b"/v1/files", b"/v1/modelsx", b"/v1/x/models", b"/openai/models", b"/v1", b""]
)
def test_any_write_drops_other_gets_of_its_credential(path: bytes) -> None:
    assert owner_of(ALICE, path) in written_owners(ALICE, b"/v1/batches")
    assert owner_of(ALICE, path) in written_owners(ALICE, b"/v1/models/ft")
    assert owner_of(BOB, path) not in written_owners(ALICE, b"/v1/models/ft")


@pytest.mark.parametrize("path", [b"/v1/models", b"/v1/models/", b"/v1/models/gpt-4o"])
@pytest.mark.parametrize(
    ("written", "dropped"),
    [
        (b"/v1/models/ft", True),
        (b"/v1/fine_tuning/jobs", True),
        (b"/openai/v1/fine_tuning/jobs/a/cancel", True),
        (b"/v1/files", False),
        (b"/v1/responses", False),
        (b"/v1/fine_tunings", False),
    ],
)
def test_only_writes_about_models_drop_models(path: bytes, written: bytes, dropped: bool) -> None:
    assert (owner_of(ALICE, path) in written_owners(ALICE, written)) is dropped
    assert owner_of(BOB, path) not in written_owners(ALICE, written)
