"""What a request asks of the cache, in ``Cache-Control`` and in fields of our own.

========================== ====================================================================
``Cache-Control``          RFC 9111 §5.2.1: ``no-cache``, ``no-store``, ``max-age``,
                           ``max-stale``, ``only-if-cached``; the rest is skipped
``Pragma: no-cache``       as ``Cache-Control: no-cache``, where there is no such field (§5.4)
``X-Cache-TTL: 90``        how long the answer is to be kept: seconds, or a duration as in Go;
                           what cannot be read is skipped
``X-Cache-Replay: paced``  a stored stream is to come as it came first, not at once
========================== ====================================================================
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from goproxyai.durations import parse_duration
from goproxyai.messages.headers import Fields, is_list_member

_LIST_MEMBER = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
_LARGEST_DELTA = 2**31
_LONGEST_TTL = 100


@attrs.frozen
class Directives:
    """What a request's ``Cache-Control`` asks for (RFC 9111 §5.2.1).

    :ivar no_cache: do not answer from the cache; the new answer may be stored.
    :ivar no_store: do not store the answer.
    :ivar only_if_cached: answer from the cache or not at all.
    :ivar max_age: seconds that a stored answer may have aged; ``None``: any.
    :ivar max_stale: seconds for which a stored answer may have expired.
    """

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    max_stale: int = 0


NO_DIRECTIVES: Final = Directives()
"""What a request without ``Cache-Control`` and ``Pragma`` asks for."""

_NO_CACHE = Directives(no_cache=True)


def request_directives(fields: Fields) -> Directives:
    """Read a request's ``Cache-Control``; ``Pragma`` counts only without one (RFC 9111 §5.4).

    Unknown directives and junk are skipped. Of several values the smallest counts, and one that
    cannot be read is 0: whoever sends it wants something fresher than we can tell.
    """
    control = fields.get(b"cache-control")
    if control is None:
        pragma = fields.get(b"pragma")
        if pragma is None or not is_list_member(pragma, b"no-cache"):
            return NO_DIRECTIVES
        return _NO_CACHE
    found = parse_cache_control(control)
    ages = [_seconds(value) for name, value in found if name == b"max-age"]
    stales = [
        _seconds(value) if value else _LARGEST_DELTA
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


def requested_ttl(fields: Fields) -> float | None:
    """Seconds for which a request wants its answer kept, ``None`` where it does not say."""
    given = fields.get(b"x-cache-ttl")
    if given is None or len(given) > _LONGEST_TTL:
        return None
    given = given.strip()
    if given.isdigit():
        return float(_seconds(given))
    try:
        return parse_duration(given.decode("ascii"))
    except ValueError:
        return None


def wants_paced_replay(fields: Fields) -> bool:
    """Whether a stored stream is to be replayed as it came."""
    given = fields.get(b"x-cache-replay")
    return given is not None and is_list_member(given, b"paced")
