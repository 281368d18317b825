"""Whether an event stream is complete (``text/event-stream``, WHATWG HTML §9.2).

==================================================== ========================================
the last event is                                    the stream is
==================================================== ========================================
``data: [DONE]`` or ``response.completed``           complete, even if the connection broke
an error: ``event: error``, data with an ``error``   failed, never stored
member, or of type ``error`` or ``response.failed``
another event and its blank line                     complete if the body's framing ended it
an event without its blank line                      failed: truncated
an event with an unreadable JSON object              failed
missing                                              complete if the body's framing ended it
==================================================== ========================================

The event before ``[DONE]`` counts too: some upstreams send an error there. A block without ``data``
is not an event, unless its name is that of an error. The time is linear in the length.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, Final

from goproxyai.messages.decoding import decode_body
from goproxyai.messages.headers import Fields

MAX_TAIL_BYTES: Final = 256 * 1024
"""Bytes at the end of a stream that are parsed; a stream with a longer last event is failed."""

MAX_SEARCHED_BLOCKS: Final = 1_000
"""Blocks at the end of a stream that are searched for an event; most blocks are comments."""

_JSON_TYPE = b"application/json"
_DONE = b"[DONE]"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ERROR_TYPES = frozenset(("error", "response.failed"))


class StreamEnd(Enum):
    """How a stream ended."""

    COMPLETE = "the last event marks the end"
    UNMARKED = "complete if the framing of the body says so"
    FAILED = "ended in an error or within an event, or is unreadable"


def is_event_stream(fields: Fields) -> bool:
    """Whether a response has the media type ``text/event-stream``."""
    media_type = fields.get(b"content-type")
    if media_type is None or media_type == _JSON_TYPE:
        return False
    return media_type.partition(b";")[0].strip().lower() == b"text/event-stream"


def stream_end(fields: Fields, body: bytes) -> StreamEnd:
    """Return how the stream in *body* ended.

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
        body = body.removeprefix(_BYTE_ORDER_MARK)
    tail = body[-MAX_TAIL_BYTES:].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    end = tail.rfind(b"\n\n")
    rest = tail[end + 2 :] if end >= 0 else tail
    events = _last_two_events(tail, max(end, 0))
    if events is None:
        return StreamEnd.FAILED
    if any(line and not line.startswith(b":") for line in rest.split(b"\n")):
        last = _Event(rest)
        if last.data.strip() != _DONE:
            return StreamEnd.FAILED
        events = [*events[-1:], last]
    return _end_of(events, whole)


class _Event:
    """An event.

    :ivar document: the data if it is a JSON object, else empty.
    :ivar is_readable: ``False`` if the data begins like a JSON object and is not JSON.
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
        self.is_event = bool(data) or self.name in _ERROR_TYPES
        self.document: dict[str, Any] = {}
        self.is_readable = True
        if self.data.lstrip().startswith(b"{"):
            self._parse()

    def _parse(self) -> None:
        try:
            document = json.loads(self.data)
        except (ValueError, RecursionError):
            self.is_readable = False
        else:
            if isinstance(document, dict):
                self.document = document

    @property
    def type(self) -> str:
        """The ``type`` of the object, else the name of the event."""
        found = self.document.get("type")
        return found if isinstance(found, str) else self.name

    @property
    def is_error(self) -> bool:
        """Whether the event reports an error."""
        failed = self.name in _ERROR_TYPES or self.type in _ERROR_TYPES
        return failed or bool(self.document.get("error"))


def _last_two_events(tail: bytes, end: int) -> list[_Event] | None:
    """Return the last two events before *end*; ``None`` if too many blocks had to be searched."""
    found: list[_Event] = []
    for _ in range(MAX_SEARCHED_BLOCKS):
        start = tail.rfind(b"\n\n", 0, end)
        event = _Event(tail[start + 2 if start >= 0 else 0 : end])
        if event.is_event:
            found.insert(0, event)
        end = start
        if end <= 0 or len(found) == 2:
            return found
    return None


def _end_of(events: list[_Event], whole: bool) -> StreamEnd:
    """Return the end of a stream by its last two events.

    :param whole: whether the tail is the whole stream, so that there are no earlier events.
    """
    if not events or (len(events) == 1 and not whole):
        return StreamEnd.UNMARKED if whole else StreamEnd.FAILED
    last = events[-1]
    if last.is_error or not last.is_readable:
        return StreamEnd.FAILED
    if last.data.strip() == _DONE:
        return StreamEnd.FAILED if events[0].is_error else StreamEnd.COMPLETE
    completed = "response.completed" in (last.type, last.name)
    return StreamEnd.COMPLETE if completed else StreamEnd.UNMARKED
