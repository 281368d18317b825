"""Decoding of ``Content-Encoding``, to inspect a body; relayed bodies are never decoded."""

from __future__ import annotations

import zlib
from typing import Final

MAX_DECODED_BYTES: Final = 1024 * 1024

_MAX_GZIP_MEMBERS = 16


def decode_body(coding: bytes, body: bytes) -> bytes | None:
    """Return the decoded body.

    :param coding: the value of ``Content-Encoding``.
    :returns: ``None`` if the coding is unknown, the body is invalid or incomplete, or the decoded
        body exceeds :data:`MAX_DECODED_BYTES`.
    """
    coding = coding.strip().lower()
    if coding in (b"", b"identity"):
        return body
    try:
        if coding in (b"gzip", b"x-gzip"):
            return _inflate(body, zlib.MAX_WBITS | 16)
        if coding == b"deflate":
            try:
                return _inflate(body, zlib.MAX_WBITS)
            except zlib.error:  # some senders omit the zlib header (RFC 9110 §8.4.1.2)
                return _inflate(body, -zlib.MAX_WBITS)
    except zlib.error:
        pass
    return None


def _inflate(body: bytes, window: int) -> bytes | None:
    """Inflate all members of *body*: gzip allows several (RFC 1952 §2.2)."""
    output = b""
    for _ in range(_MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(window)
        output += member.decompress(body, MAX_DECODED_BYTES + 1 - len(output))
        if not member.eof or len(output) > MAX_DECODED_BYTES:
            return None
        body = member.unused_data
        if not body:
            return output
    return None
