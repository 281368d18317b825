"""Which responses to GETs change by themselves, and how long their header allows to serve them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.freshness import (
    TERMINAL_STATUSES,
    age_seconds,
    allowed_lifetime,
    changes_by_itself,
)
from goproxyai.messages.decoding import MAX_DECODED_BYTES

JSON = {b"content-type": b"application/json"}
BATCH = b"/v1/batches/batch_1"
NOW = 1_700_000_000.0
DATE = b"Tue, 14 Nov 2023 22:13:20 GMT"
LATER = b"Tue, 14 Nov 2023 22:14:20 GMT"


# Status


@pytest.mark.parametrize(
    "status",
    [
        "queued", "in_progress", "validating", "finalizing", "cancelling", "requires_action",
        "running", "pending", "created", "uploaded", "active", "ready", "Completed", "", "new",
        "completed ", "not completed",
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 2])
def test_non_terminal_status_changes_at_any_depth(status: str, indent: int | None) -> None:
    one = {"id": 1, "status": status}
    for document in (one, [one], {"data": [{"status": "completed"}, {"a": {"b": one}}]}):
        assert changes_by_itself(BATCH, JSON, json.dumps(document, indent=indent).encode())


@pytest.mark.parametrize("status", TERMINAL_STATUSES)
def test_terminal_status_does_not_change(status: str) -> None:
    assert not changes_by_itself(BATCH, JSON, json.dumps({"status": status}).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"",
        b"junk",
        b"[" * 100_000,
        b'{"status_details":"queued"}',
        b'{"status":null}',
        b'{"status":404}',
        b'{"status":true}',
        b'"status"',
        b'{"type":"status","x":"queued"}',
        b'{"text":"\\"status\\":\\"queued\\""}',
        b'{"text":"\\u0041\\u00e9"}',
        b'{"status":"completed","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_other_json_does_not_change(body: bytes) -> None:
    assert not changes_by_itself(BATCH, JSON, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"status":{}}',
        b'{"status": {"type":"active"}}',
        b'{"status":"queued","status":"completed"}',
        b'{"status":"completed","status":"queued"}',
        b'{"\\u0073tatus":"queued"}',
        b'{"st\\u0061t\\u0075s" : "\\u0071ueued"}',
        b'{"status":"\\u0071ueued"}',
        b'{"status"\t\r\n :\n"queued"}',
        b'{"status":',
        b'{"status":"que',
        '{"status":"queued"}'.encode("utf-16"),
        '{"status":"queued"}'.encode("utf-32-le"),
        '{"status":"queued"}'.encode("utf-8-sig"),
        b'{"status":"completed","x":"' + b"x" * MAX_DECODED_BYTES + b'"}',
    ],
)
def test_object_repeated_escaped_encoded_cut_off_or_large_status_changes(body: bytes) -> None:
    assert changes_by_itself(BATCH, JSON, body)


def test_large_body_without_status_and_list_does_not_change() -> None:
    body = b'{"x":"' + b"x" * MAX_DECODED_BYTES + b'\\u0041"}'
    assert not changes_by_itself(BATCH, JSON, body)


@given(
    st.recursive(
        st.dictionaries(st.sampled_from(["status", "a"]), st.sampled_from(["queued", "failed", 1])),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("ab"), inner),
    ),
    st.sampled_from([None, 1]),
)
def test_result_agrees_with_plain_parsing(value: object, indent: int | None) -> None:
    def changes(inner: object) -> bool:
        if isinstance(inner, dict):
            return inner.get("status") == "queued" or any(map(changes, inner.values()))
        return isinstance(inner, list) and any(map(changes, inner))

    body = json.dumps(value, indent=indent).encode()
    assert changes_by_itself(BATCH, JSON, body) is changes(value)
    compressed = {**JSON, b"content-encoding": b"gzip"}
    assert changes_by_itself(BATCH, compressed, gzip.compress(body)) is changes(value)


# Lists


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        (b"/v1/models", False),
        (b"/v1/files/", False),
        (b"/v1/batches", False),
        (b"/v1/batches/batch_1", True),
        (b"/v1/chat/completions", True),
        (b"/v1/fine_tuning/jobs", True),
        (b"/v1/fine_tuning/jobs/ft_1/events", True),
        (b"/v1/fine_tuning/jobs/ft_1/checkpoints", True),
        (b"/v1/threads/thread_1/messages", True),
        (b"/v1/responses/resp_1/input_items", True),
        (b"/v1/conversations/conv_1/items", True),
        (b"/v1/vector_stores/vs_1/file_batches/b/files", True),
        (b"/openai/files", True),
    ],
)
@pytest.mark.parametrize(
    "listing",
    [
        {"object": "list", "data": []},
        {"data": [{"id": 1}], "has_more": False},
        {"object": "list", "data": [], "first_id": None, "has_more": True},
    ],
)
def test_list_changes_unless_it_is_that_of_a_collection(
    path: bytes, changes: bool, listing: dict[str, object]
) -> None:
    assert changes_by_itself(path, JSON, json.dumps(listing).encode()) is changes
    assert changes_by_itself(path, JSON, json.dumps(listing, indent=2).encode()) is changes


def test_list_within_an_object_changes() -> None:
    inner = {"object": "list", "data": []}
    assert changes_by_itself(BATCH, JSON, json.dumps({"items": inner}).encode())
    nested = json.dumps({"object": "list", "data": [{"items": inner}]}).encode()
    assert changes_by_itself(b"/v1/threads", JSON, nested)


def test_list_of_a_collection_with_an_operation_in_progress_changes() -> None:
    body = b'{"object":"list","data":[{"status":"completed"},{"status":"in_progress"}]}'
    assert changes_by_itself(b"/v1/batches", JSON, body)


def test_large_list_changes() -> None:
    body = b'{"object":"list","data":["' + b"x" * MAX_DECODED_BYTES + b'"]}'
    assert changes_by_itself(b"/v1/models", JSON, body)


@pytest.mark.parametrize(
    "body",
    [b'{"object":"file","x":"list"}', b'{"data":[1]}', b'{"has_more":true}', b'{"data":{}}'],
)
def test_parts_of_a_list_are_no_list(body: bytes) -> None:
    assert not changes_by_itself(b"/v1/x/y", JSON, body)


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        (b"/v1/organization/costs", True),
        (b"/v1/organization/usage/completions", True),
        (b"/v1/organization", True),
        (b"/v1/organizations", False),
    ],
)
def test_organization_changes_whatever_its_type(path: bytes, changes: bool) -> None:
    for fields in (JSON, {b"content-type": b"text/csv"}):
        assert changes_by_itself(path, fields, b"{}") is changes


# Media types and content codings


@pytest.mark.parametrize(
    ("media_type", "changes"),
    [
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b"application/problem+json ;x=y", True),
        (b"text/json", True),
        (b"text/plain", False),
        (b"text/event-stream", False),
        (b"application/jsonl", False),
    ],
)
def test_only_json_is_searched(media_type: bytes, changes: bool) -> None:
    body = b'{"status":"queued"}'
    assert changes_by_itself(BATCH, {b"content-type": media_type}, body) is changes


@pytest.mark.parametrize("fields", [{}, {b"content-type": b""}])
def test_body_without_media_type_is_searched(fields: dict[bytes, bytes]) -> None:
    assert changes_by_itself(BATCH, fields, b'{"status":"queued"}')
    assert not changes_by_itself(BATCH, fields, b'{"status":"completed"}')
    assert changes_by_itself(BATCH, fields, b'\xef\xbb\xbf [{"status":"queued"}]')
    for body in (b"text", b"", b"\0binary", b'"status":"queued"'):
        assert not changes_by_itself(BATCH, fields, body)


def bare_deflate(body: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeeze.compress(body) + squeeze.flush()


def two_members(body: bytes) -> bytes:
    return gzip.compress(body[:5]) + gzip.compress(body[5:])


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        (b"identity", bytes),
        (b" GZIP ", gzip.compress),
        (b"x-gzip", gzip.compress),
        (b"gzip", two_members),
        (b"deflate", zlib.compress),
        (b"deflate", bare_deflate),
        (b"br", brotli.compress),
        (b"zstd", zstandard.compress),
    ],
)
def test_supported_codings_are_decoded(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    fields = {**JSON, b"content-encoding": coding}
    assert changes_by_itself(BATCH, fields, encode(b'{"id":"batch","status":"queued"}'))
    assert changes_by_itself(BATCH, fields, encode(b'{"id":"batch","object":"list"}'))
    assert not changes_by_itself(BATCH, fields, encode(b'{"id":"batch","status":"completed"}'))
    assert not changes_by_itself(BATCH, fields, encode(b'{"id":"batch","object":"batch"}'))


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"unknown", b"{}"),
        (b"br", b"not brotli"),
        (b"zstd", b"{}"),
        (b"gzip", b"{}"),
        (b"gzip", b""),
        (b"gzip", gzip.compress(b"{}" + b" " * 100)[:-4]),
        (b"gzip", gzip.compress(b"{}") + b"junk"),
        (b"gzip", gzip.compress(b"{}") * 1000),
        (b"deflate", b"\xff\xff"),
        (b"gzip", gzip.compress(b" " * (MAX_DECODED_BYTES + 1))),
        (b"gzip", gzip.compress(b" " * 600_000) * 2),
    ],
)
def test_json_that_cannot_be_decoded_changes(coding: bytes, body: bytes) -> None:
    assert changes_by_itself(BATCH, {**JSON, b"content-encoding": coding}, body)
    text = {b"content-type": b"text/plain", b"content-encoding": coding}
    assert not changes_by_itself(BATCH, text, body)


def test_body_that_decodes_to_the_limit_is_searched() -> None:
    fields = {**JSON, b"content-encoding": b"gzip"}
    body = b'{"status":"completed"}'
    body += b" " * (MAX_DECODED_BYTES - len(body))
    assert not changes_by_itself(BATCH, fields, gzip.compress(body))


# Lifetimes


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, None),
        ({b"age": b"100"}, None),
        ({b"cache-control": b"public, must-revalidate"}, None),
        ({b"cache-control": b"no-cache"}, 0),
        ({b"cache-control": b"max-age=60, Private"}, 0),
        ({b"cache-control": b'private="x"'}, 0),
        ({b"cache-control": b"no-store"}, 0),
        ({b"cache-control": b"max-age=60"}, 60),
        ({b"cache-control": b'Max-Age="60"'}, 60),
        ({b"cache-control": b"max-age=0"}, 0),
        ({b"cache-control": b"max-age=x"}, 0),
        ({b"cache-control": b"max-age"}, 0),
        ({b"cache-control": b"max-age=-1"}, 0),
        ({b"cache-control": b"max-age=60, max-age=30"}, 30),
        ({b"cache-control": b"max-age=" + b"9" * 5000}, 2**31),
        ({b"cache-control": b"max-age=60, s-maxage=20"}, 20),
        ({b"cache-control": b"max-age=0, s-maxage=20"}, 20),
        ({b"cache-control": b"max-age=60", b"age": b"25"}, 35),
        ({b"cache-control": b"max-age=60", b"age": b"61"}, 0),
        ({b"cache-control": b"max-age=60", b"age": b"x"}, 60),
        ({b"cache-control": b"max-age=60", b"age": b"9" * 24}, 0),
        ({b"cache-control": b"max-age=60", b"expires": b"0"}, 60),
        ({b"expires": LATER, b"date": DATE}, 60),
        ({b"expires": LATER, b"date": DATE, b"age": b"20"}, 40),
        ({b"expires": LATER}, 60),
        ({b"expires": DATE, b"date": LATER}, 0),
        ({b"expires": LATER, b"date": b"x"}, 0),
        ({b"expires": b"0"}, 0),
        ({b"expires": b"-1"}, 0),
        ({b"expires": b""}, 0),
        ({b"expires": b"\xff"}, 0),
        ({b"expires": b"Tue, 99 Nov 2023 22:14:20 GMT"}, 0),
        ({b"expires": b"Tue, 14 Nov 99999999999 22:14:20 GMT"}, 0),
        ({b"expires": b"Sun Nov  6 08:49:37 1994"}, 0),
    ],
)
def test_lifetime_that_a_header_allows(fields: dict[bytes, bytes], seconds: float | None) -> None:
    assert allowed_lifetime(fields, NOW) == seconds


@given(st.binary(max_size=60))
def test_any_field_value_has_a_lifetime(value: bytes) -> None:
    for name in (b"cache-control", b"expires", b"date", b"age"):
        fields = {b"expires": LATER, name: value}
        lifetime = allowed_lifetime(fields, NOW)
        assert lifetime is None or lifetime >= 0


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"7", 7), (b" 7 ", 7), (b"", 0), (b"-1", 0), (b"9" * 24, 2**31)]
)
def test_invalid_age_is_zero_and_excessive_age_is_bounded(text: bytes, seconds: int) -> None:
    assert age_seconds({b"age": text}) == seconds
    assert age_seconds({}) == 0
