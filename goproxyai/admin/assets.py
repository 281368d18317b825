"""The files of the dashboard page. They hold no data, so every client may read them."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files
from typing import Final

PAGE: Final = "index.html"

REFUSED_PAGE: Final = "refused.html"
"""A template, see :func:`refused_page`."""

PAGES: Final = frozenset((PAGE, REFUSED_PAGE))
"""Files that are not served by their names."""

CONTENT_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
"""By file name suffix; other files are not served."""

SECURITY_HEADERS: Final = (
    (
        b"Content-Security-Policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)
"""Response headers of every file: the page loads and runs only files of its own origin, and no
other page may frame it."""


@cache
def assets() -> dict[str, tuple[bytes, bytes]]:
    """Return content type and content of each file, by file name."""
    found = {}
    for file in (files("goproxyai.admin") / "dashboard").iterdir():
        content_type = CONTENT_TYPES.get(file.name[file.name.rfind(".") :])
        if content_type is not None:
            found[file.name] = content_type, file.read_bytes()
    return found


def refused_page(reason: str, peer: str) -> bytes:
    """Return the page that tells a refused browser what to set.

    :param reason: of the refusal.
    :param peer: the address of the connection's peer.
    """
    page = assets()[REFUSED_PAGE][1].decode("utf-8")
    page = page.replace("{peer}", escape(peer)).replace("{reason}", escape(reason))
    return page.encode("utf-8")
