"""How long the response to a GET may be served: not at all if it changes by itself.

The cache notices changes by the writes of the same credential, see :mod:`.writes`. It does not
notice the progress of upstream's own work. These responses to GETs are therefore not stored:

==================================================== ==========================================
response                                             example
==================================================== ==========================================
JSON with a string ``status`` outside                a run, a batch, a vector store, a list with
:data:`TERMINAL_STATUSES`, at any depth              one of them
JSON with an object as ``status``, at any depth      a ChatKit thread
JSON list at another path than a collection's own,   events, items, messages, checkpoints
``/v1/<collection>``; a list within another object
anything under ``/v1/organization``                  usage, costs, audit logs
an event stream without a terminal event             the events of a response in progress
JSON with an unknown or invalid content coding
JSON over 1 MB with ``status`` or a list
==================================================== ==========================================

A body without a media type is judged if it begins as JSON does.

A list is an object with ``"object":"list"``, or with ``data`` and ``has_more``.

JSON is searched, not parsed: a quotation mark within a string is escaped, so ``"status"`` followed
by a colon is always a name. The search takes no memory and cannot be nested too deep. A name or
value with escaped letters, and UTF-16, count as changing.

A stored response is served for the lesser of the TTL and the lifetime that its own header allows,
as for a shared cache (RFC 9111 §4.2.1).
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Final

from goproxyai.cache.directives import delta_seconds, parse_cache_control
from goproxyai.cache.writes import has_escaped_letters
from goproxyai.messages.decoding import MAX_DECODED_BYTES, decode_body
from goproxyai.messages.headers import Fields
from goproxyai.messages.media_types import begins_as_json, is_json, media_type

TERMINAL_STATUSES: Final = (
    "completed", "failed", "cancelled", "canceled", "expired", "incomplete", "succeeded",
    "processed", "error", "deleted", "archived", "paused", "skipped", "pass", "fail",
)  # fmt: skip
"""Values of ``status`` that do not change without a request; any other value may.

``active`` and ``ready`` are not terminal: a container or a ChatKit session expires.
"""

_FORBIDS_STORING = frozenset((b"no-cache", b"private", b"no-store"))
_ORGANIZATION = b"/v1/organization"
_WHITESPACE = rb"[ \t\r\n]*"
_NAME_END = _WHITESPACE + b":" + _WHITESPACE
_CHANGING_STATUS = re.compile(
    b'"status"'
    + _NAME_END
    + rb"(?:\{|\Z|\"(?!(?:"
    + "|".join(TERMINAL_STATUSES).encode()
    + rb")\"))"
)
_LIST_TYPE = re.compile(b'"object"' + _NAME_END + b'"list"')
_HAS_MORE = re.compile(b'"has_more"' + _NAME_END)
_LIST_DATA = re.compile(b'"data"' + _NAME_END + rb"\[")


def changes_by_itself(path: bytes, fields: Fields, body: bytes) -> bool:
    """Whether the response to a GET may change without a write.

    :param path: of the request, without the query.
    :param fields: of the response.
    :param body: the whole body, as received. The end of an event stream is not judged here, see
        :mod:`.verdict`.
    """
    if path == _ORGANIZATION or path.startswith(_ORGANIZATION + b"/"):
        return True
    declared = is_json(fields) or media_type(fields) == b"text/json"
    if not declared and media_type(fields):
        return False
    coding = fields.get(b"content-encoding")
    if coding is not None:
        plain = decode_body(coding, body)
        if plain is None:
            return True
        body = plain
    if not declared and not begins_as_json(body):
        return False
    if b"\0" in body or has_escaped_letters(body):
        return True
    lists = b'"list"' in body or b'"has_more"' in body
    if b'"status"' not in body and not lists:
        return False
    if len(body) > MAX_DECODED_BYTES or _CHANGING_STATUS.search(body) is not None:
        return True
    return lists and _number_of_lists(body) > (1 if is_collection(path) else 0)


def is_collection(path: bytes) -> bool:
    """Whether *path* is that of a collection, ``/v1/<collection>``.

    :param path: without the query.
    """
    return path.startswith(b"/v1/") and b"/" not in path[4:].rstrip(b"/")


def _number_of_lists(body: bytes) -> int:
    """Return how many lists JSON contains, nested ones included; 2 stands for any more."""
    found = len(list(islice(_LIST_TYPE.finditer(body), 2)))
    if _LIST_DATA.search(body) is not None:
        found = max(found, len(list(islice(_HAS_MORE.finditer(body), 2))))
    return found


def allowed_lifetime(fields: Fields, unix_now: float) -> float | None:
    """Return the seconds for which a GET's response may be served, by its own header.

    ``s-maxage`` precedes ``max-age``, which precedes ``Expires``. The smallest of several values
    counts. An invalid value allows no time.

    :param fields: of the response.
    :param unix_now: for a response without ``Date``.
    :returns: ``None`` if the header sets no limit.
    """
    lifetime: float | None = None
    control = fields.get(b"cache-control")
    if control is not None:
        found = parse_cache_control(control)
        if any(name in _FORBIDS_STORING for name, _ in found):
            return 0.0
        for directive in (b"s-maxage", b"max-age"):
            ages = [delta_seconds(value) for name, value in found if name == directive]
            if ages:
                lifetime = float(min(ages))
                break
    if lifetime is None:
        expires = fields.get(b"expires")
        if expires is None:
            return None
        lifetime = _seconds_until(expires, fields.get(b"date"), unix_now)
    return max(0.0, lifetime - age_seconds(fields))


def age_seconds(fields: Fields) -> int:
    """Return the ``Age`` of a response; 0 if it is missing or invalid (RFC 9111 §5.1)."""
    return delta_seconds(fields.get(b"age", b"").strip())


def _seconds_until(expires: bytes, date: bytes | None, unix_now: float) -> float:
    until = _unix_seconds(expires)
    since = unix_now if date is None else _unix_seconds(date)
    return 0.0 if until is None or since is None else until - since


def _unix_seconds(date: bytes) -> float | None:
    """Parse an HTTP date (RFC 9110 §5.6.7)."""
    try:
        return parsedate_to_datetime(date.decode("ascii")).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
