"""Beside steps four and five: what an answer costs, and how evenly it comes.

A meter looks at the body of one answer that comes in several reads; what it keeps of it is bounded
(:class:`~goproxyai.usage.scanner.UsageScanner`), and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from goproxyai.cache.stream_end import is_event_stream
from goproxyai.http11.response import Response
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.telemetry.counters import Counters
from goproxyai.usage.scanner import UsageScanner, usage_of
from goproxyai.usage.usage import UNKNOWN, Usage

LARGEST_UNREAD: Final = 8 * 1024
"""Bytes of an answer that is read for its usage with the batch: it holds two megabytes at most."""


class UsageMeter:
    """Watches an answer pass.

    :param seconds: the monotonic clock.
    :param reader: finds out what it costs, where it costs anything.
    :ivar streamed: whether it is a stream of events.
    """

    __slots__ = ("_counters", "_last", "_reader", "_seconds", "streamed")

    def __init__(
        self,
        counters: Counters,
        seconds: Callable[[], float],
        streamed: bool,
        reader: UsageScanner | None,
    ) -> None:
        self._counters = counters
        self._seconds = seconds
        self.streamed = streamed
        self._last = -1.0
        self._reader = reader

    def add(self, data: bytes) -> None:
        """What one read brought."""
        if self.streamed:
            now, last = self._seconds(), self._last
            self._last = now
            if last >= 0:
                self._counters.gaps.note(now - last)
        if self._reader is not None:
            self._reader.add(data)

    def whole(self) -> Usage | None:
        """The answer has come whole: count what it cost, and say it."""
        reader, self._reader = self._reader, None
        return None if reader is None else _counted(self._counters, reader.usage())

    def lost(self, why: str) -> None:
        """It has not, and will not; *why*: of :data:`~goproxyai.usage.totals.WITHOUT`."""
        reader, self._reader = self._reader, None
        if reader is not None:
            self._counters.tokens.lose(why)


def is_billed(notes: RequestPlan, response: Response) -> bool:
    """Whether the answer is one that tells of tokens."""
    return notes.generates and 200 <= response.code < 300


def meter_of(
    counters: Counters, notes: RequestPlan, response: Response, seconds: Callable[[], float]
) -> UsageMeter | None:
    """Who is to look at an answer that comes in pieces, if there is anything to see."""
    fields = response.fields
    streamed = is_event_stream(fields)
    reader = UsageScanner(fields) if is_billed(notes, response) else None
    return (
        UsageMeter(counters, seconds, streamed, reader) if streamed or reader is not None else None
    )


def bill_of(counters: Counters, response: Response, body: bytes) -> bytes | Usage | None:
    """What is to be said of an answer that came in one read, and :func:`is_billed`.

    Of a short one it is the body itself: it is read, and counted, with the event of the request,
    which takes half as long where there are many (:mod:`.aggregate`).
    """
    if len(body) <= LARGEST_UNREAD and b"content-encoding" not in response.fields:
        return body
    return charged(counters, response, body)


def charged(counters: Counters, response: Response, body: bytes) -> Usage | None:
    """Its tokens, read and counted at once: of an answer that is long, coded, or to several."""
    return _counted(counters, usage_of(response.fields, body))


def _counted(counters: Counters, usage: Usage) -> Usage | None:
    counters.tokens.use((usage,))
    return None if usage is UNKNOWN else usage
