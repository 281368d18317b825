"""Other protocols that clients send to an HTTP/1.1 port by mistake, by their first bytes."""

from __future__ import annotations

from typing import Final

_TLS_HANDSHAKE: Final = b"\x16"
_HTTP_2_PREFACE: Final = b"PRI * HTTP/2.0\r\n"
_PROXY_V1: Final = b"PROXY "
_PROXY_V2: Final = b"\x00\r\nQUIT\n"  # after two blank lines, which the parser skips

_PROXY_ADVICE: Final = (
    "put haproxy: before the endpoint in LISTEN, or turn the PROXY protocol off in the load "
    "balancer"
)

_PROTOCOLS: Final = (
    (_TLS_HANDSHAKE, "a TLS handshake", "use http:// in the client, or ssl: in LISTEN"),
    (_HTTP_2_PREFACE, "the preface of HTTP/2", "use HTTP/1.1 in the client"),
    (_PROXY_V1, "a header of the PROXY protocol", _PROXY_ADVICE),
    (_PROXY_V2, "a header of the PROXY protocol", _PROXY_ADVICE),
)
"""First bytes, what they are, and what to do."""

FOREIGN_START_BYTES: Final = max(len(first_bytes) for first_bytes, _, _ in _PROTOCOLS)
"""Bytes that :func:`foreign_protocol` needs."""


def foreign_protocol(data: bytes) -> tuple[str, str] | None:
    """Return what *data* begins with, and what to do; ``None`` if it is no known protocol.

    :param data: the first bytes of a connection after blank lines, which llhttp has refused.
    """
    for first_bytes, name, advice in _PROTOCOLS:
        if data.startswith(first_bytes):
            return name, advice
    return None
