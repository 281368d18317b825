"""Which requests may be served from the cache, and which responses may be stored.

A request may be served from the cache if only the parts of its cache key can affect the response:

================================================ ==========================================
GET; POST to a path of                           looked up
:class:`~goproxyai.cache.post_paths.PostPaths`
another method, another POST                     bypass: ``method``, ``path``
``Range``, ``If-Range``                          bypass: ``range``
a field that may affect the response             bypass: ``header``
fields without effect that are too large         bypass: ``header-size``
================================================ ==========================================

:mod:`goproxyai.cache.request_fields` has the tables of fields. Of requests to ``/v1/responses``,
the body is judged as well (:mod:`goproxyai.cache.stateless_responses`).

A response may be stored if it is complete (which the caller checks), its status is one of
:data:`STORABLE_STATUSES`, neither side sent ``no-store``, and it does not vary by a field that the
look-up ignores. :mod:`.freshness` has further conditions for a GET.
"""

from __future__ import annotations

from typing import Final

from goproxyai.cache.directives import Directives, parse_cache_control
from goproxyai.cache.key import IDENTITY_FIELDS
from goproxyai.cache.post_paths import STANDARD_POST_PATHS, PostPaths
from goproxyai.cache.request_fields import (
    NOTHING_IGNORED,
    IgnoredFields,
    JudgedFields,
    is_left_out_of_key,
    judge_fields,
)
from goproxyai.messages.headers import Fields
from goproxyai.messages.media_types import is_json

STORABLE_STATUSES: Final = frozenset((200, 201, 400, 401))

ERROR_STATUSES: Final = frozenset((400, 401))
"""Storable statuses of errors, which are stored as JSON only, and for ``CACHE_ERROR_TTL`` at most.

An error in another format was not made by the API but by a server in front of it.
"""

_OTHER_METHOD = JudgedFields("method")
_OTHER_PATH = JudgedFields("path")
_FORBIDS_STORING = frozenset((b"no-store",))
_FORBIDS_SHARING = frozenset((b"no-store", b"private"))
_FORBIDS_STALE = frozenset((b"must-revalidate", b"proxy-revalidate", b"no-cache", b"s-maxage"))


def judge_request(
    method: bytes,
    path: bytes,
    fields: Fields,
    posts: PostPaths = STANDARD_POST_PATHS,
    ignored: IgnoredFields = NOTHING_IGNORED,
) -> JudgedFields:
    """Judge whether a request may be served from the cache.

    :param path: without the query.
    :returns: with the reasons ``method`` and ``path``, too.
    """
    if method != b"GET":
        if method != b"POST":
            return _OTHER_METHOD
        if posts.standard_path(path) is None:
            return _OTHER_PATH
    return judge_fields(fields, ignored)


def may_store(
    method: bytes, status: int, fields: Fields, directives: Directives, shared: bool = False
) -> bool:
    """Whether the status and header of a response allow storing the response.

    :param fields: of the response, to a request without a reason to bypass the cache.
    :param directives: of the request.
    :param shared: whether all credentials would share the response. Errors are not shared, because
        they may be due to the credential.
    """
    if status not in STORABLE_STATUSES or directives.no_store or method not in (b"GET", b"POST"):
        return False
    if status in ERROR_STATUSES and not is_json(fields):
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
        if name == b"*" or is_left_out_of_key(name) or (shared and name in IDENTITY_FIELDS):
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
