"""Reads the usage of a response while it passes, in any pieces and any content coding.

The scanner keeps less than twice :data:`~.usage.TAIL_BYTES` of a response of any length, and up to
:data:`READ_TOGETHER_BYTES` that it has not read yet.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

from goproxyai.messages.headers import Fields
from goproxyai.usage.usage import (
    MAX_MODEL_CHARACTERS,
    TAIL_BYTES,
    Usage,
    find_model,
    find_usage,
    read_usage,
)

MAX_INFLATED_BYTES: Final = 16 * 1024 * 1024
"""A compressed response that is longer has no usage."""

READ_TOGETHER_BYTES: Final = 4 * 1024
"""Short pieces that are read together, with their overhead. Reading each frame of a stream by
itself took 4 % of its instructions (``python -m bench.instructions frame``)."""

_PIECE_OVERHEAD_BYTES = 60
_OVERLAP_BYTES = MAX_MODEL_CHARACTERS + 24  # `"model": "..."` that is split between two pieces
_MAX_PIECES = 256
_MAX_MEMBERS = 256
_INFLATE_STEP_BYTES = 64 * 1024
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


def usage_of(fields: Fields, body: bytes) -> Usage | None:
    """Return the usage of a complete response, ``None`` if it has none.

    :param fields: of the response.
    :param body: as received.
    """
    if b"content-encoding" in fields:
        scanner = UsageScanner(fields)
        scanner.add(body)
        return scanner.usage()
    return read_usage(body)


class UsageScanner:
    """Searches one response, piece by piece.

    :param fields: of the response.
    """

    __slots__ = (
        "_gave_up", "_inflated", "_inflater", "_members", "_model", "_overlap", "_pieces", "_size",
        "_unread", "_unread_bytes",
    )  # fmt: skip

    def __init__(self, fields: Fields) -> None:
        self._unread: list[bytes] = []
        self._unread_bytes = 0  # and the overhead of each piece
        self._pieces: list[bytes] = []
        self._size = 0  # of the pieces
        self._model = ""
        self._overlap = b""
        self._inflated = self._members = 0
        coding = fields.get(b"content-encoding", b"").strip().lower()
        self._inflater: Any = None
        self._gave_up = False
        if coding in (b"gzip", b"x-gzip", b"deflate"):
            self._inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
        elif coding not in (b"", b"identity"):
            self._gave_up = True

    @property
    def model(self) -> str:
        """The model as the pieces so far name it, else empty."""
        self._read()
        return self._model

    def add(self, data: bytes) -> None:
        """Take the next piece of the response."""
        self._unread.append(data)
        self._unread_bytes += len(data) + _PIECE_OVERHEAD_BYTES
        if self._unread_bytes >= READ_TOGETHER_BYTES:
            self._read()

    def _read(self) -> None:
        """Search the pieces that are not read yet."""
        data = b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        if self._gave_up:
            return
        if self._inflater is None:
            self._add_plain(data)
        else:
            self._inflate(data)

    def _inflate(self, data: bytes) -> None:
        """Inflate *data* in steps, and search each."""
        more = True
        try:
            while data or more:
                if self._inflater.eof:  # another member (RFC 1952 §2.2) or padding may follow
                    data = data.lstrip(b"\0")
                    if not data:
                        return
                    self._members += 1
                    self._inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
                inflater = self._inflater
                piece = inflater.decompress(data, _INFLATE_STEP_BYTES)
                self._inflated += len(piece)
                if self._inflated > MAX_INFLATED_BYTES or self._members > _MAX_MEMBERS:
                    self._give_up()
                    return
                self._add_plain(piece)
                more = len(piece) == _INFLATE_STEP_BYTES and not inflater.eof
                data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        except zlib.error:
            self._give_up()

    def _give_up(self) -> None:
        self._gave_up = True
        self._pieces.clear()
        self._overlap = b""

    def _add_plain(self, data: bytes) -> None:
        if not self._model:
            self._search_model(data)
        if not data:
            return
        pieces = self._pieces
        pieces.append(data)
        self._size += len(data)
        if self._size >= 2 * TAIL_BYTES or len(pieces) > _MAX_PIECES:
            tail = b"".join(pieces)[-TAIL_BYTES:]
            self._pieces = [tail]
            self._size = len(tail)

    def _search_model(self, data: bytes) -> None:
        text = self._overlap + data
        self._model = find_model(text)
        self._overlap = b"" if self._model else text[-_OVERLAP_BYTES:]

    def usage(self) -> Usage | None:
        """Return the usage in the pieces so far, ``None`` if there is none."""
        self._read()
        return None if self._gave_up else find_usage(b"".join(self._pieces), self._model)
