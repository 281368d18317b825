"""Which requests may be served from the cache, and which responses may be stored.

A request may be served from the cache if only the parts of its cache key can affect the response:

================================================ ==========================================
GET; POST to one of                              looked up
:data:`CACHEABLE_POST_PATHS`
another method, another POST                     bypass: ``method``, ``path``
``Range``, ``If-Range``                          bypass: ``range``
a field of the key, a field without effect on    looked up
the response
any other field (``Cookie``, ``Origin``,         bypass: ``header``
conditional requests, ``X-Anything``,
``X-Stainless-Poll-Helper``)
================================================ ==========================================

A response may be stored if it is complete (which the caller checks), its status is one of
:data:`STORABLE_STATUSES`, neither side sent ``no-store``, and it does not vary by a field that the
look-up ignores. :mod:`.freshness` has further conditions for a GET.
"""

from __future__ import annotations

from typing import Final

from goproxyai.cache.directives import Directives, parse_cache_control
from goproxyai.cache.key import IDENTITY_FIELDS, KEY_FIELDS
from goproxyai.messages.headers import HOP_BY_HOP, Fields

CACHEABLE_POST_PATHS: Final = frozenset(
    (b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings")
)
"""Paths of POST requests that change nothing upstream, and whose responses may be stored."""

STORABLE_STATUSES: Final = frozenset((200, 201, 400, 401))

_STANDARD_NEUTRAL = frozenset(
    (
        b"host", b"user-agent", b"content-length", b"date", b"via", b"forwarded",
        b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
        b"x-real-ip", b"x-request-id", b"traceparent", b"tracestate", b"referer", b"dnt",
        b"priority", b"upgrade-insecure-requests", b"cache-control", b"pragma", b"expect",
        b"x-cache-ttl", b"x-cache-replay",
    )
)  # fmt: skip
_NEUTRAL_PREFIXES = (b"proxy-", b"sec-fetch-", b"x-stainless-")
_COMMON_PREFIXED = frozenset(
    (
        b"proxy-connection", b"proxy-authorization",
        b"sec-fetch-mode", b"sec-fetch-site", b"sec-fetch-dest",
        b"x-stainless-lang", b"x-stainless-package-version", b"x-stainless-os",
        b"x-stainless-arch", b"x-stainless-runtime", b"x-stainless-runtime-version",
        b"x-stainless-async", b"x-stainless-retry-count", b"x-stainless-read-timeout",
        b"x-stainless-timeout", b"x-stainless-helper-method", b"x-stainless-raw-response",
    )
)  # fmt: skip
_CACHEABLE_FIELDS = frozenset(KEY_FIELDS) | HOP_BY_HOP | _STANDARD_NEUTRAL | _COMMON_PREFIXED
_KEY_FIELDS = frozenset(KEY_FIELDS)

_FORBIDS_STORING = frozenset((b"no-store",))
_FORBIDS_SHARING = frozenset((b"no-store", b"private"))
_FORBIDS_STALE = frozenset((b"must-revalidate", b"proxy-revalidate", b"no-cache", b"s-maxage"))


def bypass_reason(method: bytes, path: bytes, fields: Fields) -> str | None:
    """Return why a request may not be served from the cache, or ``None`` if it may.

    :param path: without the query.
    :returns: ``None``, ``"method"``, ``"path"``, ``"range"`` or ``"header"``.
    """
    if method != b"GET":
        if method != b"POST":
            return "method"
        if path not in CACHEABLE_POST_PATHS:
            return "path"
    if _CACHEABLE_FIELDS.issuperset(fields):
        return None
    if b"range" in fields or b"if-range" in fields:
        return "range"
    for name in fields.keys() - _CACHEABLE_FIELDS:
        if not _is_neutral(name):
            return "header"
    return None


def _is_neutral(name: bytes) -> bool:
    """Whether a request field is neither part of the key nor a reason to bypass the cache."""
    if name in _CACHEABLE_FIELDS:
        return name not in _KEY_FIELDS
    return name.startswith(_NEUTRAL_PREFIXES) and name != b"x-stainless-poll-helper"


def may_store(
    method: bytes, status: int, fields: Fields, directives: Directives, shared: bool = False
) -> bool:
    """Whether the status and header of a response allow storing the response.

    :param fields: of the response, to a request without a :func:`bypass_reason`.
    :param directives: of the request.
    :param shared: whether all credentials would share the response. Errors are not shared, because
        they may be due to the credential.
    """
    if status not in STORABLE_STATUSES or directives.no_store or method not in (b"GET", b"POST"):
        return False
    return may_share(status, fields, shared)


def may_share(status: int, fields: Fields, shared: bool = False) -> bool:
    """Whether a response may also be sent for other requests with the same cache key.

    :param shared: whether those requests may have another credential.
    """
    if shared and not 200 <= status < 300:
        return False
    control = fields.get(b"cache-control")
    if control is not None:
        forbidden = _FORBIDS_SHARING if shared else _FORBIDS_STORING
        if any(name in forbidden for name, _ in parse_cache_control(control)):
            return False
    vary = fields.get(b"vary")
    return vary is None or not _varies_by_ignored_field(vary.lower(), shared)


def may_serve_stale(head: bytes) -> bool:
    """Whether an expired response may be served (RFC 9111 §4.2.4).

    :param head: status line and header lines of the response.
    """
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"cache-control":
            if any(directive in _FORBIDS_STALE for directive, _ in parse_cache_control(value)):
                return False
    return True


def _varies_by_ignored_field(vary: bytes, shared: bool) -> bool:
    """Whether the response depends on a field that the look-up ignores (RFC 9111 §4.1).

    Fields of the key are part of the look-up. Fields that cause a bypass were absent, and are
    absent from each request that the stored response can be served for.
    """
    for member in vary.split(b","):
        name = member.strip(b" \t")
        if name == b"*" or _is_neutral(name) or (shared and name in IDENTITY_FIELDS):
            return True
    return False


def in_namespace(path: bytes, names: tuple[str, ...]) -> bool:
    """Whether *path* is one of *names* under ``/v1/``, such as ``models``, or is below one.

    :param path: without the query.
    """
    for name in names:
        root = b"/v1/" + name.encode("ascii")
        if path.startswith(root) and path[len(root) : len(root) + 1] in (b"", b"/"):
            return True
    return False
