"""Did a stream of events end well? (``text/event-stream``, WHATWG HTML §9.2.)

========================================= ======================================
its last event                            it is
========================================= ======================================
``data: [DONE]``, ``response.completed``  whole, however the connection ended
an error: ``event: error``, a data object broken: never stored
with an ``error``, or whose ``type`` is
``error`` or ``response.failed``
any other, with its blank line            whole where the body's framing ended it
one without its blank line                cut
one whose object cannot be read           broken
none                                      as any other
========================================= ======================================

Before ``[DONE]`` the event before it counts too: some send their error there. What has no ``data``
is no event, unless its name says that it is an error. All of it takes linear time.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, Final

from goproxyai.messages.decoding import decode_body
from goproxyai.messages.headers import Fields

MAX_TAIL_BYTES: Final = 256 * 1024
"""Bytes at the end of a stream that are read; one whose last event is longer is not judged."""

MAX_SEARCHED_BLOCKS: Final = 1_000
"""At the end of a stream that are read in search of an event: comments, and what says nothing."""

_USUAL = b"application/json"
_DONE = b"[DONE]"
_BOM = b"\xef\xbb\xbf"
_FAILED = frozenset(("error", "response.failed"))


class StreamEnd(Enum):
    """How a stream ended."""

    COMPLETE = "it says that it is whole"
    UNMARKED = "it is whole if its framing says so"
    FAILED = "it ended in an error, or in the middle of an event, or cannot be read"


def is_event_stream(fields: Fields) -> bool:
    """Whether a response is a stream of events."""
    kind = fields.get(b"content-type")
    if kind is None or kind == _USUAL:
        return False
    return kind.partition(b";")[0].strip().lower() == b"text/event-stream"


def stream_end(fields: Fields, body: bytes) -> StreamEnd:
    """How the stream in *body* ended.

    :param fields: of the response.
    :param body: as received.
    """
    coding = fields.get(b"content-encoding")
    if coding is not None:
        plain = decode_body(coding, body)
        if plain is None:
            return StreamEnd.FAILED
        body = plain
    whole = len(body) <= MAX_TAIL_BYTES
    if whole:
        body = body.removeprefix(_BOM)
    tail = body[-MAX_TAIL_BYTES:].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    end = tail.rfind(b"\n\n")
    rest = tail[end + 2 :] if end >= 0 else tail
    events = _last_two(tail, max(end, 0))
    if events is None:
        return StreamEnd.FAILED
    if any(line and not line.startswith(b":") for line in rest.split(b"\n")):
        last = _Event(rest)
        if last.data.strip() != _DONE:
            return StreamEnd.FAILED
        events = [*events[-1:], last]
    return _judged(events, whole)


class _Event:
    """One of them.

    :ivar document: what is in its data, where that is an object.
    :ivar readable: whether its data is what it seems to be.
    """

    def __init__(self, block: bytes) -> None:
        name, data = b"", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                name = value
            elif field == b"data":
                data.append(value)
        self.name = name.decode("latin-1")
        self.data = b"\n".join(data)
        self.says_something = bool(data) or self.name in _FAILED
        self.document: dict[str, Any] = {}
        self.readable = True
        if self.data.lstrip().startswith(b"{"):
            self._read()

    def _read(self) -> None:
        try:
            document = json.loads(self.data)
        except (ValueError, RecursionError):
            self.readable = False
        else:
            if isinstance(document, dict):
                self.document = document

    @property
    def kind(self) -> str:
        """What it says that it is."""
        kind = self.document.get("type")
        return kind if isinstance(kind, str) else self.name

    @property
    def is_error(self) -> bool:
        """Whether it tells of one."""
        failed = self.name in _FAILED or self.kind in _FAILED
        return failed or bool(self.document.get("error"))


def _last_two(tail: bytes, end: int) -> list[_Event] | None:
    """Of the events before *end*, the last two; ``None`` where they are hard to find."""
    found: list[_Event] = []
    for _ in range(MAX_SEARCHED_BLOCKS):
        start = tail.rfind(b"\n\n", 0, end)
        event = _Event(tail[start + 2 if start >= 0 else 0 : end])
        if event.says_something:
            found.insert(0, event)
        end = start
        if end <= 0 or len(found) == 2:
            return found
    return None


def _judged(events: list[_Event], whole: bool) -> StreamEnd:
    """By the last two events; *whole*: there are no others before."""
    if not events or (len(events) == 1 and not whole):
        return StreamEnd.UNMARKED if whole else StreamEnd.FAILED
    last = events[-1]
    if last.is_error or not last.readable:
        return StreamEnd.FAILED
    if last.data.strip() == _DONE:
        return StreamEnd.FAILED if events[0].is_error else StreamEnd.COMPLETE
    completed = "response.completed" in (last.kind, last.name)
    return StreamEnd.COMPLETE if completed else StreamEnd.UNMARKED
