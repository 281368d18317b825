"""Media types of responses."""

from __future__ import annotations

from goproxyai.messages.headers import Fields

_JSON_TYPE = b"application/json"


def is_event_stream(fields: Fields) -> bool:
    """Whether a response has the media type ``text/event-stream``."""
    media_type = fields.get(b"content-type")
    if media_type is None or media_type == _JSON_TYPE:
        return False
    return media_type.partition(b";")[0].strip().lower() == b"text/event-stream"
