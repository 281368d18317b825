"""The bytes around a message: what a request's head promises, heads and chunks on the wire."""

from __future__ import annotations

from collections.abc import Iterable

from goproxyai.policy.headers import Fields, Headers
from goproxyai.policy.targets import check_host, origin_form
from goproxyai.problems import Problem

MOST_HEADER_BYTES = 64 * 1024
"""Bytes of header lines in one head."""

MOST_FIELDS = 200
"""Header lines in one head."""

LAST_CHUNK = b"0\r\n\r\n"

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def headers_too_large() -> Problem:
    """The 431 of the contract."""
    return Problem("headers_too_large", "The header exceeds 64 KiB or 200 fields; send less.")


def judge_head(
    version: str, target: bytes, headers: Headers, fields: Fields, repeated: bool
) -> tuple[bytes, int | None]:
    """Judge what llhttp lets pass (RFC 9112 §3.2, §6.1, §6.3).

    :returns: the target in origin-form, and the body's length (``None``: chunked).
    :raises Problem: why the request is refused at the door.
    """
    if version not in ("1.1", "1.0"):
        raise Problem("bad_request", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    hosts = sum(name.lower() == b"host" for name, _ in headers) if repeated else 1
    check_host(fields.get(b"host"), hosts > 1)
    target = origin_form(target, fields[b"host"])
    coding = fields.get(b"transfer-encoding")
    if coding is None:
        return target, int(fields.get(b"content-length", b"0"))
    if version == "1.0":
        raise Problem("bad_request", "Transfer-Encoding has no meaning in HTTP/1.0.")
    if coding.strip(b" \t").lower() != b"chunked":
        raise Problem("bad_request", "The only Transfer-Encoding understood is chunked.")
    return target, None


def expects_continue(version: str, fields: Fields) -> bool:
    """Whether the client waits for ``100 Continue`` (RFC 9110 §10.1.1).

    :raises Problem: ``bad_request`` for an expectation that nobody can meet.
    """
    expect = fields.get(b"expect")
    if expect is None or version == "1.0":
        return False
    if expect.strip(b" \t").lower() != b"100-continue":
        raise Problem("bad_request", "The only Expect understood is 100-continue.")
    return True


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header lines on the wire, without the blank line that ends them."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 §7.1); nothing for no data, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
