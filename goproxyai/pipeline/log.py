"""Step two: every request leaves one event, written when it is over.

A request costs one tuple and one ``append``; formatting and writing happen in batches, a moment
later. An event holds no query value, no header and no body: nothing that could be a secret.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from goproxyai.counters import Counters
from goproxyai.http11.exchange import Exchange
from goproxyai.policy.redaction import path_only

FLUSH_SECONDS = 0.05
"""For which an event waits for others."""

MOST_WAITING = 5_000
"""Events that wait; the next one is written together with them at once."""

CLIENT_GONE = 499
"""The status in the log of a request whose client left before there was one."""


class Event(NamedTuple):
    """One request, over.

    :ivar cache: ``HIT``, ``MISS``, or why the cache was left aside.
    :ivar ended: ``ok``, ``client_gone`` or ``cut`` (by upstream).
    :ivar seconds: from the head of the request to the end of the answer.
    :ivar upstream_seconds: from forwarding to upstream's head; negative where there was none.
    """

    began: float
    method: bytes
    target: bytes
    status: int
    cache: str
    client: str
    bytes_in: int
    bytes_out: int
    seconds: float
    upstream_seconds: float
    code: str
    detail: str
    ended: str
    upstream_request_id: bytes

    def fields(self, wall_offset: float) -> dict[str, Any]:
        """As named values; *wall_offset* turns reactor seconds into unix time."""
        ms = {"total": round(self.seconds * 1000, 3)}
        if self.upstream_seconds >= 0:
            ms["upstream"] = round(self.upstream_seconds * 1000, 3)
            ms["proxy"] = round((self.seconds - self.upstream_seconds) * 1000, 3)
        named: dict[str, Any] = {
            "time": self.began + wall_offset,
            "method": self.method.decode("ascii", "replace"),
            "path": path_only(self.target),
            "status": self.status,
            "cache": self.cache,
            "client": self.client,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "ms": ms,
            "ended": self.ended,
        }
        if self.code:
            named["code"] = self.code
        if self.detail:
            named["detail"] = self.detail
        if self.upstream_request_id:
            named["upstream_request_id"] = self.upstream_request_id[:200].decode("latin-1")
        return named


class AccessLog:
    """Collects events and hands them on in batches.

    :param write: gets the events as named values, oldest first; ``None`` where nobody reads them.
    """

    def __init__(
        self,
        clock: IReactorTime,
        counters: Counters,
        write: Callable[[list[dict[str, Any]]], None] | None,
    ) -> None:
        self._clock = clock
        self._counters = counters
        self._write = write
        self._waiting: list[Event] = []
        self._flushing: IDelayedCall | None = None

    def over(
        self,
        exchange: Exchange,
        client: str,
        cache: str,
        *,
        status: int = 0,
        code: str = "",
        detail: str = "",
        ended: str = "ok",
        upstream_seconds: float = -1.0,
        upstream_request_id: bytes = b"",
    ) -> None:
        """*exchange* is over: count it, and note its event."""
        status = status or exchange.status or CLIENT_GONE
        seconds = self._clock.seconds() - exchange.began
        body = exchange.body
        counters = self._counters
        counters.finished += 1
        counters.bytes_in += body.received
        counters.bytes_out += exchange.sent
        counters.statuses[status // 100] += 1
        counters.times.add(seconds)
        if upstream_seconds >= 0:
            counters.upstream_times.add(upstream_seconds)
        if code:
            counters.errors[code] += 1
        if ended == "client_gone":
            counters.client_gone += 1
        elif ended == "cut":
            counters.cut += 1
        if self._write is None:
            return
        self._waiting.append(
            Event(
                exchange.began, exchange.method, exchange.target, status, cache, client,
                body.received, exchange.sent, seconds, upstream_seconds, code, detail, ended,
                upstream_request_id,
            )
        )  # fmt: skip
        if self._flushing is None:
            self._flushing = self._clock.callLater(FLUSH_SECONDS, self.flush)
        elif len(self._waiting) >= MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        flushing, self._flushing = self._flushing, None
        if flushing is not None and flushing.active():
            flushing.cancel()
        events, self._waiting = self._waiting, []
        if events and self._write is not None:
            offset = time.time() - self._clock.seconds()
            self._write([event.fields(offset) for event in events])
