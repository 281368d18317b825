"""What is a WebSocket handshake."""

from __future__ import annotations

import pytest

from goproxyai.messages.websocket import is_handshake, opens_websocket

FIELDS = {b"connection": b"Upgrade", b"upgrade": b"websocket"}


@pytest.mark.parametrize(
    ("connection", "upgrade"),
    [
        (b"Upgrade", b"websocket"),
        (b"keep-alive, upgrade", b"WebSocket"),
        (b"UPGRADE,close", b"h2c, websocket"),
    ],
)
def test_get_that_names_websocket_is_a_handshake(connection: bytes, upgrade: bytes) -> None:
    fields = {b"connection": connection, b"upgrade": upgrade}
    assert is_handshake(b"GET", "1.1", fields)
    assert opens_websocket(fields)


@pytest.mark.parametrize(
    ("method", "version", "fields"),
    [
        (b"POST", "1.1", FIELDS),
        (b"GET", "1.0", FIELDS),
        (b"GET", "1.1", FIELDS | {b"connection": b"keep-alive"}),
        (b"GET", "1.1", FIELDS | {b"upgrade": b"h2c"}),
        (b"GET", "1.1", FIELDS | {b"upgrade": b"websockets"}),
        (b"GET", "1.1", {b"upgrade": b"websocket"}),
        (b"GET", "1.1", {}),
    ],
)
def test_other_requests_are_none(method: bytes, version: str, fields: dict[bytes, bytes]) -> None:
    assert not is_handshake(method, version, fields)
