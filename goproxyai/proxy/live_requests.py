"""The requests in progress, as the dashboard shows them: the oldest ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nsmallest
from itertools import islice
from typing import Final

import attrs

from goproxyai.http11.exchange import Exchange
from goproxyai.http11.open_connection import OpenConnection
from goproxyai.messages.redaction import redacted_target
from goproxyai.proxy.progress import phase_of, progress_of

MAX_LIVE: Final = 20
"""Requests that are shown."""

MAX_SCANNED: Final = 5_000
"""Connections that are searched, which takes a millisecond. The requests of others are missed."""

LiveRow = tuple[float, str, str, str, str, str, float]
"""Age in seconds, method, path, client, model, :class:`.Phase`, seconds to the first byte (negative
before it)."""


@attrs.define(eq=False)
class LiveRequests:
    """Finds the requests in progress.

    :param seconds: the monotonic clock.
    :param client: returns the address of an exchange's client.
    :param is_shown: whether requests with this redacted target are shown.
    :ivar connections: the open ones.
    """

    _seconds: Callable[[], float]
    _client: Callable[[Exchange], str]
    _is_shown: Callable[[str], bool]
    connections: Iterable[OpenConnection] = ()

    def rows(self) -> list[LiveRow]:
        """Return at most :data:`MAX_LIVE` requests, the oldest first."""
        active = [
            exchange
            for connection in islice(self.connections, MAX_SCANNED)
            if (exchange := connection.active) is not None
        ]
        oldest = nsmallest(2 * MAX_LIVE, active, key=lambda exchange: exchange.started_at)
        rows = [(exchange, redacted_target(exchange.target)) for exchange in oldest]
        now = self._seconds()
        shown = [self._row(exchange, path, now) for exchange, path in rows if self._is_shown(path)]
        return shown[:MAX_LIVE]

    def _row(self, exchange: Exchange, path: str, now: float) -> LiveRow:
        progress = progress_of(exchange)
        return (
            round(now - exchange.started_at, 3),
            exchange.method.decode("ascii", "replace"),
            path,
            self._client(exchange),
            progress.model,
            phase_of(exchange, progress),
            round(progress.first_byte_seconds, 3),
        )


def oldest_first(rows: Iterable[LiveRow]) -> list[LiveRow]:
    """Return the first :data:`MAX_LIVE` of the rows of several processes."""
    return sorted(rows, key=lambda row: -row[0])[:MAX_LIVE]
