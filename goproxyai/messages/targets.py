"""Validation of request targets.

1. A target is visible ASCII. Origin-form starts with ``/``. Absolute-form must have the authority
   of ``Host`` (RFC 9112 §3.2.2) and is reduced to its origin-form.
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
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]*)([/?].*)?", re.IGNORECASE | re.DOTALL)
_VALID_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){1,255})(?::[0-9]{0,5})?"
)


def _bad_request(message: str) -> ProxyError:
    return ProxyError("bad_request", message)


def check_host(host: bytes | None, repeated: bool) -> None:
    """Validate the ``Host`` field (RFC 9112 §3.2, RFC 3986 §3.2.2).

    :raises ProxyError: ``bad_request`` if the field is missing, repeated or malformed.
    """
    if host is None:
        raise _bad_request("The request has no Host header; send exactly one.")
    if repeated:
        raise _bad_request("The request has several Host headers; send exactly one.")
    if _VALID_HOST.fullmatch(host.strip(b" \t")) is None:
        raise _bad_request("The Host header is not a valid host; send host or host:port.")


def origin_form(target: bytes, host: bytes) -> bytes:
    """Return the target that is routed, hashed for the cache key and forwarded.

    :param target: as received in the request line.
    :param host: the value of ``Host``, after :func:`check_host`.
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


def _from_absolute(target: bytes, host: bytes) -> bytes:
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise _bad_request("The request target is neither a path nor an http URL.")
    authority, rest = match.group(1), match.group(2) or b"/"
    if authority.lower() != host.strip(b" \t").lower():
        raise _bad_request(
            "The URL in the request line names another authority than the Host header."
        )
    return rest if rest.startswith(b"/") else b"/" + rest


def _check_segments(path: bytes) -> None:
    if _DOT_SEGMENT.search(path):
        raise _bad_request(
            "The request target holds '.' or '..' segments; send the path they lead to."
        )
