"""Validation of request targets.

1. A target is visible ASCII. Origin-form starts with ``/``. Absolute-form must have the authority
   of ``Host`` (RFC 9112 §3.2.2) and is reduced to its origin-form. The default port of the scheme
   may be omitted in either.
2. ``.`` and ``..`` segments are refused, raw and percent-encoded, because servers resolve them in
   different ways.
3. The bytes that were validated are the bytes that are appended to the upstream's origin. They
   start with ``/``, so that no target can become part of the authority.
"""

from __future__ import annotations

import re

from goproxyai.errors import ProxyError

MAX_TARGET_BYTES = 16 * 1024
"""A longer target is refused with status 414."""

_VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]+")
_DOT_SEGMENT = re.compile(rb"(?:[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?:[/\\?#;]|%2f|%5c|$)", re.IGNORECASE)
_ABSOLUTE_FORM = re.compile(rb"(https?)://([^/?#]*)([/?].*)?", re.IGNORECASE | re.DOTALL)
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}
_VALID_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){1,255})(?::[0-9]{0,5})?"
)


def _bad_request(message: str) -> ProxyError:
    return ProxyError("bad_request", message)


def check_host(host: bytes | None, repeated: bool, required: bool = True) -> None:
    """Validate the ``Host`` field (RFC 9112 §3.2, RFC 3986 §3.2.2).

    :param required: whether the field must be present, as in HTTP/1.1. Health checks of load
        balancers are HTTP/1.0 requests without the field.
    :raises ProxyError: ``bad_request`` if the field is missing, repeated or malformed.
    """
    if host is None:
        if not required:
            return
        raise _bad_request("The request has no Host header; send exactly one.")
    if repeated:
        raise _bad_request("The request has several Host headers; send exactly one.")
    if _VALID_HOST.fullmatch(host.strip(b" \t")) is None:
        raise _bad_request("The Host header is not a valid host; send host or host:port.")


def origin_form(target: bytes, host: bytes | None) -> bytes:
    """Return the target that is routed, hashed for the cache key and forwarded.

    :param target: as received in the request line.
    :param host: the value of ``Host``, after :func:`check_host`; ``None`` without the field.
    :raises ProxyError: ``target_too_long`` or ``bad_request``.
    """
    if len(target) > MAX_TARGET_BYTES:
        raise ProxyError(
            "target_too_long", "The request target exceeds 16 KiB; send less in the URL."
        )
    if _VISIBLE_ASCII.fullmatch(target) is None:
        raise _bad_request(
            "The request target holds bytes outside visible ASCII; percent-encode them."
        )
    if not target.startswith(b"/"):
        target = _from_absolute(target, host)
    path = target.partition(b"?")[0]
    if b"." in path or b"%" in path:
        _check_segments(path)
    if b"#" in target:
        raise _bad_request(
            "The request target holds a fragment; leave out '#' and what follows it."
        )
    return target


def _from_absolute(target: bytes, host: bytes | None) -> bytes:
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise _bad_request("The request target is neither a path nor an http URL.")
    scheme, authority, rest = match.group(1).lower(), match.group(2), match.group(3) or b"/"
    if _VALID_HOST.fullmatch(authority) is None:
        raise _bad_request("The URL in the request line has no valid host.")
    if host is not None and not is_same_authority(authority, host.strip(b" \t"), scheme):
        raise _bad_request(
            "The URL in the request line names another authority than the Host header."
        )
    return rest if rest.startswith(b"/") else b"/" + rest


def is_same_authority(one: bytes, other: bytes, scheme: bytes) -> bool:
    """Whether two authorities (``host`` or ``host:port``) of URLs with *scheme* are equal.

    :param scheme: ``http`` or ``https``; its default port stands for a missing or empty one.
    """
    return _with_port(one, scheme) == _with_port(other, scheme)


def _with_port(authority: bytes, scheme: bytes) -> tuple[bytes, bytes]:
    host, colon, port = authority.lower().rpartition(b":")
    if not colon or port.endswith(b"]"):  # the colon is part of an IPv6 address
        host, port = authority.lower(), b""
    return host, (port.lstrip(b"0") or b"0") if port else _DEFAULT_PORTS[scheme]


def _check_segments(path: bytes) -> None:
    if _DOT_SEGMENT.search(path):
        raise _bad_request(
            "The request target holds '.' or '..' segments; send the path they lead to."
        )
