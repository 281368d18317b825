"""Step two: every request leaves one event, counted and written a moment after it is over.

A request costs one list and one ``append``; counting, formatting and writing happen in batches. An
event holds no query value, no header and no body: nothing that could be a secret.

All events are counted. Of what went well and was not slow, a part is written (``LOG_SAMPLE``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from random import random
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from goproxyai.cache.store import Entry
from goproxyai.http11.exchange import Exchange, Trace
from goproxyai.messages.redaction import path_only
from goproxyai.telemetry.aggregate import counted
from goproxyai.telemetry.counters import CLIENT_GONE, Counters
from goproxyai.usage.usage import Usage

_log = Logger(namespace="goproxyai.log")

FLUSH_SECONDS = 0.05
"""For which an event waits for others."""

MOST_WAITING = 256
"""Events that wait; one more has them all written: about a millisecond of work."""

MOST_FAILURES = 50
"""Of the last requests that failed, how many are remembered for people to look at."""


class Batch(NamedTuple):
    """What holds for all events that are written at a time.

    :ivar offset: turns reactor seconds into unix time.
    :ivar slow: and :ivar sample: as of :class:`AccessLog`.
    """

    offset: float
    slow: float = inf
    sample: float = 1.0


Bill = bytes | Usage | Entry | None
"""What an event knows of tokens, see :attr:`Event.bill`."""


class Event(NamedTuple):
    """One request, over.

    :ivar cache: ``HIT``, ``MISS``, or why the cache was left aside.
    :ivar ended: ``ok``, ``client_gone`` or ``cut`` (by upstream).
    :ivar seconds: from the head of the request to the end of the answer.
    :ivar upstream_seconds: from forwarding to upstream's head; negative where there was none.
    :ivar first_seconds: from the head of the request to the first byte of the answer; negative
        where that is :attr:`seconds`, since the answer was one piece, or there was none.
    :ivar bill: tokens of the answer, where it says so and came whole; of one from the cache, where
        it lies. Until the event is counted it may be the answer's body, see :mod:`.aggregate`.
    :ivar name: see :mod:`.identify`.
    :ivar trace: a :class:`Trace`, where there is a :class:`Tracer`.
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
    first_seconds: float
    bill: Bill
    name: bytes
    trace: Trace | None

    @property
    def usage(self) -> Usage | None:
        """Tokens of the answer, where it says so and came whole."""
        return self.bill.tokens() if isinstance(self.bill, Entry) else self.bill  # type: ignore[return-value]  # it is counted

    @property
    def waited(self) -> float:
        """Seconds until the first byte of the answer, or the end of all hope."""
        return self.seconds if self.first_seconds < 0 else self.first_seconds

    @property
    def failed(self) -> bool:
        """Whether somebody may have to look into it."""
        return bool(self.code) or self.status >= 500 or self.ended == "cut"

    def stands_out(self, slow: float) -> bool:
        """Whether it is written whatever the sample: it went wrong, or was slow."""
        return self.status >= 400 or self.ended != "ok" or self.waited >= slow

    def fields(self, batch: Batch) -> dict[str, Any]:
        """As named values."""
        ms = {"total": round(self.seconds * 1000, 3)}
        if self.upstream_seconds >= 0:
            ms["upstream"] = round(self.upstream_seconds * 1000, 3)
            ms["proxy"] = round((self.waited - self.upstream_seconds) * 1000, 3)
        if self.first_seconds >= 0:
            ms["first_byte"] = round(self.first_seconds * 1000, 3)
        named: dict[str, Any] = {
            "time": self.began + batch.offset,
            "method": self.method.decode("ascii", "replace"),
            "path": path_only(self.target),
            "status": self.status,
            "cache": self.cache,
            "client": self.client,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "ms": ms,
            "ended": self.ended,
            "request_id": self.name.decode("ascii"),
        }
        if self.code:
            named["code"] = self.code
        if self.detail:
            named["detail"] = self.detail
        if self.upstream_request_id:
            named["upstream_request_id"] = self.request_id
        if self.usage is not None:
            named["tokens"] = self.usage._asdict()
        if self.waited >= batch.slow:
            named["slow"] = True
        if batch.sample < 1 and not self.stands_out(batch.slow):
            named["sample"] = batch.sample
        return named

    @property
    def request_id(self) -> str:
        """Upstream's name for the request, as text of a bounded length."""
        return self.upstream_request_id[:200].decode("latin-1")


_event: Callable[[list[Any]], Event] = partial(tuple.__new__, Event)
"""An :class:`Event` of its parts in order."""

Write = Callable[[list[Event], Batch], None]
"""Gets events, oldest first."""


class Tracer(Protocol):
    """Follows requests through more systems than this one."""

    def start(self) -> None:
        """Begin; no thread runs before."""

    def begin(self, exchange: Exchange) -> Trace:
        """A request has come: its trace."""

    def ended(self, events: list[Event], batch: Batch) -> None:
        """Requests are over; as :data:`Write`."""

    def stop(self) -> Deferred[None]:
        """End; fires when what was followed has been told, or after some seconds."""


class AccessLog:
    """Collects events, and sees to it that they are counted and written.

    :param write: ``None`` where nobody reads them.
    :param slow: seconds until the first byte of an answer, from which on a request is slow.
    :param sample: the share, 0 to 1, of requests that are written though nothing is wrong.
    :ivar failures: the last :data:`MOST_FAILURES` that failed, each with its batch.
    :ivar tracer: follows requests, where somebody does.
    """

    def __init__(
        self,
        clock: IReactorTime,
        counters: Counters,
        write: Write | None,
        slow: float = inf,
        sample: float = 1.0,
    ) -> None:
        self._clock = clock
        self._seconds = clock.seconds
        self._counters = counters
        self._write = write
        self.slow = slow
        self.sample = sample
        self.failures: deque[tuple[Event, Batch]] = deque(maxlen=MOST_FAILURES)
        self.tracer: Tracer | None = None
        self._waiting: list[list[Any]] = []  # the parts of events
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
        first_seconds: float = -1.0,
        bill: Bill = None,
    ) -> None:
        """*exchange* is over: note its event."""
        began, head = exchange.began, exchange.head
        waiting = self._waiting
        waiting.append(
            [
                began, head.method, head.target, exchange.status or CLIENT_GONE, cache,
                client, exchange.body.received, exchange.body_bytes_sent, self._seconds() - began,
                upstream_seconds, code, detail, ended, upstream_request_id, first_seconds, bill,
                exchange.request_id, exchange.trace,
            ]
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
        wrong = counted(self._counters, events, self.slow)
        if not wrong and self._write is None and self.tracer is None:
            return
        batch = Batch(time.time() - self._clock.seconds(), self.slow, self.sample)
        try:
            named = [_event(event) for event in events]
            if wrong:
                self.failures += [(event, batch) for event in named if event.failed]
            if self._write is not None:
                self._write(named if self.sample >= 1 else self._sampled(named), batch)
            if self.tracer is not None:
                self.tracer.ended(named, batch)
        except Exception:  # a full disk is no reason to fail the request that filled the batch
            _log.failure("{count} events of requests were not written", count=len(events))

    def _sampled(self, events: list[Event]) -> list[Event]:
        """Those that are written: what went wrong or was slow, and a part of the rest."""
        sample, slow = self.sample, self.slow
        return [
            event
            for event in events
            if event.stands_out(slow) or random() < sample  # noqa: S311  # nobody gains by guessing
        ]
