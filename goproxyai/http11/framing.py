"""The bytes around a message: limits of a head, and chunks on the wire."""

from __future__ import annotations

from goproxyai.errors import ProxyError

MOST_HEADER_BYTES = 64 * 1024
"""Bytes of header lines in one head."""

MOST_FIELDS = 200
"""Header lines in one head."""

LAST_CHUNK = b"0\r\n\r\n"

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def headers_too_large() -> ProxyError:
    """The 431 of the contract."""
    return ProxyError("headers_too_large", "The header exceeds 64 KiB or 200 fields; send less.")


def chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 §7.1); nothing for no data, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
