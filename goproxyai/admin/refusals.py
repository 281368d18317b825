"""Errors that the admin app, the router and the daemon answer with."""

from __future__ import annotations

from goproxyai.errors import ProxyError


def draining() -> ProxyError:
    """Return the 503 that is sent while the process is stopping."""
    return ProxyError(
        "draining", "The proxy is stopping. Send the request again, to another instance or later."
    )


def not_found() -> ProxyError:
    return ProxyError("not_found", "There is no endpoint at this path. The API is under /v1/.")
