"""A coded body, read for what it says; what is relayed is never decoded."""

from __future__ import annotations

import zlib
from typing import Final

MAX_DECODED_BYTES: Final = 1024 * 1024
"""Bytes of an answer that are decoded in search of what it says."""

_MOST_MEMBERS = 16


def decode_body(coding: bytes, body: bytes) -> bytes | None:
    """The decoded body; ``None`` where it cannot be read whole within :data:`MAX_DECODED_BYTES`.

    :param coding: the value of ``Content-Encoding``.
    """
    coding = coding.strip().lower()
    if coding in (b"", b"identity"):
        return body
    try:
        if coding in (b"gzip", b"x-gzip"):
            return _inflated(body, zlib.MAX_WBITS | 16)
        if coding == b"deflate":
            try:
                return _inflated(body, zlib.MAX_WBITS)
            except zlib.error:  # some send it bare (RFC 9110 §8.4.1.2)
                return _inflated(body, -zlib.MAX_WBITS)
    except zlib.error:
        pass
    return None


def _inflated(body: bytes, window: int) -> bytes | None:
    """Inflate all members, of which gzip allows several (RFC 1952 §2.2)."""
    output = b""
    for _ in range(_MOST_MEMBERS):
        member = zlib.decompressobj(window)
        output += member.decompress(body, MAX_DECODED_BYTES + 1 - len(output))
        if not member.eof or len(output) > MAX_DECODED_BYTES:
            return None
        body = member.unused_data
        if not body:
            return output
    return None
