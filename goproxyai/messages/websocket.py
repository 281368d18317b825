"""The opening handshake of a WebSocket (RFC 6455 §4), as far as a proxy takes part in it.

The proxy repeats ``Connection`` and ``Upgrade``, which concern one hop (RFC 9110 §7.8). The
``Sec-WebSocket-*`` fields are end-to-end: client and upstream check each other's.
"""

from __future__ import annotations

from typing import Final

from goproxyai.messages.headers import Fields, is_list_member

UPGRADE_LINES: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
"""The header lines of both handshakes that concern one hop."""

UPGRADE_HEADERS: Final = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
"""The same fields, for a 426 (RFC 9110 §15.5.22)."""


def is_handshake(method: bytes, version: str, fields: Fields) -> bool:
    """Whether a request asks for a WebSocket. Any other upgrade is ignored (RFC 9110 §7.8).

    :param version: of HTTP: ``1.1`` or ``1.0``.
    """
    return (
        b"upgrade" in fields and method == b"GET" and version == "1.1" and opens_websocket(fields)
    )


def opens_websocket(fields: Fields) -> bool:
    """Whether the fields that concern one hop name a WebSocket."""
    return is_list_member(fields.get(b"upgrade", b""), b"websocket") and is_list_member(
        fields.get(b"connection", b""), b"upgrade"
    )
