"""Step six: the answers of our own making, and the lines that we add to upstream's."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from goproxyai.http11.exchange import Exchange
from goproxyai.policy.headers import Headers, lines
from goproxyai.policy.store import Entry
from goproxyai.problems import Problem

SLICE = 64 * 1024
"""Bytes of a stored body that are written in one turn."""

_JSON = (b"Content-Type", b"application/json")
_OURS = b"X-Proxy: goproxyai\r\nVia: 1.1 goproxyai\r\n"
_CHANGING = b"Age: %d\r\nCache-Status: goproxyai; hit; ttl=%d\r\nServer-Timing: cache;dur=%.2f\r\n"
_CHANGING_FRAMED = _CHANGING + b"Content-Length: %d\r\n\r\n"
_LIMITED = b'{"error":"Rate limit exceeded. Please try again later.","code":"RATE_LIMIT_EXCEEDED"}'


@lru_cache(maxsize=128)
def status_line(status: int, phrase: bytes) -> bytes:
    """The status line of an answer."""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase)


def _phrase(status: int) -> bytes:
    """The reason phrase of an answer of our own."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


@lru_cache(maxsize=256)
def _ours(reason: str, detail: str = "") -> bytes:
    """The lines of an answer that did not come from the cache (RFC 9211 §2).

    :param reason: why upstream was asked; empty where it was not.
    """
    status = "goproxyai"
    if reason in ("miss", "request"):
        status += f"; fwd={reason}"
    elif reason:
        status += "; fwd=bypass"
        detail = detail or reason
    if detail:
        status += f"; detail={detail}"
    return b"X-Cache: MISS\r\nCache-Status: %b\r\n%b" % (status.encode("ascii"), _OURS)


def forwarded_lines(reason: str, proxy_seconds: float, upstream_seconds: float) -> bytes:
    """What is added to an answer of upstream's.

    :param reason: ``miss`` or ``request``, or why the cache was left aside.
    """
    timing = b"Server-Timing: proxy;dur=%.2f, upstream;dur=%.2f\r\n"
    return _ours(reason) + timing % (proxy_seconds * 1000, upstream_seconds * 1000)


def stored_headers(headers: Headers, stored_wall: float) -> Headers:
    """The lines of a stored answer that stay the same from hit to hit.

    :param stored_wall: unix time at which it was stored.
    """
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stored_wall)).encode("ascii")
    return [
        *headers,
        (b"X-Cache", b"HIT"),
        (b"X-Cache-Timestamp", stamp),
        (b"X-Proxy", b"goproxyai"),
        (b"Via", b"1.1 goproxyai"),
    ]


def hit(exchange: Exchange, entry: Entry, now: float) -> Replay | None:
    """Answer from the cache.

    :returns: who still has something to write, or ``None`` where everything is written.
    """
    body = entry.body
    size = len(body)
    age, ttl, spent = entry.age(now), entry.expires_at - now, (now - exchange.began) * 1000
    if exchange.simple and size <= SLICE and not entry.stream:
        message = entry.head + _CHANGING_FRAMED % (age, ttl, spent, size) + body
        exchange.answer(entry.status, message, size)
        return None
    head = entry.head + _CHANGING % (age, ttl, spent)
    exchange.begin(entry.status, head, None if entry.stream else size)
    if size <= SLICE:
        exchange.write(body, True)
        return None
    return Replay(exchange, body)


def _nothing() -> None:
    """What is done at the end of a replay that was never started."""


@implementer(IPushProducer)
class Replay:
    """Writes a large stored body as fast as the client takes it, a slice at a time.

    The body is the cache's own bytes; what is copied for the client is at most two slices.
    """

    def __init__(self, exchange: Exchange, body: bytes) -> None:
        self._exchange = exchange
        self._body = memoryview(body)
        self._at = 0
        self._paused = False
        self._writing = False
        self._done: Callable[[], None] = _nothing

    def start(self, done: Callable[[], None]) -> None:
        """Begin to write; *done* is called once everything is."""
        self._done = done
        self._exchange.source(self)
        self._go_on()

    def _go_on(self) -> None:
        if self._writing:
            return
        self._writing = True
        exchange = self._exchange
        while not self._paused and not exchange.over:
            end = self._at + SLICE
            piece = bytes(self._body[self._at : end])
            self._at = end
            exchange.write(piece, end >= len(self._body))
            if end >= len(self._body):
                self._done()
        self._writing = False

    def pauseProducing(self) -> None:
        """The client does not keep up."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It does."""
        self._paused = False
        self._go_on()

    def stopProducing(self) -> None:
        """It is gone."""
        self._paused = True


def problem(exchange: Exchange, trouble: Problem, reason: str = "") -> None:
    """Answer with one of the proxy's own errors.

    :param reason: why upstream was asked; empty where it was not.
    """
    body = trouble.body()
    if exchange.target.startswith(b"/v1/") or exchange.problem is not None:
        ours = _ours(reason, trouble.code.replace("_", "-"))
    else:
        ours = _OURS
    _whole(exchange, trouble.status, lines((_JSON, *trouble.headers)) + ours, body)


def limited(exchange: Exchange, headers: Headers) -> None:
    """Answer that the client is over its rate; *headers* say when it may come back."""
    _whole(exchange, 429, lines((_JSON, *headers)) + _ours("", "rate-limit"), _LIMITED)


def _whole(exchange: Exchange, status: int, header_lines: bytes, body: bytes) -> None:
    exchange.begin(status, status_line(status, _phrase(status)) + header_lines, len(body))
    exchange.write(body, True)
