"""Limits of a message head, and the bytes that frame a body."""

from __future__ import annotations

from goproxyai.errors import ProxyError

MAX_HEADER_BYTES = 64 * 1024
"""Bytes of header lines in one head; for requests and for responses."""

MAX_HEADER_FIELDS = 200
"""Header lines in one head; for requests and for responses."""

MAX_MULTIPART_FRAMING_BYTES = 64 * 1024
"""Bytes by which a ``multipart/form-data`` body may exceed ``MAX_BODY_SIZE``.

They are for boundaries and part headers: 300 parts have room. Parts are not parsed.
"""

LAST_CHUNK = b"0\r\n\r\n"

CONTINUE = b"HTTP/1.1 100 Continue\r\n"
"""The head of an interim response, without its blank line."""


def headers_too_large() -> ProxyError:
    """Return the 431 for a request head over the limits."""
    return ProxyError(
        "headers_too_large",
        "The request header exceeds 64 KiB or 200 fields; send fewer or shorter fields.",
    )


def chunk(data: bytes) -> bytes:
    """Return *data* as one chunk (RFC 9112 §7.1).

    Empty *data* gives no bytes at all, since an empty chunk would end the body.
    """
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
