"""Environment variables that were probably meant to be settings.

A name is reported if

1. it has the letters of a setting in another case, with other underscores or in another order of
   words: ``ratelimit``, ``CACHETTL``, ``CACHE_MAX_SIZE``;
2. it is a setting with the prefix ``GOPROXYAI_``;
3. it differs from a setting of :data:`MIN_LETTERS` letters or more by one typing error: a letter
   that is missing, added or wrong, or two letters in the wrong order; or
4. it is in :data:`ALIASES`.

Names of shorter settings are ordinary words, and many programs have such variables. The variables
that Kubernetes and Docker set for each service (``GOPROXYAI_PORT=tcp://10.0.0.1:8080``,
``GOPROXYAI_SERVICE_HOST``) are not reported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

MIN_LETTERS: Final = 8
"""Letters of a setting, without underscores, from which a typing error is recognised."""

ALIASES: Final[Mapping[str, str]] = {
    "OPENAI_BASE_URL": "OPENAI_API_URL",  # the official SDKs
    "OPENAI_API_BASE": "OPENAI_API_URL",  # their older releases
    "OPENAI_URL": "OPENAI_API_URL",
    "OPENAI_ENDPOINT": "OPENAI_API_URL",
    "UPSTREAM_URL": "OPENAI_API_URL",
    "OPENAI_PROXY": "PROXY_URL",
    "RATE_LIMIT_RPM": "RATE_LIMIT",
    "RATE_LIMIT_PER_MINUTE": "RATE_LIMIT",
    "CACHE_SIZE": "MAX_CACHE_SIZE",
    "UPSTREAM_TIMEOUT": "REQUEST_TIMEOUT",
    "SHUTDOWN_TIMEOUT": "DRAIN_TIMEOUT",
    "TRUST_PROXY": "TRUSTED_PROXIES",
    "TRUSTED_PROXY": "TRUSTED_PROXIES",
    "FORWARDED_ALLOW_IPS": "TRUSTED_PROXIES",  # uvicorn and gunicorn
    "LISTEN_ADDR": "LISTEN",
    "LISTEN_ADDRESS": "LISTEN",
}
"""Names of the same setting in other programs."""

_PREFIX: Final = "GOPROXYAI_"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{2,63}")
_SERVICE = re.compile(
    r".*_(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)=.*"
    r"|.*_PORT=[a-z]+://.*",
    re.DOTALL,
)


def near_misses(environ: Mapping[str, str], names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each name in *environ* that is probably meant to be a setting, and that setting.

    Not reported are variables without a value, and the lower-case form of a variable that is set.

    :param names: of all settings.
    """
    for name in sorted(environ):
        known = name in names or (name.islower() and name.upper() in environ)
        if known or not environ[name].strip() or not _NAME.fullmatch(name):
            continue
        if _SERVICE.fullmatch(f"{name}={environ[name]}") is None:
            meant = _meant(name.upper(), names)
            if meant is not None:
                yield name, meant


def _meant(name: str, names: Collection[str]) -> str | None:
    alias = ALIASES.get(name, name.removeprefix(_PREFIX))
    if alias in names:
        return alias
    letters, words = _letters(name), _words(name)
    for each in sorted(names):
        own = _letters(each)
        if letters == own or words == _words(each):
            return each
        if len(own) >= MIN_LETTERS and _one_edit_apart(letters, own):
            return each
    return None


def _letters(name: str) -> str:
    return name.replace("_", "")


def _words(name: str) -> list[str]:
    return sorted(name.split("_"))


def _one_edit_apart(one: str, other: str) -> bool:
    """Whether *one* becomes *other* by one insertion, deletion, substitution or transposition."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    one, other = one[start:], other[start:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return len(one) <= 1 >= len(other) or (len(one) == 2 and one == other[::-1])
