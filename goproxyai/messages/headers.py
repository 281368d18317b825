"""Header fields: their index, the hop-by-hop rules, and list-valued fields.

1. ``Connection``, the fields that it nominates, ``Keep-Alive``, ``TE``, ``Trailer``,
   ``Transfer-Encoding``, ``Upgrade`` and every ``Proxy-*`` are not forwarded in either direction
   (RFC 9110 §7.6.1).
2. ``Connection`` cannot nominate ``Content-Length`` or ``Host``, which frame and route the message.
3. Forwarded fields keep their order, case and repetition.
4. What infrastructure in front of the proxy says about the client's network is not sent upstream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

Headers = list[tuple[bytes, bytes]]
"""(name, value) as received: order, case and repetition are kept."""

Fields = dict[bytes, bytes]
"""Lower-cased name to value; values of repeated lines are joined with ``, `` (RFC 9110 §5.3)."""

VIA_PSEUDONYM: Final = b"goproxyai"
"""The name of the proxy in ``Via``."""

MAX_INSTANCES: Final = 8
"""Instances of the proxy in the ``Via`` of a request; more are a loop through several instances."""

HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
"""Lower-cased names of the hop-by-hop fields besides ``proxy-*``."""

_NOT_NOMINATED: Final = frozenset((b"content-length", b"host", b"keep-alive", b"close", b""))
PLAIN_CONNECTION: Final = frozenset((None, b"keep-alive", b"Keep-Alive", b"close", b"Close"))
"""The usual values of ``Connection``, which nominate no field; ``None`` is its absence.

A test for membership saves a miss two calls of :func:`nominated_fields`, 0.3 us.
"""
_NO_FIELDS: Final[frozenset[bytes]] = frozenset()

_OF_CLIENT_NETWORK: Final = frozenset(
    (
        b"forwarded", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip", b"cf-connecting-ipv6",
        b"cf-pseudo-ipv4", b"cf-ipcountry", b"x-client-ip", b"x-cluster-client-ip",
        b"x-original-forwarded-for", b"x-envoy-external-address", b"x-azure-clientip",
        b"x-azure-socketip", b"fastly-client-ip", b"fly-client-ip", b"x-envoy-peer-metadata",
        b"x-envoy-peer-metadata-id",
    )
)  # fmt: skip
_OF_CLIENT_NETWORK_PREFIXES: Final = (b"x-forwarded-", b"cloudfront-viewer-", b"x-vercel-ip-")
_NOT_SENT_UPSTREAM: Final = _OF_CLIENT_NETWORK | {
    b"host", b"expect", b"x-cache-ttl", b"x-cache-replay", b"x-cache-namespace",
}  # fmt: skip
_NOT_SENT_TO_CLIENT: Final = frozenset(
    (b"x-cache", b"x-cache-timestamp", b"x-proxy", b"x-proxy-request-id")
)
_NOT_SHAREABLE: Final = frozenset(
    (b"set-cookie", b"set-cookie2", b"content-length", b"transfer-encoding", b"age")
)
_OF_CREDENTIAL: Final = frozenset((b"openai-organization", b"openai-project", b"x-request-id"))
_OF_CREDENTIAL_PREFIX: Final = b"x-ratelimit-"

_COMMENT_PART = re.compile(rb"\\.|[()]|[^\\()]+|\\", re.DOTALL)


def index_fields(headers: Headers) -> tuple[Fields, bool]:
    """Index a header by lower-cased name.

    :returns: the fields, and whether any name is repeated.
    """
    fields = {name.lower(): value for name, value in headers}
    if len(fields) == len(headers):
        return fields, False
    lines: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lines.setdefault(name.lower(), []).append(value)
    return {name: b", ".join(values) for name, values in lines.items()}, True


def serialize_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return header lines as sent, without the blank line at the end."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def nominated_fields(fields: Fields) -> frozenset[bytes]:
    """Return the lower-cased field names that ``Connection`` nominates (RFC 9110 §7.6.1).

    Connection options (``keep-alive``, ``close``), ``content-length`` and ``host`` are left out.
    """
    connection = fields.get(b"connection")
    if connection is None or connection in PLAIN_CONNECTION:
        return _NO_FIELDS
    return frozenset([name.strip() for name in connection.lower().split(b",")]) - _NOT_NOMINATED


def request_headers_for_upstream(headers: Headers, fields: Fields) -> Headers:
    """Return the end-to-end fields of a request.

    ``Host``, ``Expect``, the proxy's own request fields, and fields about the client's network are
    left out.
    """
    end_to_end = _without(headers, nominated_fields(fields) | _NOT_SENT_UPSTREAM)
    return [
        pair for pair in end_to_end if not pair[0].lower().startswith(_OF_CLIENT_NETWORK_PREFIXES)
    ]


def is_of_client_network(name: bytes) -> bool:
    """Whether the field says something about the client's network: a reverse proxy has added it.

    :param name: lower-cased.
    """
    return name in _OF_CLIENT_NETWORK or name.startswith(_OF_CLIENT_NETWORK_PREFIXES)


def is_sent_upstream(name: bytes) -> bool:
    """Whether a request field is sent upstream unless ``Connection`` nominates it.

    :param name: lower-cased.
    """
    if name.startswith(_OF_CLIENT_NETWORK_PREFIXES):
        return False
    return not _is_excluded(name, _NOT_SENT_UPSTREAM)


def response_headers_for_client(headers: Headers, fields: Fields) -> Headers:
    """Return the end-to-end fields of a response, without those that the proxy sets itself."""
    return _without(headers, nominated_fields(fields) | _NOT_SENT_TO_CLIENT)


def is_shareable(name: bytes) -> bool:
    """Whether a response field is kept when the response is stored or shared.

    Cookies are one client's. The framing and ``Age`` differ between replies.

    :param name: lower-cased name of a field that is not hop-by-hop.
    """
    return name not in _NOT_SHAREABLE


def has_request_id(fields: Fields) -> bool:
    """Whether a response has an ``X-Request-Id`` that is relayed."""
    return b"x-request-id" in fields and b"x-request-id" not in nominated_fields(fields)


def identifies_credential(name: bytes) -> bool:
    """Whether a response field describes the credential of the request.

    :param name: lower-cased.
    """
    return name in _OF_CREDENTIAL or name.startswith(_OF_CREDENTIAL_PREFIX)


def is_never_relayed(name: bytes) -> bool:
    """Whether a response field is never relayed, whatever ``Connection`` nominates.

    :param name: lower-cased.
    """
    return _is_excluded(name, _NOT_SENT_TO_CLIENT)


def _without(headers: Headers, excluded: frozenset[bytes]) -> Headers:
    return [pair for pair in headers if not _is_excluded(pair[0].lower(), excluded)]


def _is_excluded(name: bytes, excluded: frozenset[bytes]) -> bool:
    return name in excluded or name in HOP_BY_HOP or name.startswith(b"proxy-")


def is_list_member(value: bytes, token: bytes) -> bool:
    """Whether a comma-separated list contains a token, in any case (RFC 9110 §5.6.1).

    :param token: lower-cased.
    """
    value = value.lower()
    if token not in value:
        return False
    return value == token or token in [member.strip(b" \t") for member in value.split(b",")]


def via_value(instance: bytes) -> bytes:
    """Return the element that *instance* adds to ``Via`` (RFC 9110 §7.6.3)."""
    return b"1.1 %b (%b)" % (VIA_PSEUDONYM, instance)


def is_forwarding_loop(fields: Fields, instance: bytes) -> bool:
    """Whether ``Via`` contains *instance*, or :data:`MAX_INSTANCES` instances.

    A recipient may remove comments from ``Via``, and with them the names of instances. Then, and in
    a loop through several instances behind a load balancer, the number of instances ends the loop.

    :param instance: the name of this instance, lower case and unguessable.
    """
    via = fields.get(b"via")
    if via is None or VIA_PSEUDONYM not in (via := via.lower()):
        return False
    if b"(%b)" % instance in via:
        return True
    elements = _without_comments(via).split(b",")
    return [element.split()[1:2] for element in elements].count([VIA_PSEUDONYM]) >= MAX_INSTANCES


def _without_comments(value: bytes) -> bytes:
    """Replace comments (RFC 9110 §5.6.5) by spaces.

    An unterminated comment is left as it is: otherwise a ``(`` would hide all later elements.
    """
    if b"(" not in value:
        return value
    kept, depth = [], 0
    for match in _COMMENT_PART.finditer(value):
        part = match.group()
        if part == b"(":
            depth += 1
        elif part == b")" and depth:
            depth -= 1
            kept.append(b" ")
        elif not depth:
            kept.append(part)
    return value if depth else b"".join(kept)
