"""Parsers from the text of a variable to its value.

A parser takes stripped text and raises ``ValueError`` for an invalid one. The text of the exception
is not shown: :class:`~goproxyai.config.variable.Variable` says what is expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import attrs

from goproxyai.cache.key import KEY_FIELDS
from goproxyai.cache.post_paths import ALWAYS_CACHED
from goproxyai.cache.request_fields import NEVER_IGNORED
from goproxyai.config.urls import has_dot_segment

MEGABYTE: Final = 1024 * 1024
"""Bytes in the unit of ``MAX_CACHE_SIZE`` and ``MAX_BODY_SIZE``."""

OWN_SEGMENTS: Final = frozenset(("cache", "dashboard", "health", "metrics", "stats"))
"""First segments of the paths of the proxy's own endpoints."""

_MIN_PASSPHRASE_CHARACTERS = 16

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENDPOINT = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*:[\x21-\x7e]+")
_HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_.~:@!$&'()*+=-]+)+/")
# A name of a field or a cookie (RFC 9110 §5.1), or the beginning of one with an asterisk.
_NAME_PATTERN = re.compile(r"[A-Za-z0-9!#$%&'+.^_`|~-]+\*?")
_KEY_PREFIX = re.compile(r"[A-Za-z0-9_.:/{}-]{1,64}")
_NAMESPACE = re.compile(r"(?!v1(?:/|$))[A-Za-z0-9_.:-]+(?:/[A-Za-z0-9_.:-]+)*")


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a parser of decimal integers from *minimum* to *maximum*."""

    def parse(text: str) -> int:
        # At most 20 digits: int() of a long text is slow, and limited to 4,300 digits.
        if re.fullmatch(r"[0-9]{1,20}", text) is None or not minimum <= int(text) <= maximum:
            raise ValueError("not a whole number in the range")
        return int(text)

    return parse


AUTO = 0
"""The value of ``WORKERS=auto``."""


def worker_count(maximum: int) -> Callable[[str], int]:
    """Return a parser of a number of processes, 1 to *maximum*, or ``auto`` (:data:`AUTO`)."""
    number = whole_number(1, maximum)
    return lambda text: AUTO if text == "auto" else number(text)


def positive(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return *parse* with 0 made invalid."""

    def parse_positive(text: str) -> Any:
        value = parse(text)
        if not value > 0:
            raise ValueError("not above zero")
        return value

    return parse_positive


@attrs.frozen
class OneOf:
    """A parser of lower-case *choices* in any case."""

    choices: tuple[str, ...]

    def __call__(self, text: str) -> str:
        if text.lower() not in self.choices:
            raise ValueError("not one of the choices")
        return text.lower()


def one_of(*choices: str) -> OneOf:
    """Return a parser of lower-case *choices* in any case."""
    return OneOf(choices)


def megabytes(text: str) -> int:
    """Bytes of a decimal number of megabytes."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) is None:
        raise ValueError("not a number of megabytes")
    return int(Decimal(text) * MEGABYTE)


def share(text: str) -> float:
    """A number from 0 to 1."""
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", text, re.ASCII) is None or float(text) > 1:
        raise ValueError("not a number from 0 to 1")
    return float(text)


def endpoints(text: str) -> tuple[str, ...]:
    """Twisted endpoint strings, separated by spaces."""
    found = tuple(text.split())
    if not all(_ENDPOINT.fullmatch(endpoint) for endpoint in found):
        raise ValueError("not an endpoint string")
    return found


def host_names(text: str) -> frozenset[str]:
    """Host names in lower case, without the trailing dot."""
    names = [name.removesuffix(".") for name in text.lower().replace(",", " ").split()]
    if not all(_HOST_NAME.fullmatch(name) for name in names):
        raise ValueError("not a host name")
    return frozenset(names)


def namespaces(text: str) -> tuple[str, ...]:
    """Paths under ``/v1/``, without that prefix."""
    names = tuple(text.replace(",", " ").split())
    if not all(_NAMESPACE.fullmatch(name) for name in names):
        raise ValueError("not a path under /v1/")
    return names


def cache_paths(text: str) -> tuple[str, ...]:
    """Paths under ``/v1/``, without that prefix; those that are always cached are added."""
    return tuple(dict.fromkeys((*ALWAYS_CACHED, *namespaces(text))))


def name_patterns(text: str) -> tuple[str, ...]:
    """Names, or prefixes that end in an asterisk, in their order."""
    patterns = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if not all(_NAME_PATTERN.fullmatch(pattern) for pattern in patterns):
        raise ValueError("not a name or prefix")
    return patterns


def ignored_headers(text: str) -> tuple[str, ...]:
    """Patterns of header names in lower case, without the names that cannot be ignored."""
    patterns = name_patterns(text.lower())
    for pattern in patterns:
        name = pattern.encode("ascii")
        if name in KEY_FIELDS or name in NEVER_IGNORED or name == b"cookie":
            raise ValueError("a header that may change a response")
    return patterns


def relay_paths(text: str) -> tuple[str, ...]:
    """Path prefixes, each with a slash at both ends; the last slash may be missing in *text*."""
    prefixes = tuple(
        dict.fromkeys(path.rstrip("/") + "/" for path in text.replace(",", " ").split())
    )
    for prefix in prefixes:
        if _PREFIX.fullmatch(prefix) is None or has_dot_segment(prefix):
            raise ValueError("not a path prefix")
        if prefix.split("/", 2)[1] in OWN_SEGMENTS:
            raise ValueError("a path of the proxy's own endpoints")
    return prefixes


def error_statuses(text: str) -> frozenset[int]:
    """HTTP status codes from 400 to 599."""
    found = text.replace(",", " ").split()
    if not all(re.fullmatch(r"[45][0-9]{2}", status, re.ASCII) for status in found):
        raise ValueError("not a status code from 400 to 599")
    return frozenset(map(int, found))


def probe_target(text: str) -> bytes | None:
    """A request target in origin-form, or ``None`` for an empty text."""
    if text and (re.fullmatch(r"/[\x21-\x7e]*", text) is None or has_dot_segment(text)):
        raise ValueError("not a path")
    return text.encode("ascii") or None


def file_path(text: str) -> str | None:
    """A file's path, or ``None`` for an empty text."""
    if _CONTROL.search(text):
        raise ValueError("a path with control characters")
    return text or None


def switch(text: str) -> bool:
    """``1`` for on, ``0`` for off."""
    if text not in ("0", "1"):
        raise ValueError("neither 0 nor 1")
    return text == "1"


def key_prefix(text: str) -> str:
    """The beginning of all keys in Redis."""
    if _KEY_PREFIX.fullmatch(text) is None:
        raise ValueError("not a prefix")
    return text


def token(text: str) -> str | None:
    """Visible ASCII, which a header field can carry, or ``None`` for an empty text."""
    if text and re.fullmatch(r"[\x21-\x7e]+", text) is None:
        raise ValueError("not visible ASCII")
    return text or None


def passphrase(text: str) -> str | None:
    """A passphrase of at least 16 visible ASCII characters, or ``None`` for an empty text."""
    if text and len(text) < _MIN_PASSPHRASE_CHARACTERS:
        raise ValueError("shorter than 16 characters")
    return token(text)
