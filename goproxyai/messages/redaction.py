"""What may be written to logs and spans.

1. Of a request target: the path and the names of the query parameters, without their values. Of a
   path, nothing after ``=`` or ``%3D``, because of ``;api-key=…`` and ``%3Fapi-key=…``.
2. Of any other text: everything except credentials. Credentials are the userinfo of a URL, the text
   after ``Bearer`` or ``Basic``, the value of a name that ends in ``api-key``, and strings in the
   format of keys of OpenAI and Google, percent-encoded or not.

If in doubt, text is masked.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote

MAX_LOGGED_PATH_CHARACTERS = 512

MAX_KEPT_TARGET_BYTES = 1024
"""Size of a target whose redacted form is kept for the next request."""

_ELLIPSIS = "..."
_UNPRINTABLE = re.compile(rb"[^\x21-\x7e]")
_USERINFO = re.compile(r'://[^\s/?#"<>]*@')
_AUTHORIZATION = re.compile(r"""\b(?:(bearer|basic)\s+)+[^\s"']+""", re.IGNORECASE)
_KEY = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2}))"
    r"((?:sk|sess)(?:-|%(?:25)*2[Dd])|ek(?:_|%(?:25)*5[Ff])|AIza(?=[A-Za-z0-9_-]{30}))"
    r"(?:[A-Za-z0-9_-]|%(?:25)*(?:2[Dd]|5[Ff]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa])){4,}"
)
_NAMED_KEY = re.compile(
    r"""(api(?:[_-]|%(?:25)*(?:2d|5f))?key["']?\s*(?:[=:]|%(?:25)*3[ad])\s*["']?)[^\s"'&;,?]+""",
    re.IGNORECASE,
)
_VALUE = re.compile(rb"(=|%(?:25)*3d).*", re.IGNORECASE | re.DOTALL)
_PART = re.compile(r"[^/?&;]*%[^/?&;]*")  # with an escape, between delimiters
_ESCAPE = re.compile(rb"%(?:25)*([0-9A-Fa-f]{2})")


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
    path = _VALUE.sub(rb"\1***", path)
    if mark:
        path += b"?" + b"&".join(_VALUE.sub(b"", pair) for pair in query.split(b"&"))
    text = _UNPRINTABLE.sub(_percent_encoded, path).decode("ascii")
    if "%" in text:
        text = _PART.sub(_masked_if_encoded, text)
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


def _masked_if_encoded(match: re.Match[str]) -> str:
    """Return a part of a target, decoded and masked if its escapes hide a credential."""
    part = match.group()
    plain = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), part.encode("ascii"))
    decoded = plain.decode("latin-1")
    masked = mask_credentials(decoded)
    return part if masked == decoded else quote(masked, safe="*", encoding="latin-1")


def mask_credentials(text: str) -> str:
    """Return *text* with ``***`` in place of credentials."""
    # Each substring test avoids a search by regular expression, which takes several times as long.
    if "@" in text:
        text = _USERINFO.sub("://***:***@", text)
    lowered = text.lower()
    if "bearer" in lowered or "basic" in lowered:
        text = _AUTHORIZATION.sub(r"\1 ***", text)
    if "sk-" in text or "sess-" in text or "ek_" in text or "AIza" in text or "%" in text:
        text = _KEY.sub(r"\1***", text)
    if "key" in lowered and "api" in lowered:
        text = _NAMED_KEY.sub(r"\1***", text)
    return text
