"""Step six: the answers of our own making, and the lines that we add to upstream's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from http import HTTPStatus

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from goproxyai.cache.store import Entry
from goproxyai.cache.stream_timing import pieces
from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.response import Response
from goproxyai.messages.headers import Headers, fields_of, is_kept, lines, relayed, tells_who_asked

SLICE = 64 * 1024
"""Bytes of a stored body that are written in one turn."""

COALESCED = "coalesced"
"""Why upstream was not asked: somebody else had asked it the same, and was being answered."""

FAILURES = frozenset((500, 502, 503, 504))
"""Statuses of an upstream that fails (RFC 5861 §4)."""

ALMOST = 0.0005
"""Seconds before its time at which a piece is due: clocks round."""

_JSON = (b"Content-Type", b"application/json")
_OURS = b"X-Proxy: goproxyai\r\nVia: 1.1 goproxyai\r\n"
_NAMED = b"X-Request-Id: "
_NAMED_TOO = b"X-Proxy-Request-Id: "  # where upstream names the request itself
_CHANGING = (
    b"%b\r\nAge: %d\r\nCache-Status: goproxyai; hit; ttl=%d\r\nServer-Timing: cache;dur=%.2f\r\n"
)
_CHANGING_FRAMED = _CHANGING + b"Content-Length: %d\r\n\r\n"
_TIMING = b"Server-Timing: proxy;dur=%.2f, upstream;dur=%.2f\r\n%b%b\r\n"
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
    if reason in ("miss", "request", "stale"):
        status += f"; fwd={reason}"
    elif reason == COALESCED:
        status += "; fwd=miss; collapsed"
    elif reason:
        status += "; fwd=bypass"
        detail = detail or reason
    if detail:
        status += f"; detail={detail}"
    return b"X-Cache: MISS\r\nCache-Status: %b\r\n%b" % (status.encode("ascii"), _OURS)


def forwarded_lines(
    name: bytes, named: bool, reason: str, proxy_seconds: float, upstream_seconds: float
) -> bytes:
    """What is added to an answer of upstream's.

    :param name: of the exchange. :param named: whether upstream gives it one, too.
    :param reason: ``miss``, ``request`` or ``stale``, :data:`COALESCED`, or why the cache was
        left aside.
    """
    return _ours(reason) + _TIMING % (
        proxy_seconds * 1000, upstream_seconds * 1000, _NAMED_TOO if named else _NAMED, name
    )  # fmt: skip


def interim(status: int, reason: bytes, headers: Headers) -> bytes:
    """An interim answer as it is passed on, without the blank line that ends it."""
    passing = relayed(headers, fields_of(headers)[0])
    kept = lines([pair for pair in passing if pair[0].lower() != b"content-length"])
    return b"HTTP/1.1 %d %b\r\n%b" % (status, reason, kept)


def kept_lines(response: Response, shared: bool) -> bytes:
    """Upstream's header lines, as others get them than who asked.

    :param shared: whether they may hold another credential.
    """
    if not shared:
        return response.template.kept_lines(response.values, response.fields)
    kept = relayed(response.raw_headers, response.fields)
    names = [pair[0].lower() for pair in kept]
    return lines(
        [
            pair
            for name, pair in zip(names, kept, strict=True)
            if is_kept(name) and not tells_who_asked(name)
        ]
    )


@lru_cache(maxsize=8)
def stored_lines(stored_wall: int, named: bool) -> bytes:
    """What is added to an answer as it is stored; the last line has no value yet.

    :param stored_wall: unix time in seconds. :param named: whether upstream's name for the request
        is among what is stored.
    """
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stored_wall)).encode("ascii")
    name = _NAMED_TOO if named else _NAMED
    return b"X-Cache: HIT\r\nX-Cache-Timestamp: %b\r\n%b%b" % (stamp, _OURS, name)


def hit(exchange: Exchange, entry: Entry, now: float, detail: str = "") -> Replay | None:
    """Answer from the cache, at once.

    :param detail: more for ``Cache-Status`` to say.
    :returns: who still has something to write, or ``None`` where everything is written.
    """
    body = entry.body
    size = len(body)
    age, ttl, spent = entry.age(now), entry.expires_at - now, (now - exchange.began) * 1000
    if exchange.keeps_connection() and size <= SLICE and entry.pace is None and not detail:
        message = (
            entry.head + _CHANGING_FRAMED % (exchange.request_id, age, ttl, spent, size) + body
        )
        exchange.send_response(entry.status, message, size)
        return None
    head = entry.head + _changing(exchange.request_id, age, ttl, spent, detail)
    exchange.start_response(entry.status, head, size if entry.pace is None else None)
    if size <= SLICE:
        exchange.write(body, True)
        return None
    return Replay(exchange, body)


def paced_hit(exchange: Exchange, entry: Entry, now: float, clock: IReactorTime) -> PacedReplay:
    """Answer from the cache with a stream, as it came the first time."""
    spent = (now - exchange.began) * 1000
    changing = _changing(
        exchange.request_id, entry.age(now), entry.expires_at - now, spent, "paced"
    )
    head = entry.head + changing
    exchange.start_response(entry.status, head, None)
    exchange.flush()
    return PacedReplay(exchange, entry.body, pieces(entry.pace or b""), clock)


def _changing(name: bytes, age: int, ttl: float, spent: float, detail: str) -> bytes:
    """The lines of a hit that are said anew each time."""
    text = _CHANGING % (name, age, ttl, spent)
    if detail:
        status = b"; ttl=%d" % ttl
        text = text.replace(status, status + b"; detail=" + detail.encode("ascii"), 1)
    return text


def _nothing() -> None:
    """What is done at the end of a replay that was never started."""


@implementer(IPushProducer)
class Replay:
    """Writes a large stored body as fast as the client takes it, a slice at a time.

    The body is the cache's own bytes; what is copied for the client is at most two slices.

    :param at: where to begin.
    """

    def __init__(self, exchange: Exchange, body: bytes, at: int = 0) -> None:
        self._exchange = exchange
        self._body = memoryview(body)
        self._at = at
        self._paused = False
        self._writing = False
        self._done: Callable[[], None] = _nothing

    def start(self, done: Callable[[], None]) -> None:
        """Begin to write; *done* is called once everything is."""
        self._done = done
        self._exchange.register_producer(self)
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


class PacedReplay(Replay):
    """Writes the pieces of a stored stream no earlier than they came the first time.

    A client that does not keep up gets what it missed as soon as it does: the replay never takes
    longer than the client needs or the original took.

    :param pieces: when each came, in seconds since the first, and where in *body* it ends.
    """

    def __init__(
        self,
        exchange: Exchange,
        body: bytes,
        pieces: Iterator[tuple[float, int]],
        clock: IReactorTime,
    ) -> None:
        super().__init__(exchange, body)
        self._pieces = pieces
        self._piece = next(pieces, None)
        self._clock = clock
        self._began = clock.seconds()
        self._waiting: IDelayedCall | None = None

    def _go_on(self) -> None:
        self._waiting = None
        elapsed = self._clock.seconds() - self._began
        while not self._paused and not self._exchange.over:
            due = self._piece
            if due is not None and due[0] - elapsed > ALMOST:
                self._waiting = self._clock.callLater(due[0] - elapsed, self._go_on)
                return
            self._write(due)

    def _write(self, due: tuple[float, int] | None) -> None:
        """The piece that is due, in slices; behind the last comes the end."""
        last = due is None
        end = len(self._body) if due is None else due[1]
        piece = bytes(self._body[self._at : min(end, self._at + SLICE)])
        self._at += len(piece)
        last = last and self._at == len(self._body)
        if self._at >= end:
            self._piece = next(self._pieces, None)
        self._exchange.write(piece, last)
        if last:
            self._done()

    def resumeProducing(self) -> None:
        """It does."""
        self._paused = False
        if self._waiting is None:
            self._go_on()

    def stopProducing(self) -> None:
        """It is gone."""
        super().stopProducing()
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def problem(exchange: Exchange, trouble: ProxyError, reason: str = "") -> None:
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
    if exchange.request_id:
        header_lines += b"%b%b\r\n" % (_NAMED, exchange.request_id)
    exchange.start_response(status, status_line(status, _phrase(status)) + header_lines, len(body))
    exchange.write(body, True)
