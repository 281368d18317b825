"""References to resources of the upstream, as clients of the proxy must follow them.

A client sees the upstream's resources at the proxy's origin, without the upstream's base path. A
reference to the upstream's origin, or a path with the base path, would lead the client past the
proxy, or to a path that has the base path twice. Other references are kept: those to other origins,
those outside the base path, and relative ones, which resolve in the same way on both sides.
"""

from __future__ import annotations

import re
from typing import Final

LOCATION_FIELDS: Final = frozenset((b"location", b"content-location"))
"""Lower-cased response fields that hold one reference (RFC 9110 §8.7 and §10.2.2)."""

# Browsers remove tabs and line ends from a reference, which would change its meaning.
_REFERENCE = re.compile(
    rb"(?:(?P<scheme>https?):)?(?://(?P<authority>[^/?#\\]*))?(?P<rest>[/?#][^\x00-\x20\x7f]*)?",
    re.IGNORECASE,
)
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}


def local_reference(reference: bytes, origin: bytes, base: bytes) -> bytes:
    """Return the reference by which a client reaches the same resource through the proxy.

    :param reference: the value of a field of :data:`LOCATION_FIELDS`.
    :param origin: the upstream's, ``scheme://authority``.
    :param base: the upstream's base path: empty, or with a leading and no trailing slash.
    :returns: *reference* itself if it is to be kept.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        return reference
    scheme, authority, rest = match.groups(b"")
    if match["authority"] is not None:
        own_scheme, _, own_authority = origin.partition(b"://")
        same_scheme = scheme.lower() in (b"", own_scheme)
        if not same_scheme or _normal(authority, own_scheme) != _normal(own_authority, own_scheme):
            return reference
        if not rest.startswith(b"/"):
            rest = b"/" + rest
    elif scheme or not base:
        return reference
    path = rest.removeprefix(base)
    if path == rest and base:
        return reference  # outside the base path: no target of the proxy leads there
    if not path.startswith(b"/"):
        if path[:1] not in (b"", b"?", b"#"):
            return reference  # the base path is only the beginning of a segment
        path = b"/" + path
    # `//host` and, to browsers, `/\\host` are references to another host.
    return reference if path[1:2] in (b"/", b"\\") else path


def _normal(authority: bytes, scheme: bytes) -> bytes:
    """Return *authority* in lower case, without a default port and a trailing dot."""
    host, colon, port = authority.lower().rpartition(b":")
    if not colon or b"]" in port:
        host, port = authority.lower(), b""
    host = host.removesuffix(b".")
    return host if port in (b"", _DEFAULT_PORTS[scheme]) else host + b":" + port
