"""Step two: every request leaves one event, counted and written a moment after it is over.

A request costs one tuple and one ``append``; counting, formatting and writing happen in batches. An
event holds no query value, no header and no body: nothing that could be a secret.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from goproxyai.counters import Counters
from goproxyai.http11.exchange import Exchange
from goproxyai.policy.redaction import path_only

_log = Logger(namespace="goproxyai.log")

FLUSH_SECONDS = 0.05
"""For which an event waits for others."""

MOST_WAITING = 256
"""Events that wait; one more has them all written: about a millisecond of work."""

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
            named["upstream_request_id"] = self.request_id
        return named

    @property
    def request_id(self) -> str:
        """Upstream's name for the request, as text of a bounded length."""
        return self.upstream_request_id[:200].decode("latin-1")


_event: Callable[[tuple[Any, ...]], Event] = partial(tuple.__new__, Event)
"""An :class:`Event` of its parts in order."""

Write = Callable[[list[Event], float], None]
"""Gets events, oldest first, and the offset for :meth:`Event.fields`."""


class AccessLog:
    """Collects events, and sees to it that they are counted and written.

    :param write: ``None`` where nobody reads them.
    """

    def __init__(self, clock: IReactorTime, counters: Counters, write: Write | None) -> None:
        self._clock = clock
        self._seconds = clock.seconds
        self._counters = counters
        self._write = write
        self._waiting: list[tuple[Any, ...]] = []  # the parts of events
        self._flushing: IDelayedCall | None = None

    def write_to(self, write: Write | None) -> None:
        """Let others read the events that are not written yet, or nobody."""
        self.flush()
        self._write = write

    def over(
        self,
        exchange: Exchange,
        client: str,
        cache: str,
        code: str = "",
        detail: str = "",
        ended: str = "ok",
        upstream_seconds: float = -1.0,
        upstream_request_id: bytes = b"",
    ) -> None:
        """*exchange* is over: note its event."""
        began = exchange.began
        waiting = self._waiting
        waiting.append(
            (
                began, exchange.method, exchange.target, exchange.status or CLIENT_GONE, cache,
                client, exchange.body.received, exchange.sent, self._seconds() - began,
                upstream_seconds, code, detail, ended, upstream_request_id,
            )
        )  # fmt: skip
        if self._flushing is None:
            self._flushing = self._clock.callLater(FLUSH_SECONDS, self.flush)
        elif len(waiting) >= MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Count and write what waits."""
        flushing, self._flushing = self._flushing, None
        if flushing is not None and flushing.active():
            flushing.cancel()
        events, self._waiting = self._waiting, []
        if not events:
            return
        self._count(events)
        if self._write is not None:
            offset = time.time() - self._clock.seconds()
            try:
                self._write([_event(event) for event in events], offset)
            except Exception:  # a full disk is no reason to fail the request that filled the batch
                _log.failure("{count} events of requests were not written", count=len(events))

    def _count(self, events: list[tuple[Any, ...]]) -> None:
        counters = self._counters
        counters.finished += len(events)
        _, methods, targets, statuses, caches, _, came, went, spent, upstream, codes, _, ends, _ = (
            zip(*events, strict=True)
        )
        alike = Counter(zip(targets, methods, statuses, caches, strict=True))
        for outcome, count in alike.items():
            counters.note(*outcome, count)
        counters.bytes_in += sum(came)
        counters.bytes_out += sum(went)
        counters.times.add(list(spent))
        counters.upstream_times.add([seconds for seconds in upstream if seconds >= 0])
        for status, count in Counter(statuses).items():
            counters.statuses[status // 100] += count
        for code, count in Counter(filter(None, codes)).items():
            counters.errors[code] += count
        for ended, count in Counter(ends).items():
            if ended == "client_gone":
                counters.client_gone += count
            elif ended == "cut":
                counters.cut += count
