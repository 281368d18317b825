"""What may be written to logs and spans.

1. Of a request target: the path and the names of the query parameters, without their values.
2. Of any other text: everything except credentials. Credentials are the userinfo of a URL, the
   text after ``Bearer`` or ``Basic``, and strings in the format of OpenAI keys.

If in doubt, text is masked.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_LOGGED_PATH_CHARACTERS = 512

MAX_KEPT_TARGET_BYTES = 1024
"""Size of a target whose redacted form is kept for the next request."""

_ELLIPSIS = "..."
_UNPRINTABLE = re.compile(rb"[^\x21-\x7e]")
_USERINFO = re.compile(r'://[^\s/?#"<>]*@')
_AUTHORIZATION = re.compile(r"""\b(?:(bearer|basic)\s+)+[^\s"']+""", re.IGNORECASE)
_KEY = re.compile(r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2}))((?:sk|sess)-|ek_)[A-Za-z0-9_-]{4,}")


def redacted_target(target: bytes) -> str:
    """Return the path of *target* and the names in its query: ``/v1/files?limit&after``.

    :param target: as received in the request line, in any form.
    :returns: visible ASCII, at most :data:`MAX_LOGGED_PATH_CHARACTERS` characters.
    """
    if len(target) > MAX_KEPT_TARGET_BYTES:
        return _redacted_target(target)
    return _kept_redacted_target(target)


def _redacted_target(target: bytes) -> str:
    if not target.startswith(b"/"):
        target = _without_authority(target)
    path, mark, query = target.partition(b"#")[0].partition(b"?")
    if mark:
        path += b"?" + b"&".join(pair.partition(b"=")[0] for pair in query.split(b"&"))
    text = _UNPRINTABLE.sub(_percent_encoded, path).decode("ascii")
    text = mask_credentials(text)
    if len(text) > MAX_LOGGED_PATH_CHARACTERS:
        text = text[: MAX_LOGGED_PATH_CHARACTERS - len(_ELLIPSIS)] + _ELLIPSIS
    return text


_kept_redacted_target = lru_cache(maxsize=512)(_redacted_target)


def _without_authority(target: bytes) -> bytes:
    if target == b"*":
        return target
    rest = target.partition(b"://")[2] or target
    slash = rest.find(b"/")
    return rest[slash:] if slash >= 0 else b""


def _percent_encoded(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match.group()[0]


def mask_credentials(text: str) -> str:
    """Return *text* with ``***`` in place of credentials."""
    # Each substring test avoids a search by regular expression, which takes several times as long.
    if "@" in text:
        text = _USERINFO.sub("://***:***@", text)
    lowered = text.lower()
    if "bearer" in lowered or "basic" in lowered:
        text = _AUTHORIZATION.sub(r"\1 ***", text)
    if "sk-" in text or "sess-" in text or "ek_" in text:
        text = _KEY.sub(r"\1***", text)
    return text
