"""The cache directives of a request: ``Cache-Control``, ``Pragma`` and the proxy's own fields.

========================== ====================================================================
``Cache-Control``          ``no-cache``, ``no-store``, ``max-age``, ``max-stale`` and
                           ``only-if-cached`` (RFC 9111 §5.2.1); others are ignored
``Pragma: no-cache``       the same as ``Cache-Control: no-cache``, if there is no
                           ``Cache-Control`` (RFC 9111 §5.4)
``X-Cache-TTL: 90``        the freshness lifetime of the response: seconds, or a duration in Go's
                           syntax; ignored if invalid
``X-Cache-Replay: paced``  replay a stored event stream with the original timing
========================== ====================================================================
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from goproxyai.durations import parse_duration
from goproxyai.messages.headers import Fields, is_list_member

_LIST_MEMBER = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
_MAX_DELTA_SECONDS = 2**31
_MAX_TTL_BYTES = 100


@attrs.frozen
class Directives:
    """The ``Cache-Control`` of a request (RFC 9111 §5.2.1).

    :ivar no_cache: do not serve a stored response; the new response may be stored.
    :ivar no_store: do not store the response.
    :ivar only_if_cached: serve a stored response or an error.
    :ivar max_age: the highest acceptable age in seconds; ``None`` accepts any age.
    :ivar max_stale: seconds for which a stored response may have been expired.
    """

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    max_stale: int = 0


NO_DIRECTIVES: Final = Directives()
"""The directives of a request without ``Cache-Control`` and ``Pragma``."""

_NO_CACHE = Directives(no_cache=True)


def request_directives(fields: Fields) -> Directives:
    """Parse ``Cache-Control``, or ``Pragma`` if there is none (RFC 9111 §5.4).

    Unknown and invalid directives are ignored. The smallest of several values counts. An invalid
    number of seconds counts as 0: it errs towards a fresh response.
    """
    control = fields.get(b"cache-control")
    if control is None:
        pragma = fields.get(b"pragma")
        if pragma is None or not is_list_member(pragma, b"no-cache"):
            return NO_DIRECTIVES
        return _NO_CACHE
    found = parse_cache_control(control)
    ages = [delta_seconds(value) for name, value in found if name == b"max-age"]
    stales = [
        delta_seconds(value) if value else _MAX_DELTA_SECONDS
        for name, value in found
        if name == b"max-stale"
    ]
    names = {name for name, _ in found}
    return Directives(
        no_cache=b"no-cache" in names,
        no_store=b"no-store" in names,
        only_if_cached=b"only-if-cached" in names,
        max_age=min(ages, default=None),
        max_stale=min(stales, default=0),
    )


def parse_cache_control(control: bytes) -> list[tuple[bytes, bytes]]:
    """Return (lower-cased name, unquoted value) of each directive.

    A comma inside quotes does not separate directives. The time is linear in the length.
    """
    found = []
    for member in _LIST_MEMBER.findall(control):
        name, _, value = member.partition(b"=")
        found.append((name.strip().lower(), value.strip().strip(b'"').strip()))
    return found


def delta_seconds(value: bytes) -> int:
    """Parse delta-seconds (RFC 9111 §1.2.2): at most 2**31, and 0 if invalid."""
    if not value.isdigit():
        return 0
    value = value.lstrip(b"0") or b"0"
    return min(int(value), _MAX_DELTA_SECONDS) if len(value) <= 10 else _MAX_DELTA_SECONDS


def requested_ttl(fields: Fields) -> float | None:
    """Return the seconds of ``X-Cache-TTL``; ``None`` if the field is missing or invalid."""
    given = fields.get(b"x-cache-ttl")
    if given is None or len(given) > _MAX_TTL_BYTES:
        return None
    given = given.strip()
    if given.isdigit():
        return float(delta_seconds(given))
    try:
        return parse_duration(given.decode("ascii"))
    except ValueError:
        return None


def wants_paced_replay(fields: Fields) -> bool:
    """Whether a stored event stream is to be replayed with the original timing."""
    given = fields.get(b"x-cache-replay")
    return given is not None and is_list_member(given, b"paced")
