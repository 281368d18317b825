"""The files of the dashboard's page, read once; they hold nothing that anybody must not see."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

PAGE: Final = "index.html"

KINDS: Final = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}

HEADERS: Final = (
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
"""What goes with each of them: nothing is loaded from elsewhere, nothing runs that is not a file of
ours, nobody puts the page into a frame."""


@cache
def assets() -> dict[str, tuple[bytes, bytes]]:
    """Media type and content of each, by name."""
    found = {}
    for file in (files("goproxyai.admin") / "dashboard").iterdir():
        kind = KINDS.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            found[file.name] = kind, file.read_bytes()
    return found
