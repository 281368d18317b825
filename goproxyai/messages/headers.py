"""Which header fields stay on their hop, and what a field's list says.

1. ``Connection`` and what it names, ``Keep-Alive``, ``TE``, ``Trailer``, ``Transfer-Encoding``,
   ``Upgrade`` and every ``Proxy-*`` end here, both ways (RFC 9110 §7.6.1).
2. ``Connection`` cannot name away ``Content-Length`` or ``Host``: they frame and route the message.
3. What passes keeps its order, its case and its repeats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

Headers = list[tuple[bytes, bytes]]
"""(name, value) as received: order, case and repeats kept."""

Fields = dict[bytes, bytes]
"""Lower-cased name to value, repeated lines joined with ``, `` (RFC 9110 §5.3)."""

VIA_PSEUDONYM: Final = b"goproxyai"
"""The pseudonym that stands for us in ``Via``."""

HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
"""Fields of one hop, lower-cased; every ``proxy-*`` is one too."""

_FRAMING: Final = frozenset((b"content-length", b"host", b"keep-alive", b"close", b""))
_PLAIN_CONNECTION: Final = frozenset((b"keep-alive", b"Keep-Alive", b"close", b"Close"))
_NOTHING: Final[frozenset[bytes]] = frozenset()

_NOT_FORWARDED: Final = frozenset((b"host", b"expect", b"x-cache-ttl", b"x-cache-replay"))
_NOT_RELAYED: Final = frozenset(
    (b"x-cache", b"x-cache-timestamp", b"x-proxy", b"x-proxy-request-id")
)
_NOT_KEPT: Final = frozenset(
    (b"set-cookie", b"set-cookie2", b"content-length", b"transfer-encoding", b"age")
)
_OWN: Final = frozenset((b"openai-organization", b"openai-project", b"x-request-id"))
_OWN_PREFIX: Final = b"x-ratelimit-"

_COMMENT_PIECE = re.compile(rb"\\.|[()]|[^\\()]+|\\", re.DOTALL)


def index_fields(headers: Headers) -> tuple[Fields, bool]:
    """Index a header by lower-cased name.

    :returns: the fields, and whether any name came more than once.
    """
    fields = {name.lower(): value for name, value in headers}
    if len(fields) == len(headers):
        return fields, False
    lines: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lines.setdefault(name.lower(), []).append(value)
    return {name: b", ".join(values) for name, values in lines.items()}, True


def serialize_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header lines on the wire, without the blank line that ends them."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def nominated_fields(fields: Fields) -> frozenset[bytes]:
    """The lower-cased names that ``Connection`` binds to this hop (RFC 9110 §7.6.1).

    Connection options (``keep-alive``, ``close``), ``content-length`` and ``host`` are not names.
    """
    connection = fields.get(b"connection")
    if connection is None or connection in _PLAIN_CONNECTION:
        return _NOTHING
    return frozenset([name.strip() for name in connection.lower().split(b",")]) - _FRAMING


def request_headers_for_upstream(headers: Headers, fields: Fields) -> Headers:
    """A request's header for upstream: end-to-end, less ``Host``, ``Expect`` and what is for us."""
    return _without(headers, nominated_fields(fields) | _NOT_FORWARDED)


def response_headers_for_client(headers: Headers, fields: Fields) -> Headers:
    """A response's header for the client: end-to-end, less those that ours replace."""
    return _without(headers, nominated_fields(fields) | _NOT_RELAYED)


def is_shareable(name: bytes) -> bool:
    """Whether a response's field, if it is relayed, is given to others than who asked, too.

    Cookies are one client's, and framing and ``Age`` are said anew in each answer.

    :param name: lower-cased.
    """
    return name not in _NOT_KEPT


def has_request_id(fields: Fields) -> bool:
    """Whether a response that is relayed has a name of upstream's, ``X-Request-Id``."""
    return b"x-request-id" in fields and b"x-request-id" not in nominated_fields(fields)


def identifies_credential(name: bytes) -> bool:
    """Whether a response's field speaks of the credential that asked.

    :param name: lower-cased.
    """
    return name in _OWN or name.startswith(_OWN_PREFIX)


def is_never_relayed(name: bytes) -> bool:
    """Whether a response's field is never relayed, whatever ``Connection`` says.

    :param name: lower-cased.
    """
    return _is_dropped(name, _NOT_RELAYED)


def _without(headers: Headers, drop: frozenset[bytes]) -> Headers:
    return [pair for pair in headers if not _is_dropped(pair[0].lower(), drop)]


def _is_dropped(name: bytes, drop: frozenset[bytes]) -> bool:
    return name in drop or name in HOP_BY_HOP or name.startswith(b"proxy-")


def is_list_member(value: bytes, token: bytes) -> bool:
    """Whether a comma-separated list holds a token, whatever its case (RFC 9110 §5.6.1).

    :param token: lower-cased.
    """
    value = value.lower()
    if token not in value:
        return False
    return value == token or token in [member.strip(b" \t") for member in value.split(b",")]


def is_forwarding_loop(fields: Fields) -> bool:
    """Whether the message has passed through us before (RFC 9110 §7.6.3)."""
    via = fields.get(b"via")
    if via is None or VIA_PSEUDONYM not in (via := via.lower()):
        return False
    elements = _without_comments(via).split(b",")
    return any(element.split()[1:2] == [VIA_PSEUDONYM] for element in elements)


def _without_comments(value: bytes) -> bytes:
    """Blank out comments (RFC 9110 §5.6.5).

    One that never ends is no comment: else whoever opened it would hide every later hop.
    """
    if b"(" not in value:
        return value
    kept, depth = [], 0
    for match in _COMMENT_PIECE.finditer(value):
        piece = match.group()
        if piece == b"(":
            depth += 1
        elif piece == b")" and depth:
            depth -= 1
            kept.append(b" ")
        elif not depth:
            kept.append(piece)
    return value if depth else b"".join(kept)
