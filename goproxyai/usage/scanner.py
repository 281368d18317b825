"""Reads an answer for its usage as it passes, whatever pieces and coding it comes in.

What is held of it is less than twice :data:`TAIL` bytes, however long it is, and no byte waits.
"""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any, Final

from goproxyai.messages.headers import Fields
from goproxyai.usage.usage import (
    LONGEST_MODEL,
    TAIL,
    Usage,
    model_in,
    plain_usage,
    tokens_in,
)

MOST_INFLATED: Final = 16 * 1024 * 1024
"""Bytes of a compressed answer that are read in search of it."""

_CARRIED = LONGEST_MODEL + 24
_MOST_PIECES = 256
_MOST_MEMBERS = 256
_INFLATED_AT_ONCE = 64 * 1024
_EITHER = zlib.MAX_WBITS | 32  # gzip or zlib, by the first bytes


def usage_of(fields: Fields, body: bytes) -> Usage | None:
    """Return the usage of a complete answer, ``None`` if it reports none.

    :param fields: of the response. :param body: as received.
    """
    if b"content-encoding" in fields:
        reader = UsageScanner(fields)
        reader.add(body)
        return reader.usage()
    return plain_usage(body)


class UsageScanner:
    """Reads an answer for its usage as it passes.

    :param fields: of the response.
    """

    __slots__ = (
        "_carried", "_inflated", "_inflater", "_members", "_model", "_pieces", "_size", "_unread",
    )  # fmt: skip

    def __init__(self, fields: Fields) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._model = ""
        self._carried = b""
        self._inflated = self._members = 0
        coding = fields.get(b"content-encoding", b"").strip().lower()
        self._inflater: Any = None
        self._unread = False
        if coding in (b"gzip", b"x-gzip", b"deflate"):
            self._inflater = zlib.decompressobj(_EITHER)
        elif coding not in (b"", b"identity"):
            self._unread = True

    def add(self, data: bytes) -> None:
        """More of the answer."""
        if self._unread:
            return
        if self._inflater is None:
            self._take(data)
        else:
            self._inflate(data)

    def _inflate(self, data: bytes) -> None:
        """Read what *data* is the compressed form of, in pieces."""
        more = True
        try:
            while data or more:
                if self._inflater.eof:  # there may be another member (RFC 1952 §2.2), and padding
                    data = data.lstrip(b"\0")
                    if not data:
                        return
                    self._members += 1
                    self._inflater = zlib.decompressobj(_EITHER)
                inflater = self._inflater
                piece = inflater.decompress(data, _INFLATED_AT_ONCE)
                self._inflated += len(piece)
                if self._inflated > MOST_INFLATED or self._members > _MOST_MEMBERS:
                    self._give_up()
                    return
                self._take(piece)
                more = len(piece) == _INFLATED_AT_ONCE and not inflater.eof
                data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        except zlib.error:
            self._give_up()

    def _give_up(self) -> None:
        self._unread = True
        self._pieces.clear()
        self._carried = b""

    def _take(self, data: bytes) -> None:
        if not self._model:
            self._look_for_model(data)
        if not data:
            return
        pieces = self._pieces
        if len(data) > TAIL:
            data = data[-TAIL:]
        pieces.append(data)
        self._size += len(data)
        while self._size - len(pieces[0]) >= TAIL:
            self._size -= len(pieces.popleft())
        if len(pieces) > _MOST_PIECES:
            whole = b"".join(pieces)[-TAIL:]
            pieces.clear()
            pieces.append(whole)
            self._size = len(whole)

    def _look_for_model(self, data: bytes) -> None:
        text = self._carried + data
        self._model = model_in(text)
        self._carried = b"" if self._model else text[-_CARRIED:]

    def usage(self) -> Usage | None:
        """Return the usage that the bytes so far report, ``None`` if they report none."""
        found = None if self._unread else tokens_in(b"".join(self._pieces))
        return None if found is None else Usage(self._model, *found)
