"""Entries and stores for the tests of the cache."""

from __future__ import annotations

from goproxyai.cache.entry import Entry, new_entry
from goproxyai.cache.store import Store

TTL = 300.0
ALICE, BOB = b"\0\0alice-alice-al", b"\0\1bob-bob-bob-bo"
FILES = b"/v1/files"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_1\r\n"
CONTAINER_BYTES = 3_000
"""More than the containers grow by for one entry."""


def entry(
    key: bytes = b"k" * 32,
    body: bytes = b"{}",
    *,
    now: float = 0.0,
    ttl: float = TTL,
    head: bytes = HEAD,
    age: int = 0,
    timing: bytes | None = None,
) -> Entry:
    return new_entry(key, 200, head, body, now, ttl, age, timing)


def numbered(number: int, body: bytes = b"{}", **more: float) -> Entry:
    """An entry whose key is *number*."""
    return entry(b"%032d" % number, body, **more)  # type: ignore[arg-type]


def put(store: Store, one: Entry, path: bytes = FILES, owner: bytes = ALICE) -> bool:
    return store.put(one, path, owner, store.generation())


def large_store(stale_seconds: float = 0.0) -> Store:
    return Store(10_000_000, stale_seconds)
