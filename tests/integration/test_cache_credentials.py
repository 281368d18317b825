"""Credentials and namespaces: what separates the responses of clients."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.integration.cached_requests import (
    CHAT,
    JSON,
    QUESTION,
    start_numbered,
    store_of,
    x_cache,
)
from tests.support.harness import Answer, ProxyHarness

FIELDS = ("Authorization", "api-key", "x-api-key", "x-goog-api-key")
SECRET = "Zq8credential"


def keyed(
    name: str, value: str, target: str = CHAT, method: str = "POST", body: bytes = QUESTION
) -> bytes:
    """Return a request whose only credential is the value of *name*."""
    headers = [("Host", "proxy.test"), *JSON, (name, value)]
    headers.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{each}: {text}" for each, text in headers)]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest_twisted.ensureDeferred
async def test_each_credential_field_and_value_has_its_own_response(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    asked = [keyed(name, value) for name in FIELDS for value in ("a", "b")]
    first = [await harness.ask(data) for data in asked]
    again = [await harness.ask(data) for data in asked]
    assert x_cache(*first) == [b"MISS"] * 8
    assert x_cache(*again) == [b"HIT"] * 8
    assert len({answer.body for answer in first}) == 8
    assert [answer.body for answer in again] == [answer.body for answer in first]


@pytest.mark.parametrize("name", FIELDS)
@pytest_twisted.ensureDeferred
async def test_write_drops_the_gets_of_its_credential_only(
    harness: ProxyHarness, name: str
) -> None:
    await start_numbered(harness)

    async def files(field: str, value: str) -> Answer:
        return await harness.ask(keyed(field, value, "/v1/files", "GET", b""))

    others = [(field, value) for field in FIELDS for value in "ab" if (field, value) != (name, "a")]
    for field, value in (*others, (name, "a")):
        await files(field, value)
    await harness.ask(keyed(name, "a", "/v1/files/f", "DELETE", b""))
    assert (await files(name, "a")).get("X-Cache") == b"MISS"
    assert x_cache(*[await files(*other) for other in others]) == [b"HIT"] * len(others)


@pytest.mark.parametrize("name", FIELDS)
@pytest_twisted.ensureDeferred
async def test_credential_is_forwarded_but_neither_stored_nor_logged(
    harness: ProxyHarness, name: str
) -> None:
    await start_numbered(harness, LOG_SLOW="1ms")
    await harness.ask(keyed(name, SECRET, "/v1/models", "GET", b""))
    await harness.ask(keyed(name, SECRET, "/v1/models", "GET", b""))
    await harness.ask(keyed(name, SECRET, "/nowhere", "GET", b""))
    assert harness.upstream.requests[0].header(name.encode()) == SECRET.encode()
    (entry,) = store_of(harness)
    parts = (entry.key, entry.head, entry.body, entry.bucket.path, entry.bucket.owner)
    assert not any(SECRET.encode() in part for part in parts)
    assert harness.daemon is not None
    harness.daemon.context.access_log.flush()
    assert harness.events
    assert SECRET not in str(harness.events)
    for page in ("/stats", "/metrics"):
        assert SECRET.encode() not in (await harness.ask(keyed("X-A", "b", page, "GET", b""))).body


@pytest.mark.parametrize(
    ("name", "sent"), [("anthropic-version", True), ("X-Cache-Namespace", False)]
)
@pytest_twisted.ensureDeferred
async def test_version_and_namespace_are_part_of_the_key(
    harness: ProxyHarness, name: str, sent: bool
) -> None:
    await start_numbered(harness)
    asked = [keyed(name, value) for value in ("2023-06-01", "2024-01-01")]
    assert x_cache(*[await harness.ask(data) for data in asked]) == [b"MISS"] * 2
    assert x_cache(*[await harness.ask(data) for data in asked]) == [b"HIT"] * 2
    expected = b"2023-06-01" if sent else None
    assert harness.upstream.requests[0].header(name.encode()) == expected


@pytest_twisted.ensureDeferred
async def test_write_drops_gets_of_every_namespace(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    listed = keyed("X-Cache-Namespace", "a", "/v1/files", "GET", b"")
    await harness.ask(listed)
    await harness.ask(keyed("X-Cache-Namespace", "b", "/v1/files/f", "DELETE", b""))
    assert (await harness.ask(listed)).get("X-Cache") == b"MISS"


@pytest_twisted.ensureDeferred
async def test_shared_response_is_separate_for_each_namespace(harness: ProxyHarness) -> None:
    await start_numbered(harness, CACHE_SHARED="models")

    def models(*fields: str) -> bytes:
        data = keyed("api-key", fields[0], "/v1/models", "GET", b"")
        added = "".join(f"X-Cache-Namespace: {field}\r\n" for field in fields[1:]).encode()
        return data.replace(b"Host:", added + b"Host:")

    asked = [models("a"), models("b"), models("a", "one"), models("b", "one"), models("b", "two")]
    labels = x_cache(*[await harness.ask(data) for data in asked])
    assert labels == [b"MISS", b"HIT", b"MISS", b"HIT", b"MISS"]
