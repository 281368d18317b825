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
from goproxyai.usage.usage import UnreadAnswer, Usage, UsageSource

MAX_UNREAD_BYTES: Final = 8 * 1024
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
                self._counters.durations.stream_gap.add(now - last)
        if self._reader is not None:
            self._reader.add(data)

    def finish(self) -> Usage | None:
        """The answer has come whole: count what it cost, and say it."""
        reader, self._reader = self._reader, None
        return None if reader is None else _counted(self._counters, reader.usage())

    def abandon(self, why: str) -> None:
        """It has not, and will not; *why*: of :data:`~goproxyai.usage.totals.WITHOUT`."""
        reader, self._reader = self._reader, None
        if reader is not None:
            self._counters.tokens.add_unknown(why)


def reports_usage(notes: RequestPlan, response: Response) -> bool:
    """Whether the answer is one that tells of tokens."""
    return notes.generates and 200 <= response.code < 300


def meter_of(
    counters: Counters, notes: RequestPlan, response: Response, seconds: Callable[[], float]
) -> UsageMeter | None:
    """Who is to look at an answer that comes in pieces, if there is anything to see."""
    fields = response.fields
    streamed = is_event_stream(fields)
    reader = UsageScanner(fields) if reports_usage(notes, response) else None
    return (
        UsageMeter(counters, seconds, streamed, reader) if streamed or reader is not None else None
    )


def usage_source_of(counters: Counters, response: Response, body: bytes) -> UsageSource | None:
    """Return the usage source of an answer that arrived in one read, and :func:`reports_usage`.

    A short answer is read and counted with the batch of its event
    (:mod:`goproxyai.telemetry.aggregate`); a long or coded one is read and counted now.
    """
    if len(body) <= MAX_UNREAD_BYTES and b"content-encoding" not in response.fields:
        return UnreadAnswer(body)
    return record_usage(counters, response, body)


def record_usage(counters: Counters, response: Response, body: bytes) -> Usage | None:
    """Read, count and return the usage of a complete answer; ``None`` if it reports none."""
    return _counted(counters, usage_of(response.fields, body))


def _counted(counters: Counters, usage: Usage | None) -> Usage | None:
    counters.tokens.add_used((usage,))
    return usage
