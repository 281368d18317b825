"""Beside steps four and five: what an answer costs, and how evenly it comes.

A meter looks at the body of one answer that comes in several reads; what it keeps of it is bounded
(:class:`~goproxyai.policy.usage.Reader`), and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

from goproxyai.counters import Counters
from goproxyai.http11.response import Response
from goproxyai.pipeline.notes import Notes
from goproxyai.policy.streams import is_stream
from goproxyai.policy.usage import UNKNOWN, Reader, Usage, usage_of


class Meter:
    """Watches an answer pass.

    :param seconds: the monotonic clock.
    """

    __slots__ = ("_counters", "_last", "_reader", "_seconds", "_streamed")

    def __init__(
        self, counters: Counters, notes: Notes, response: Response, seconds: Callable[[], float]
    ) -> None:
        self._counters = counters
        self._seconds = seconds
        self._streamed = is_stream(response.fields)
        self._last = -1.0
        self._reader = Reader(response.fields) if is_billed(notes, response) else None

    def add(self, data: bytes) -> None:
        """What one read brought."""
        if self._streamed:
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
        """It has not, and will not; *why*: of :data:`~goproxyai.tokens.WITHOUT`."""
        reader, self._reader = self._reader, None
        if reader is not None:
            self._counters.tokens.lose(why)


def is_billed(notes: Notes, response: Response) -> bool:
    """Whether the answer is one that tells of tokens."""
    return notes.generates and 200 <= response.code < 300


def metered(counters: Counters, notes: Notes, response: Response, body: bytes) -> Usage | None:
    """As :meth:`Meter.whole`, of an answer that came in one read."""
    if not is_billed(notes, response):
        return None
    return _counted(counters, usage_of(response.fields, body))


def _counted(counters: Counters, usage: Usage) -> Usage | None:
    counters.tokens.use(usage)
    return None if usage is UNKNOWN else usage
