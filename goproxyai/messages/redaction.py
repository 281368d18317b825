"""What of a request or a message may be written down.

1. Of a target, the path and the names of the query's parameters; never their values.
2. Of any text, everything but credentials: the userinfo of a URL, what follows ``Bearer`` or
   ``Basic``, and what looks like one of OpenAI's keys.

Rather too much is hidden than too little.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_LOGGED_PATH_CHARACTERS = 512
"""Characters of a target that are written down."""

_CUT = "..."
_UNPRINTABLE = re.compile(rb"[^\x21-\x7e]")
_USERINFO = re.compile(r'://[^\s/?#"<>]*@')
_CREDENTIALS = re.compile(r"""\b(?:(bearer|basic)\s+)+[^\s"']+""", re.IGNORECASE)
_KEY = re.compile(r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2}))((?:sk|sess)-|ek_)[A-Za-z0-9_-]{4,}")


@lru_cache(maxsize=512)
def redacted_target(target: bytes) -> str:
    """The path of *target* and the names in its query: ``/v1/files?limit&after``.

    :param target: as it came in the request line, in whatever form.
    :returns: visible ASCII, at most :data:`MAX_LOGGED_PATH_CHARACTERS` characters.
    """
    if not target.startswith(b"/"):
        target = _without_authority(target)
    path, mark, query = target.partition(b"#")[0].partition(b"?")
    if mark:
        path += b"?" + b"&".join(pair.partition(b"=")[0] for pair in query.split(b"&"))
    text = _UNPRINTABLE.sub(_percent_encoded, path).decode("ascii")
    text = mask_credentials(text)
    if len(text) > MAX_LOGGED_PATH_CHARACTERS:
        text = text[: MAX_LOGGED_PATH_CHARACTERS - len(_CUT)] + _CUT
    return text


def _without_authority(target: bytes) -> bytes:
    if target == b"*":
        return target
    rest = target.partition(b"://")[2] or target
    slash = rest.find(b"/")
    return rest[slash:] if slash >= 0 else b""


def _percent_encoded(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match.group()[0]


def mask_credentials(text: str) -> str:
    """*text* with ``***`` where credentials stood."""
    # Searching for a word is much faster than searching for a pattern, and mostly in vain.
    if "@" in text:
        text = _USERINFO.sub("://***:***@", text)
    lowered = text.lower()
    if "bearer" in lowered or "basic" in lowered:
        text = _CREDENTIALS.sub(r"\1 ***", text)
    if "sk-" in text or "sess-" in text or "ek_" in text:
        text = _KEY.sub(r"\1***", text)
    return text
