"""Decoding of ``Content-Encoding``, to inspect a body; relayed bodies are never decoded."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import brotli
import zstandard

MAX_DECODED_BYTES: Final = 1024 * 1024
"""Of one body, unless the caller says otherwise."""

STEP_BYTES: Final = 64 * 1024
"""Of one decoded piece."""

_MAX_MEMBERS = 16
"""Members of a gzip body (RFC 1952 §2.2), and frames of a zstd body (RFC 8878 §3)."""

_MAX_WINDOW_BYTES = 8 * 1024 * 1024
"""Memory of a zstd decoder, as RFC 9659 §3 limits it."""


_ZSTD_INPUT_BYTES = 64
"""Bytes of a zstd frame that are decoded at a time: a block of 128 KiB may take 4 of them."""


class DecodingFailed(Exception):
    """The coding is unknown, or the body is invalid, incomplete or too long."""


def decode_body(coding: bytes, body: bytes, limit: int = MAX_DECODED_BYTES) -> bytes | None:
    """Return the decoded body, ``None`` if :func:`decoded_pieces` fails."""
    try:
        return b"".join(decoded_pieces(coding, body, limit))
    except DecodingFailed:
        return None


def decoded_pieces(coding: bytes, body: bytes, limit: int) -> Iterator[bytes]:
    """Yield the decoded body in pieces, of at most :data:`STEP_BYTES` but for zstd.

    :param coding: the value of ``Content-Encoding``: one of ``gzip``, ``deflate``, ``br`` and
        ``zstd``, or none.
    :param limit: of the decoded bytes.
    :raises DecodingFailed: also after some pieces.
    """
    coding = coding.strip().lower()
    if coding in (b"", b"identity"):
        yield body
        return
    decode = _DECODERS.get(coding)
    if decode is None:
        raise DecodingFailed
    size = 0
    try:
        for piece in decode(body):
            size += len(piece)
            if size > limit:
                raise DecodingFailed
            yield piece
    except (zlib.error, brotli.error, zstandard.ZstdError) as error:
        raise DecodingFailed from error


def _gzip(body: bytes) -> Iterator[bytes]:
    """Inflate all members of *body*."""
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        yield from _inflate(member, body)
        body = member.unused_data
        if not body:
            return
    raise DecodingFailed


def _deflate(body: bytes) -> Iterator[bytes]:
    try:
        zlib.decompressobj(zlib.MAX_WBITS).decompress(body, 1)
    except zlib.error:  # some senders omit the zlib header (RFC 9110 §8.4.1.2)
        yield from _inflate(zlib.decompressobj(-zlib.MAX_WBITS), body)
    else:
        yield from _inflate(zlib.decompressobj(zlib.MAX_WBITS), body)


def _inflate(member: Any, body: bytes) -> Iterator[bytes]:
    while not member.eof:
        piece = member.decompress(body, STEP_BYTES)
        body = member.unconsumed_tail
        if not piece and not body and not member.eof:
            raise DecodingFailed
        yield piece


def _brotli(body: bytes) -> Iterator[bytes]:
    decoder = brotli.Decompressor()
    while not decoder.is_finished():
        piece = decoder.process(body, output_buffer_limit=STEP_BYTES)
        body = b""
        if not piece and not decoder.is_finished() and decoder.can_accept_more_data():
            raise DecodingFailed
        yield piece


def _zstd(body: bytes) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    for _ in range(_MAX_MEMBERS):
        frame = decoder.decompressobj()
        at = 0
        while not frame.eof:
            if at >= len(body):
                raise DecodingFailed
            yield frame.decompress(body[at : at + _ZSTD_INPUT_BYTES])
            at += _ZSTD_INPUT_BYTES
        body = frame.unused_data + body[at:]
        if not body:
            return
    raise DecodingFailed


_DECODERS: Final[dict[bytes, Callable[[bytes], Iterator[bytes]]]] = {
    b"gzip": _gzip,
    b"x-gzip": _gzip,
    b"deflate": _deflate,
    b"br": _brotli,
    b"zstd": _zstd,
}
