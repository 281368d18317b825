"""The events of a stream, from pieces that are cut anywhere (WHATWG HTML §9.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_EVENT_BYTES: Final = 1024 * 1024
"""Bytes of one event, and of one line."""

Event = tuple[bytes, bytes]
"""Name and data of an event; a block without data is an event if it has a name."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIELD = b"data: "
_LF, _CR = b"\n\r"  # numbers: CPython takes five times as long to find bytes by `in`


class EventTooLarge(Exception):
    """An event exceeds :data:`MAX_EVENT_BYTES`."""


class EventLines:
    """Splits a stream into events.

    Lines end with LF, CRLF or CR. Comments and unknown fields are dropped.
    """

    __slots__ = ("_after_cr", "_data", "_is_first", "_name", "_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the present line
        self._size = 0  # of the pieces and the data
        self._name = b""
        self._data: list[bytes] = []
        self._after_cr = False  # the last byte was a CR, whose LF may follow
        self._is_first = True

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that end in *data*.

        :raises EventTooLarge: if an event does not end.
        """
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if _CR in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, begun = data.split(b"\n\n")
        in_event = self._is_first or bool(self._size or self._name)
        for block in blocks:
            # Nearly always an event of one line, without a name.
            if (
                block.startswith(_FIELD)
                and _LF not in block
                and not in_event
                and len(block) <= MAX_EVENT_BYTES
            ):
                yield b"", block[len(_FIELD) :]
            else:
                yield from self._feed_lines(block + b"\n\n")
                in_event = False
        if begun:
            yield from self._feed_lines(begun)

    def _feed_lines(self, data: bytes) -> Iterator[Event]:
        first, *others = data.split(b"\n")
        self._append(first)
        for line in others:
            event = self._end_line()
            if event is not None:
                yield event
            self._append(line)

    def _append(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > MAX_EVENT_BYTES:
                raise EventTooLarge

    def _end_line(self) -> Event | None:
        """Take the present line; return the event that it ends."""
        line = b"".join(self._pieces)
        self._pieces = []
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            return self._take_event()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        else:
            self._size -= len(line)
            if field == b"event":
                self._name = value[:100]
        return None

    def _take_event(self) -> Event | None:
        name, data = self._name, self._data
        self._name, self._data, self._size = b"", [], 0
        return (name, b"\n".join(data)) if data or name else None

    def end(self) -> Event | None:
        """Return the event that the end of the stream cuts; ``None`` if there is none."""
        if self._pieces:
            self._end_line()
        return self._take_event()
