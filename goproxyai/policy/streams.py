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
none, comments apart                      as any other
========================================= ======================================

Before ``[DONE]`` the event before it counts too: some send their error there.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, Final

from goproxyai.policy.decoding import decoded
from goproxyai.policy.headers import Fields

LONGEST_EVENT: Final = 1024 * 1024
"""Bytes of an event that is read; a stream whose last one is longer is not known to be whole."""

_DONE = b"[DONE]"
_FAILED = frozenset(("error", "response.failed"))


class Ending(Enum):
    """How a stream ended."""

    DONE = "it says that it is whole"
    OPEN = "it is whole if its framing says so"
    BROKEN = "it ended in an error, or in the middle of an event, or cannot be read"


def is_stream(fields: Fields) -> bool:
    """Whether a response is a stream of events."""
    kind = fields.get(b"content-type")
    return kind is not None and kind.partition(b";")[0].strip().lower() == b"text/event-stream"


def ending(fields: Fields, body: bytes) -> Ending:
    """How the stream in *body* ended.

    :param fields: of the response.
    :param body: as received.
    """
    coding = fields.get(b"content-encoding")
    if coding is not None:
        plain = decoded(coding, body)
        if plain is None:
            return Ending.BROKEN
        body = plain
    tail = body[-LONGEST_EVENT:].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    end = tail.rfind(b"\n\n")
    rest = tail[end + 2 :] if end >= 0 else tail
    events = _last_two(tail[: max(end, 0)])
    if _says_something(rest):
        if _read(rest)[1].strip() != _DONE:
            return Ending.BROKEN
        events = [*events[-1:], rest]
    return _judged(events, whole=len(body) <= LONGEST_EVENT)


def _last_two(events: bytes) -> list[bytes]:
    """Of *events*, without the blank line behind the last, the last two that say something."""
    found: list[bytes] = []
    while events and len(found) < 2:
        events, _, event = events.rpartition(b"\n\n")
        if _says_something(event):
            found.insert(0, event)
    return found


def _says_something(event: bytes) -> bool:
    return any(line and not line.startswith(b":") for line in event.split(b"\n"))


def _judged(events: list[bytes], whole: bool) -> Ending:
    if not events:
        return Ending.OPEN if whole else Ending.BROKEN
    name, data = _read(events[-1])
    if data.strip() == _DONE:
        return Ending.BROKEN if len(events) > 1 and _is_error(*_read(events[0])) else Ending.DONE
    if _is_error(name, data):
        return Ending.BROKEN
    if len(events) == 1 and not whole:
        return Ending.BROKEN  # its beginning is out of sight
    if name == b"response.completed" or _kind(data) == "response.completed":
        return Ending.DONE
    return Ending.OPEN


def _read(event: bytes) -> tuple[bytes, bytes]:
    """The name and the data of an event."""
    name, data = b"", []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value
        elif field == b"data":
            data.append(value)
    return name, b"\n".join(data)


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _kind(data: bytes) -> object:
    return _document(data).get("type")


def _is_error(name: bytes, data: bytes) -> bool:
    if name.decode("latin-1") in _FAILED:
        return True
    document = _document(data)
    kind = document.get("type")
    return bool(document.get("error")) or (isinstance(kind, str) and kind in _FAILED)
