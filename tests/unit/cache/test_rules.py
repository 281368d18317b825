"""Which responses are stored."""

from __future__ import annotations

import pytest

from goproxyai.cache.directives import NO_DIRECTIVES, Directives
from goproxyai.cache.key import IDENTITY_FIELDS
from goproxyai.cache.rules import (
    in_namespace,
    may_serve_stale,
    may_share,
    may_store,
)

CHAT = b"/v1/chat/completions"
JSON = {b"content-type": b"application/json"}


# Storing by status and header


@pytest.mark.parametrize("status", [200, 201, 400, 401])
def test_storable_statuses(status: int) -> None:
    assert may_store(b"GET", status, JSON, NO_DIRECTIVES)
    assert may_store(b"POST", status, JSON, NO_DIRECTIVES)


@pytest.mark.parametrize(
    ("media_type", "stored"),
    [
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b"application/problem+json", True),
        (b"text/html", False),
        (b"text/event-stream", False),
        (b"", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("status", [400, 401])
def test_error_is_stored_as_json_only(status: int, media_type: bytes | None, stored: bool) -> None:
    fields = {} if media_type is None else {b"content-type": media_type}
    assert may_store(b"POST", status, fields, NO_DIRECTIVES) is stored
    assert may_store(b"POST", 200, fields, NO_DIRECTIVES)


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
