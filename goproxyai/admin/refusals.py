"""Errors that the admin app, the router and the daemon answer with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from goproxyai.errors import ProxyError

_NO_STORE: Final = (b"Cache-Control", b"no-store")
"""Caches may store a 404 or 405 without it (RFC 9110 §15.1)."""

_API: Final = b"/v1/"
_API_SEGMENTS: Final = frozenset(
    b"assistants audio batches chat completions containers conversations embeddings engines evals "
    b"files fine_tuning images models moderations organization realtime responses threads uploads "
    b"vector_stores videos".split()
)
"""First segments of the API's paths after ``/v1/``."""


def draining() -> ProxyError:
    """Return the 503 that is sent while the process is stopping."""
    return ProxyError(
        "draining", "The proxy is stopping. Send the request again, to another instance or later."
    )


def not_found(
    path: bytes = b"", prefixes: tuple[bytes, ...] = (_API,), *, elsewhere: bool = False
) -> ProxyError:
    """Return the 404 for *path*, which says if only ``/v1`` is missing.

    :param prefixes: of the relayed paths; empty if the listener does not serve the API.
    :param elsewhere: whether the listener for operators serves *path*.
    """
    api = b" or ".join(prefixes).decode("ascii")
    message = f"There is no endpoint at this path. The API is under {api}."
    if not prefixes:
        message = (
            "There is no endpoint at this path. This address (ADMIN_LISTEN) serves operators; the "
            "API is served at the addresses in LISTEN."
        )
    elif elsewhere:
        message = (
            "There is no endpoint at this path. This address (LISTEN) serves the API and health "
            "checks; the endpoints of operators are at the addresses in ADMIN_LISTEN."
        )
    elif _API in prefixes and path[1:].partition(b"/")[0] in _API_SEGMENTS:
        message = (
            "There is no endpoint at this path, but the API has one at the same path under /v1: "
            "the base URL of the client must end in /v1."
        )
    return ProxyError("not_found", message, (_NO_STORE,))


def method_not_allowed(methods: Iterable[bytes]) -> ProxyError:
    """Return the 405 of an endpoint that has *methods*."""
    allow = b", ".join(sorted(methods))
    message = "This endpoint does not have that method; see the Allow header."
    return ProxyError("method_not_allowed", message, ((b"Allow", allow), _NO_STORE))
