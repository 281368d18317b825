"""Which requests are looked up, and which responses are stored."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.cache.directives import NO_DIRECTIVES, Directives
from goproxyai.cache.key import IDENTITY_FIELDS, KEY_FIELDS
from goproxyai.cache.rules import (
    TERMINAL_STATUSES,
    bypass_reason,
    in_namespace,
    is_in_progress,
    may_serve_stale,
    may_share,
    may_store,
)
from goproxyai.messages.decoding import MAX_DECODED_BYTES

CHAT = b"/v1/chat/completions"
JSON = {b"content-type": b"application/json"}
SDK = dict.fromkeys(
    b"host accept-encoding connection accept content-type user-agent x-stainless-lang"
    b" x-stainless-package-version x-stainless-os x-stainless-arch x-stainless-runtime"
    b" x-stainless-runtime-version x-stainless-async x-stainless-retry-count"
    b" x-stainless-read-timeout authorization content-length openai-organization".split(),
    b"x",
)


# Requests


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        (b"GET", b"/v1/models", None),
        (b"GET", CHAT, None),
        (b"POST", CHAT, None),
        (b"POST", b"/v1/completions", None),
        (b"POST", b"/v1/embeddings", None),
        (b"POST", b"/v1/embeddings/", "path"),
        (b"POST", b"/v1/files", "path"),
        (b"PUT", CHAT, "method"),
        (b"DELETE", b"/v1/files/a", "method"),
        (b"PATCH", CHAT, "method"),
        (b"HEAD", b"/v1/models", "method"),
        (b"OPTIONS", CHAT, "method"),
        (b"get", CHAT, "method"),
    ],
)
def test_gets_and_cacheable_posts_are_looked_up(
    method: bytes, path: bytes, reason: str | None
) -> None:
    assert bypass_reason(method, path, SDK) == reason


@pytest.mark.parametrize(
    "name",
    [
        *KEY_FIELDS,
        *b"te trailer upgrade keep-alive transfer-encoding proxy-anything date via forwarded"
        b" x-forwarded-for x-real-ip x-request-id traceparent tracestate referer dnt priority"
        b" upgrade-insecure-requests sec-fetch-user cache-control pragma expect"
        b" x-cache-ttl x-cache-replay x-stainless-something-new".split(),
    ],
)
def test_key_fields_and_neutral_fields_do_not_bypass(name: bytes) -> None:
    assert bypass_reason(b"GET", b"/v1/models", {**SDK, name: b"x"}) is None


@pytest.mark.parametrize(
    "name",
    b"cookie origin if-none-match if-modified-since if-match x-stainless-poll-helper x-anything"
    b" idempotency-key content-encoding proxy sec-fetch x-stainless openai-other".split(),
)
def test_other_field_bypasses(name: bytes) -> None:
    assert bypass_reason(b"POST", CHAT, {**SDK, name: b"x"}) == "header"


def test_range_request_bypasses() -> None:
    assert bypass_reason(b"GET", b"/v1/files/a/content", {b"range": b"bytes=0-1"}) == "range"
    assert bypass_reason(b"GET", b"/v1/x", {b"cookie": b"a", b"if-range": b"x"}) == "range"


# Storing by status and header


@pytest.mark.parametrize("status", [200, 201, 400, 401])
def test_storable_statuses(status: int) -> None:
    assert may_store(b"GET", status, JSON, NO_DIRECTIVES)
    assert may_store(b"POST", status, {}, NO_DIRECTIVES)


@pytest.mark.parametrize("status", [100, 202, 204, 206, 301, 304, 403, 404, 408, 429, 500, 503])
def test_other_statuses_are_not_stored(status: int) -> None:
    assert not may_store(b"GET", status, JSON, NO_DIRECTIVES)


def test_no_store_of_request_or_response_forbids_storing() -> None:
    assert not may_store(b"GET", 200, {}, Directives(no_store=True))
    assert not may_store(b"GET", 200, {b"cache-control": b"private, NO-Store"}, NO_DIRECTIVES)
    assert may_store(b"GET", 200, {b"cache-control": b'x="no-store"'}, NO_DIRECTIVES)
    assert may_store(b"GET", 200, {b"cache-control": b"no-cache, private"}, NO_DIRECTIVES)
    assert may_store(b"GET", 200, {}, Directives(no_cache=True, max_age=0))


def test_other_methods_are_not_stored() -> None:
    assert not may_store(b"HEAD", 200, {}, NO_DIRECTIVES)


@pytest.mark.parametrize(
    ("vary", "stored"),
    [
        (b"Accept-Encoding", True),
        (b"Origin, Authorization ,accept-language", True),
        (b"Cookie, Range, X-Stainless-Poll-Helper", True),
        (b"", True),
        (b"*", False),
        (b"Accept, *", False),
        (b"accept-encoding, User-Agent", False),
        (b"X-Forwarded-For", False),
        (b"X-Stainless-Lang", False),
        (b"X-Stainless-New", False),
        (b"Sec-Fetch-User", False),
        (b"Connection", False),
    ],
)
def test_response_that_varies_by_ignored_field_is_not_stored(vary: bytes, stored: bool) -> None:
    assert may_store(b"GET", 200, {b"vary": vary}, NO_DIRECTIVES) is stored


# Sharing and stale use


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 304])
def test_shared_response_is_never_an_error(status: int) -> None:
    assert may_share(status, {})
    assert not may_share(status, {}, shared=True)
    assert not may_store(b"GET", status, {}, NO_DIRECTIVES, shared=True)
    assert may_store(b"GET", 200, {}, NO_DIRECTIVES, shared=True)


def test_private_response_is_not_shared() -> None:
    fields = {b"cache-control": b"max-age=5, Private"}
    assert may_share(200, fields)
    assert not may_share(200, fields, shared=True)
    assert not may_share(200, {b"cache-control": b"no-store"})


@pytest.mark.parametrize("name", sorted(IDENTITY_FIELDS))
def test_response_that_varies_by_identity_is_not_shared(name: bytes) -> None:
    assert may_share(200, {b"vary": name})
    assert not may_share(200, {b"vary": b"accept, " + name.title()}, shared=True)


@pytest.mark.parametrize(
    ("line", "may"),
    [
        (b"Cache-Control: max-age=1", True),
        (b"cache-control: Must-Revalidate", False),
        (b"Cache-Control: public, proxy-revalidate", False),
        (b"Cache-Control: no-cache", False),
        (b"Cache-Control: s-maxage=7", False),
        (b"X-Cache-Control: no-cache", True),
        (b'Cache-Control: x="no-cache"', True),
    ],
)
def test_response_may_forbid_stale_use(line: bytes, may: bool) -> None:
    assert may_serve_stale(b"HTTP/1.1 200 OK\r\nA: b\r\n" + line + b"\r\n") is may


@pytest.mark.parametrize(
    ("path", "shared"),
    [
        (b"/v1/models", True),
        (b"/v1/models/gpt-4o", True),
        (b"/v1/models/", True),
        (b"/v1/modelsx", False),
        (b"/v1/chat/completions", True),
        (b"/v1/chat/completions/x", True),
        (b"/v1/chat", False),
        (b"/v1/", False),
        (b"/v2/models", False),
    ],
)
def test_namespace_is_a_path_and_its_subpaths(path: bytes, shared: bool) -> None:
    assert in_namespace(path, ("models", "chat/completions")) is shared
    assert not in_namespace(path, ())


# Operations in progress


@pytest.mark.parametrize("status", ["queued", "in_progress", "validating", "Completed", "", "new"])
def test_non_terminal_status_is_in_progress(status: str) -> None:
    assert is_in_progress(JSON, json.dumps({"id": 1, "status": status}).encode())


@pytest.mark.parametrize("status", sorted(TERMINAL_STATUSES))
def test_terminal_status_is_not_in_progress(status: str) -> None:
    assert not is_in_progress(JSON, json.dumps({"status": status}).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"",
        b"junk",
        b"[" * 100_000,
        b'{"status_details":"queued"}',
        b'{"status":null}',
        b'{"status":{"status":"queued"}}',
        b'[{"status":"queued"}]',
        b'{"data":[{"status":"queued"}]}',
        b'"status"',
        b'{"text":"\\u0041"}',
        b'{"status":"queued","status":"completed"}',
        '{"a":"x"}'.encode("utf-16"),
    ],
)
def test_only_top_level_string_status_is_in_progress(body: bytes) -> None:
    assert not is_in_progress(JSON, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"\\u0073tatus":"queued"}',
        b'{"st\\u0061t\\u0075s" : "\\u0071ueued"}',
        '{"status":"queued"}'.encode("utf-16"),
        '{"status":"queued"}'.encode("utf-32-le"),
        '{"status":"queued"}'.encode("utf-8-sig"),
        b'{"status":"completed"',
        b'{"status":"completed","x":\xff}',
        b'{"status":"completed","x":' + b"1" * 10_000 + b"}",
        b'{"status":"completed","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"status":"completed","x":"' + b"x" * MAX_DECODED_BYTES + b'"}',
    ],
)
def test_escaped_encoded_malformed_deep_or_large_body_is_in_progress(body: bytes) -> None:
    assert is_in_progress(JSON, body)


def test_large_body_without_status_is_not_in_progress() -> None:
    assert not is_in_progress(JSON, b'{"x":"' + b"x" * MAX_DECODED_BYTES + b'\\u0041"}')


@pytest.mark.parametrize(
    ("media_type", "changing"),
    [
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b"application/problem+json ;x=y", True),
        (b"text/plain", False),
        (b"text/event-stream", False),
        (b"application/jsonl", False),
        (b"", False),
    ],
)
def test_only_json_is_parsed(media_type: bytes, changing: bool) -> None:
    assert is_in_progress({b"content-type": media_type}, b'{"status":"queued"}') is changing
    assert not is_in_progress({}, b'{"status":"queued"}')


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
    ],
)
def test_supported_codings_are_decoded(coding: bytes, encode: object) -> None:
    assert callable(encode)
    fields = {**JSON, b"content-encoding": coding}
    assert is_in_progress(fields, encode(b'{"id":"batch","status":"queued"}'))
    assert not is_in_progress(fields, encode(b'{"id":"batch","status":"completed"}'))
    assert not is_in_progress(fields, encode(b'{"id":"batch","object":"batch"}'))


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"br", b"{}"),
        (b"zstd", b"{}"),
        (b"gzip, gzip", gzip.compress(gzip.compress(b"{}"))),
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
def test_undecodable_body_is_in_progress(coding: bytes, body: bytes) -> None:
    assert is_in_progress({**JSON, b"content-encoding": coding}, body)
    assert not is_in_progress({b"content-type": b"text/plain", b"content-encoding": coding}, body)


def test_body_that_decodes_to_the_limit_is_parsed() -> None:
    fields = {**JSON, b"content-encoding": b"gzip"}
    body = b'{"status":"completed"}'
    assert not is_in_progress(fields, gzip.compress(body + b" " * (MAX_DECODED_BYTES - len(body))))


@given(st.dictionaries(st.sampled_from(["status", "a"]), st.sampled_from(["queued", "failed", 1])))
def test_result_agrees_with_plain_parsing(value: dict[str, object]) -> None:
    status = value.get("status")
    plain = status == "queued"
    assert is_in_progress(JSON, json.dumps(value).encode()) is plain
    assert (
        is_in_progress(
            {**JSON, b"content-encoding": b"gzip"}, gzip.compress(json.dumps(value).encode())
        )
        is plain
    )
