"""Settings that are valid and probably not intended; each is reported by one warning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from goproxyai.config.near_misses import near_misses
from goproxyai.config.urls import redact_url, upstreams_with_version
from goproxyai.config.variables import VARIABLES
from goproxyai.upstream.no_proxy import invalid_entries

PROXY_NAMES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
"""Variables that name the egress proxy of other programs."""

CLIENT_NAMES = {"OPENAI_BASE_URL", "OPENAI_API_BASE"}
"""Variables that name the base URL to the official clients, present and older ones."""

MAX_NAMED_ENTRIES = 5
"""Entries of a list that a warning names."""

_NAMES = frozenset(variable.name for variable in VARIABLES)


def likely_mistakes(texts: Mapping[str, str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the warnings, without secrets.

    :param texts: the valid texts of the variables that are set.
    :param environ: the environment of the process.
    """
    return (
        *_versions_in_urls(texts.get("OPENAI_API_URL", "")),
        *_skipped_entries(texts.get("NO_PROXY", "")),
        *_unused_proxy(texts, environ),
        *_near_misses(texts, environ),
    )


def _versions_in_urls(text: str) -> Iterator[str]:
    for url in upstreams_with_version(text):
        yield (
            f"OPENAI_API_URL has {url}, expected a URL without /v1, because the paths of requests "
            "begin with it; the /v1 is dropped"
        )


def _skipped_entries(text: str) -> Iterator[str]:
    invalid = [ascii(redact_url(entry)[:64]) for entry in invalid_entries(text)]
    if invalid:
        more = len(invalid) - MAX_NAMED_ENTRIES
        named = ", ".join(invalid[:MAX_NAMED_ENTRIES]) + (f" and {more} more" if more > 0 else "")
        yield (
            f"NO_PROXY has {named}, expected hosts, .suffixes, addresses or networks; "
            "these entries are skipped"
        )


def _unused_proxy(texts: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    given = [name for name in PROXY_NAMES if environ.get(name, "").strip()]
    if given and "PROXY_URL" not in texts:
        yield (
            f"{given[0]} is set and has no effect: upstreams are connected to directly; set "
            "PROXY_URL to use an egress proxy, or to an empty value for direct connections"
        )


def _near_misses(texts: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    for name, meant in near_misses(environ, _NAMES):
        if name.upper() in CLIENT_NAMES:
            yield f"{name} is set and has no effect: it is for clients; {meant} sets the upstream"
        elif meant != "NO_PROXY" or "PROXY_URL" in texts:  # `no_proxy` is for other programs
            yield f"{name} is set and is not a setting of goproxyai; did you mean {meant}?"
