"""Media types of responses."""

from __future__ import annotations

import codecs
from typing import Final

from goproxyai.messages.headers import Fields

_JSON_TYPE = b"application/json"
_SNIFFED_BYTES: Final = 64
_BEFORE_JSON: Final = codecs.BOM_UTF8 + b" \t\r\n"


def media_type(fields: Fields) -> bytes:
    """Return the media type without parameters, lower-cased; empty if there is none."""
    return fields.get(b"content-type", b"").partition(b";")[0].strip().lower()


def is_json(fields: Fields) -> bool:
    """Whether the media type is JSON (RFC 6839 §3.1 for the suffix)."""
    name = media_type(fields)
    return name == _JSON_TYPE or name.endswith(b"+json")


def begins_as_json(body: bytes) -> bool:
    """Whether a body that is not declared as JSON may be a JSON object or array."""
    return body[:_SNIFFED_BYTES].lstrip(_BEFORE_JSON)[:1] in (b"{", b"[")


def is_event_stream(fields: Fields) -> bool:
    """Whether a response has the media type ``text/event-stream``."""
    if fields.get(b"content-type") == _JSON_TYPE:
        return False  # most responses
    return media_type(fields) == b"text/event-stream"
