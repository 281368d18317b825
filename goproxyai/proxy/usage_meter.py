"""Measure upstream's responses: their token usage, and the gaps in event streams."""

from __future__ import annotations

from collections.abc import Callable
from operator import sub
from typing import Final

from goproxyai.http11.response import Response
from goproxyai.proxy.context import ProxyContext
from goproxyai.proxy.request_plan import RequestPlan
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.outcome import Ending
from goproxyai.usage.scanner import UsageScanner, usage_of
from goproxyai.usage.usage import UnreadResponse, Usage, UsageSource

MAX_UNREAD_BYTES: Final = 8 * 1024
"""The largest response that is read with the batch of its event; a full batch holds 2 MB."""


GAPS_TOGETHER: Final = 32
"""Gaps of a stream that are counted together, at the latest when it ends."""


class UsageMeter:
    """Measures one response that arrives in pieces.

    :param seconds: the monotonic clock.
    :param scanner: ``None`` if the response reports no usage.
    :ivar streamed: the response is an event stream.
    """

    __slots__ = ("_counters", "_reads", "_scanner", "_seconds", "streamed")

    def __init__(
        self,
        counters: Counters,
        seconds: Callable[[], float],
        streamed: bool,
        scanner: UsageScanner | None,
    ) -> None:
        self._counters = counters
        self._seconds = seconds
        self.streamed = streamed
        self._reads: list[float] = []  # seconds; the gaps between them are not counted yet
        self._scanner = scanner

    @property
    def model(self) -> str:
        """The model as the response names it; empty while it is not known."""
        return "" if self._scanner is None else self._scanner.model

    def add(self, data: bytes) -> None:
        """Measure the next piece of the response."""
        if self.streamed:
            self._reads.append(self._seconds())
            if len(self._reads) > GAPS_TOGETHER:
                self._count_gaps()
        if self._scanner is not None:
            self._scanner.add(data)

    def _count_gaps(self) -> None:
        reads = self._reads
        self._counters.durations.stream_gap.add_batch(list(map(sub, reads[1:], reads)))
        del reads[:-1]

    def finish(self) -> Usage | None:
        """The response is complete: count and return its usage, ``None`` if it reports none."""
        self._count_gaps()
        scanner, self._scanner = self._scanner, None
        return None if scanner is None else _count(self._counters, scanner.usage())

    def abandon(self, reason: str) -> None:
        """The response will not complete; after :meth:`finish` this does nothing.

        :param reason: one of :data:`~goproxyai.usage.totals.UNKNOWN_REASONS`.
        """
        self._count_gaps()
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            self._counters.tokens.add_unknown(reason)

    def close(self, ending: Ending) -> None:
        """Abandon the response, unless it is finished, and end what :func:`open_meter` began."""
        self.abandon("left" if ending is Ending.CLIENT_GONE else "cut")
        self._counters.open_streams -= self.streamed


def reports_usage(plan: RequestPlan, response: Response) -> bool:
    """Whether the response is one that upstream bills by usage."""
    return plan.generates and 200 <= response.code < 300


def meter_of(
    counters: Counters, plan: RequestPlan, response: Response, seconds: Callable[[], float]
) -> UsageMeter | None:
    """Return the meter of a response that arrives in pieces, ``None`` if there is nothing to meter.

    :param seconds: the monotonic clock.
    """
    streamed = response.is_event_stream
    scanner = UsageScanner(response.fields) if reports_usage(plan, response) else None
    if scanner is None and not streamed:
        return None
    return UsageMeter(counters, seconds, streamed, scanner)


def open_meter(context: ProxyContext, plan: RequestPlan, response: Response) -> UsageMeter | None:
    """Return the meter of a response to one client, as :func:`meter_of` does.

    An event stream is one of the open streams until :meth:`UsageMeter.close`.
    """
    meter = meter_of(context.counters, plan, response, context.seconds)
    if meter is not None:
        context.counters.open_streams += meter.streamed
    return meter


def usage_source_of(counters: Counters, response: Response, body: bytes) -> UsageSource | None:
    """Return the usage source of a response that arrived in one read, and :func:`reports_usage`.

    A short response is read and counted with the batch of its event
    (:mod:`goproxyai.telemetry.aggregate`); a long or coded one is read and counted now.
    """
    if len(body) <= MAX_UNREAD_BYTES and b"content-encoding" not in response.fields:
        return UnreadResponse(body)
    return record_usage(counters, response, body)


def record_usage(counters: Counters, response: Response, body: bytes) -> Usage | None:
    """Read, count and return the usage of a complete response, ``None`` if it reports none."""
    return _count(counters, usage_of(response.fields, body))


def _count(counters: Counters, usage: Usage | None) -> Usage | None:
    counters.tokens.add_used((usage,))
    return usage
