"""What may be answered from the cache, and what may be put into it.

A request may be answered from the cache when nothing but its key can have an effect on the answer:

========================================= =====================================================
GET; POST to one of :data:`CACHED_POSTS`  looked up
any other method, any other POST          bypass: ``method``, ``path``
``Range``, ``If-Range``                   bypass: ``range``
a field of the key, or a neutral one      looked up
any other field (``Cookie``, ``Origin``,  bypass: ``header``
conditional requests, ``X-Anything``,
``X-Stainless-Poll-Helper``)
========================================= =====================================================

An answer may be stored when it is whole (the caller knows), its status is one of
:data:`STORED_STATUSES`, neither side said ``no-store``, it does not vary by a field that the
look-up does not see, and, for a GET, it does not describe something that is still under way.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Final

import attrs

from goproxyai.policy.cachekey import KEY_FIELDS
from goproxyai.policy.headers import HOP_BY_HOP, Fields, is_list_member

CACHED_POSTS: Final = frozenset((b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings"))
"""Paths of the POSTs that only compute: their answers may be stored, and they write nothing."""

STORED_STATUSES: Final = frozenset((200, 201, 400, 401))

TERMINAL: Final = frozenset(
    (
        "completed", "failed", "cancelled", "canceled", "expired", "incomplete", "succeeded",
        "processed", "error", "deleted", "ready", "active", "archived", "paused",
    )
)  # fmt: skip
"""Values of ``status`` that do not change by themselves; any other may."""

MOST_DECODED: Final = 1024 * 1024
"""Bytes of an answer that are decoded in search of its ``status``."""

_WRITES = frozenset((b"PUT", b"PATCH", b"DELETE"))
_STANDARD_NEUTRAL = frozenset(
    (
        b"host", b"user-agent", b"content-length", b"date", b"via", b"forwarded",
        b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
        b"x-real-ip", b"x-request-id", b"traceparent", b"tracestate", b"referer", b"dnt",
        b"priority", b"upgrade-insecure-requests", b"cache-control", b"pragma", b"expect",
    )
)  # fmt: skip
_NEUTRAL_PREFIXES = (b"proxy-", b"sec-fetch-", b"x-stainless-")
_USUAL_PREFIXED = frozenset(
    (
        b"proxy-connection", b"proxy-authorization",
        b"sec-fetch-mode", b"sec-fetch-site", b"sec-fetch-dest",
        b"x-stainless-lang", b"x-stainless-package-version", b"x-stainless-os",
        b"x-stainless-arch", b"x-stainless-runtime", b"x-stainless-runtime-version",
        b"x-stainless-async", b"x-stainless-retry-count", b"x-stainless-read-timeout",
        b"x-stainless-timeout", b"x-stainless-helper-method", b"x-stainless-raw-response",
    )
)  # fmt: skip
_HARMLESS = frozenset(KEY_FIELDS) | HOP_BY_HOP | _STANDARD_NEUTRAL | _USUAL_PREFIXED
_KEY_FIELDS = frozenset(KEY_FIELDS)

_LIST_MEMBER = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
_LARGEST_DELTA = 2**31
_ESCAPED_STATUS = re.compile(
    rb'"(?:s|\\u0073)(?:t|\\u0074)(?:a|\\u0061)(?:t|\\u0074)(?:u|\\u0075)(?:s|\\u0073)"'
)
_MOST_MEMBERS = 16
_MOST_PARENTS = 32
_SLASH = ord("/")


def bypass_reason(method: bytes, path: bytes, fields: Fields) -> str | None:
    """Why a request may not be answered from the cache; ``None`` when it may.

    :param path: without the query.
    :returns: ``None``, ``"method"``, ``"path"``, ``"range"`` or ``"header"``.
    """
    if method != b"GET":
        if method != b"POST":
            return "method"
        if path not in CACHED_POSTS:
            return "path"
    if _HARMLESS.issuperset(fields):
        return None
    if b"range" in fields or b"if-range" in fields:
        return "range"
    for name in fields.keys() - _HARMLESS:
        if not _is_neutral(name):
            return "header"
    return None


def _is_neutral(name: bytes) -> bool:
    """Whether a request field neither counts in the key nor bypasses the cache."""
    if name in _HARMLESS:
        return name not in _KEY_FIELDS
    return name.startswith(_NEUTRAL_PREFIXES) and name != b"x-stainless-poll-helper"


@attrs.frozen
class Directives:
    """What a request's ``Cache-Control`` asks for (RFC 9111 §5.2.1).

    :ivar no_cache: do not answer from the cache; the new answer may be stored.
    :ivar no_store: do not store the answer.
    :ivar only_if_cached: answer from the cache or not at all.
    :ivar max_age: seconds that a stored answer may have aged; ``None``: any.
    """

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: int | None = None


NO_DIRECTIVES: Final = Directives()
"""What a request without ``Cache-Control`` and ``Pragma`` asks for."""

_NO_CACHE = Directives(no_cache=True)


def request_directives(fields: Fields) -> Directives:
    """Read a request's ``Cache-Control``; ``Pragma`` counts only without one (RFC 9111 §5.4).

    Unknown directives and junk are skipped. Of several ``max-age`` the smallest counts, and one
    that cannot be read is 0: whoever sends it wants something fresher than we can tell.
    """
    control = fields.get(b"cache-control")
    if control is None:
        pragma = fields.get(b"pragma")
        if pragma is None or not is_list_member(pragma, b"no-cache"):
            return NO_DIRECTIVES
        return _NO_CACHE
    directives = _directives(control)
    ages = [_seconds(value) for name, value in directives if name == b"max-age"]
    names = {name for name, _ in directives}
    return Directives(
        no_cache=b"no-cache" in names,
        no_store=b"no-store" in names,
        only_if_cached=b"only-if-cached" in names,
        max_age=min(ages, default=None),
    )


def _directives(control: bytes) -> list[tuple[bytes, bytes]]:
    """(lower-cased name, unquoted value) of each member; a comma in quotes separates nothing."""
    found = []
    for member in _LIST_MEMBER.findall(control):
        name, _, value = member.partition(b"=")
        found.append((name.strip().lower(), value.strip().strip(b'"').strip()))
    return found


def _seconds(value: bytes) -> int:
    """delta-seconds (RFC 9111 §1.2.2); too large is the largest, anything else 0."""
    if not value.isdigit():
        return 0
    value = value.lstrip(b"0") or b"0"
    return min(int(value), _LARGEST_DELTA) if len(value) <= 10 else _LARGEST_DELTA


def may_store(method: bytes, status: int, fields: Fields, directives: Directives) -> bool:
    """Judge an answer by its head, for a request that :func:`bypass_reason` let pass.

    :param fields: of the response.
    :param directives: of the request.
    """
    if status not in STORED_STATUSES or directives.no_store or method not in (b"GET", b"POST"):
        return False
    control = fields.get(b"cache-control")
    if (
        control is not None
        and b"no-store" in control.lower()
        and any(name == b"no-store" for name, _ in _directives(control))
    ):
        return False
    vary = fields.get(b"vary")
    return vary is None or not _varies_unseen(vary.lower())


def _varies_unseen(vary: bytes) -> bool:
    """Whether the answer depends on a field that the look-up ignores (RFC 9111 §4.1).

    Members that are in the key are seen. Those that would have bypassed were absent, and are absent
    from whatever request the answer will be used for.
    """
    for member in vary.split(b","):
        name = member.strip(b" \t")
        if name == b"*" or _is_neutral(name):
            return True
    return False


def still_changing(fields: Fields, body: bytes) -> bool:
    """Whether a GET's JSON answer says that what it describes is under way.

    It is where the top-level object has a string ``status`` that is not in :data:`TERMINAL`. What
    cannot be read is taken for changing: pollers must see progress, and a miss costs little.

    :param fields: of the response.
    :param body: whole, as received.
    """
    media_type = fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json" and not media_type.endswith(b"+json"):
        return False
    coding = fields.get(b"content-encoding")
    if coding is not None:
        decoded = _decoded(coding.strip().lower(), body)
        if decoded is None:
            return True
        body = decoded
    if not _may_have_status(body):
        return False
    if len(body) > MOST_DECODED:
        return True
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return True
    if not isinstance(value, dict):
        return False
    status = value.get("status")
    return isinstance(status, str) and status not in TERMINAL


def _may_have_status(body: bytes) -> bool:
    """Whether ``"status"`` occurs, be it escaped or in UTF-16 or UTF-32 (which hold NULs)."""
    return (
        b'"status"' in body
        or (b"\\u00" in body and _ESCAPED_STATUS.search(body) is not None)
        or b"\0" in body
    )


def _decoded(coding: bytes, body: bytes) -> bytes | None:
    """The decoded body; ``None`` where it cannot be read whole within :data:`MOST_DECODED`."""
    if coding in (b"", b"identity"):
        return body
    try:
        if coding in (b"gzip", b"x-gzip"):
            return _inflated(body, zlib.MAX_WBITS | 16)
        if coding == b"deflate":
            try:
                return _inflated(body, zlib.MAX_WBITS)
            except zlib.error:  # some send it bare (RFC 9110 §8.4.1.2)
                return _inflated(body, -zlib.MAX_WBITS)
    except zlib.error:
        pass
    return None


def _inflated(body: bytes, window: int) -> bytes | None:
    """Inflate all members, of which gzip allows several (RFC 1952 §2.2)."""
    decoded = b""
    for _ in range(_MOST_MEMBERS):
        member = zlib.decompressobj(window)
        decoded += member.decompress(body, MOST_DECODED + 1 - len(decoded))
        if not member.eof or len(decoded) > MOST_DECODED:
            return None
        body = member.unused_data
        if not body:
            return decoded
    return None


def parent_paths(path: bytes) -> list[bytes]:
    """A path and its parents, longest first: what a write to it may have changed.

    ``/v1/files/abc`` gives ``/v1/files/abc``, ``/v1/files``, ``/v1``. Trailing and doubled slashes
    make no parents of their own. Of a path of absurd depth, the parents nearest to the root.

    :param path: without the query.
    """
    paths: list[bytes] = []
    end = 0
    while len(paths) < _MOST_PARENTS and (end := path.find(b"/", end + 1)) > 0:
        if path[end - 1] != _SLASH:
            paths.append(path[:end])
    whole = path.rstrip(b"/")
    if whole and paths[-1:] != [whole]:
        paths.append(whole)
    paths.reverse()
    return paths


def is_write(method: bytes, path: bytes) -> bool:
    """Whether a request changes what GETs of its path and its parents answer."""
    return method in _WRITES or (method == b"POST" and path not in CACHED_POSTS)
