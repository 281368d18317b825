"""The header lines that the proxy adds to a response: ``X-Cache``, ``Cache-Status``, ``Via``, …

The functions return whole lines as bytes. Lines that are equal for many responses are cached,
because formatting them takes longer than sending them.
"""

from __future__ import annotations

import time
from functools import lru_cache
from http import HTTPStatus

from goproxyai.cache.entry import HEAD_AT, Entry
from goproxyai.http11.response import Response
from goproxyai.messages.headers import (
    Fields,
    Headers,
    has_request_id,
    identifies_credential,
    index_fields,
    is_shareable,
    response_headers_for_client,
    serialize_headers,
)
from goproxyai.messages.websocket import UPGRADE_LINES

COALESCED = "coalesced"
"""The forwarding reason of a response that another client's upstream request delivered."""

JSON_TYPE = (b"Content-Type", b"application/json")

_PROXY = b"X-Proxy: goproxyai\r\nVia: 1.1 goproxyai\r\n"
_REQUEST_ID = b"X-Request-Id: "
_PROXY_REQUEST_ID = b"X-Proxy-Request-Id: "  # used where upstream's own X-Request-Id is relayed
_HIT = b"%b\r\nAge: %d\r\nCache-Status: goproxyai; hit; ttl=%d\r\nServer-Timing: cache;dur=%.2f\r\n"
_HIT_WITH_LENGTH = _HIT + b"Content-Length: %d\r\n\r\n"
_UNBUFFERED = b"X-Accel-Buffering: no\r\n"
_TIMING = b"Server-Timing: proxy;dur=%.2f, upstream;dur=%.2f\r\n%b%b\r\n"


@lru_cache(maxsize=128)
def status_line(status: int, phrase: bytes) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase)


def own_status_line(status: int) -> bytes:
    """Return the status line of a response that the proxy makes itself."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return status_line(status, phrase.encode("ascii"))


@lru_cache(maxsize=256)
def cache_lines(reason: str, detail: str = "") -> bytes:
    """Return the cache lines of a response that is not a hit (RFC 9211 §2).

    :param reason: why the request was forwarded: ``miss``, ``request``, ``stale``,
        :data:`COALESCED` or a bypass reason; empty for a request that was not forwarded.
    """
    status = "goproxyai"
    if reason in ("miss", "request", "stale"):
        status += f"; fwd={reason}"
    elif reason == COALESCED:
        status += "; fwd=miss; collapsed"
    elif reason:
        status += "; fwd=bypass"
        detail = detail or reason
    if detail:
        status += f"; detail={detail}"
    return b"X-Cache: MISS\r\nCache-Status: %b\r\n%b" % (status.encode("ascii"), _PROXY)


def stream_lines(fields: Fields) -> bytes:
    """Return the line that keeps nginx from buffering an event stream.

    :param fields: of an event stream; a field of upstream's own is kept instead.
    """
    return b"" if b"x-accel-buffering" in fields else _UNBUFFERED


def forwarded_head(
    response: Response,
    request_id: bytes,
    reason: str,
    proxy_seconds: float,
    upstream_seconds: float,
) -> bytes:
    """Return status line and header lines for the client whose request was forwarded.

    :param reason: as in :func:`cache_lines`.
    :param proxy_seconds: from the request's head to its forwarding.
    :param upstream_seconds: from the forwarding to the response's head.
    """
    has_id = has_request_id(response.fields)
    return (  # concatenation of bytes takes a quarter of the time of a format
        status_line(response.code, response.phrase)
        + response.relayed_lines()
        + (stream_lines(response.fields) if response.is_event_stream else b"")
        + cache_lines(reason)
        + _TIMING
        % (
            proxy_seconds * 1000,
            upstream_seconds * 1000,
            _PROXY_REQUEST_ID if has_id else _REQUEST_ID,
            request_id,
        )
    )


def switched_head(
    response: Response, request_id: bytes, proxy_seconds: float, upstream_seconds: float
) -> bytes:
    """Return status line and header lines of a response with status 101.

    :param proxy_seconds: and *upstream_seconds* as in :func:`forwarded_head`.
    """
    kept = [
        pair
        for pair in response_headers_for_client(response.raw_headers, response.fields)
        if pair[0].lower() != b"content-length"  # RFC 9110 §8.6
    ]
    id_field = _PROXY_REQUEST_ID if has_request_id(response.fields) else _REQUEST_ID
    return (
        status_line(response.code, response.phrase)
        + UPGRADE_LINES
        + serialize_headers(kept)
        + cache_lines("upgrade")
        + _TIMING % (proxy_seconds * 1000, upstream_seconds * 1000, id_field, request_id)
    )


def coalesced_head(
    response: Response, request_id: bytes, across_credentials: bool, waited_seconds: float
) -> bytes:
    """Return status line and header lines for a client that shares another client's response.

    :param across_credentials: the clients may have different credentials.
    """
    has_id = has_request_id(response.fields) and not across_credentials
    age = response.fields.get(b"age")
    return (
        status_line(response.code, response.phrase)
        + shared_lines(response, across_credentials)
        + (stream_lines(response.fields) if response.is_event_stream else b"")
        + cache_lines(COALESCED)
        + _TIMING
        % (0.0, waited_seconds * 1000, _PROXY_REQUEST_ID if has_id else _REQUEST_ID, request_id)
        + (b"" if age is None else b"Age: %b\r\n" % age)
    )


def interim_head(status: int, phrase: bytes, headers: Headers) -> bytes:
    """Return the head of an interim response (RFC 9110 §15.2), without the final blank line."""
    kept = [
        pair
        for pair in response_headers_for_client(headers, index_fields(headers)[0])
        if pair[0].lower() != b"content-length"
    ]
    return status_line(status, phrase) + serialize_headers(kept)


def shared_lines(response: Response, across_credentials: bool) -> bytes:
    """Return the header lines of *response* for clients other than the one that requested it.

    :param across_credentials: those clients may have other credentials.
    """
    if not across_credentials:
        return response.template.shareable_lines(response.values, response.fields)
    return serialize_headers(
        [
            (name, value)
            for name, value in response_headers_for_client(response.raw_headers, response.fields)
            if is_shareable(name.lower()) and not identifies_credential(name.lower())
        ]
    )


@lru_cache(maxsize=8)
def stored_lines(stored_at: int, upstream_has_id: bool) -> bytes:
    """Return the lines that are added to a response when it is stored.

    The last line is the request ID field without its value, which :func:`hit_lines` adds.

    :param stored_at: Unix time in seconds.
    :param upstream_has_id: upstream's ``X-Request-Id`` is among the stored lines.
    """
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stored_at)).encode("ascii")
    request_id = _PROXY_REQUEST_ID if upstream_has_id else _REQUEST_ID
    return b"X-Cache: HIT\r\nX-Cache-Timestamp: %b\r\n%b%b" % (stamp, _PROXY, request_id)


def hit_lines(
    entry: Entry, request_id: bytes, now: float, lookup_seconds: float, detail: str = ""
) -> bytes:
    """Return the lines that follow the stored head of *entry*.

    :param detail: a ``detail`` parameter for ``Cache-Status``; empty for none.
    """
    ttl = entry.expires_at - now
    text = _HIT % (request_id, entry.age(now), ttl, lookup_seconds * 1000)
    if detail:
        status = b"; ttl=%d" % ttl
        text = text.replace(status, status + b"; detail=" + detail.encode("ascii"), 1)
    return text


def hit_message(entry: Entry, request_id: bytes, now: float, lookup_seconds: float) -> bytes:
    """Return *entry* as one complete message, framed by its length."""
    # Attributes instead of properties and methods: 0.4 us less, of the 5.5 us of a hit.
    passed = now - entry.stored_at
    age = entry.initial_age + int(passed) if passed > 0 else entry.initial_age
    extra = entry.extra
    if extra is None:
        text, end = entry.text, entry.head_end
        changing = _HIT_WITH_LENGTH % (
            request_id, age, entry.lifetime - passed, lookup_seconds * 1000, len(text) - end,
        )  # fmt: skip
        return text[HEAD_AT:end] + changing + text[end:]
    body = entry.body
    changing = _HIT_WITH_LENGTH % (
        request_id, age, entry.lifetime - passed, lookup_seconds * 1000, len(body),
    )  # fmt: skip
    return entry.head + changing + body


def own_lines(request_id: bytes, headers: Headers, cached: bytes = _PROXY) -> bytes:
    """Return the header lines of a JSON response that the proxy makes itself.

    :param cached: the lines of :func:`cache_lines` where the request was to be relayed.
    """
    text = serialize_headers([JSON_TYPE, *headers]) + cached
    return text + b"%b%b\r\n" % (_REQUEST_ID, request_id) if request_id else text
