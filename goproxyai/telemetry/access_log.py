"""The access log: every request leaves one event, which is counted and written in batches.

A request costs one tuple and one ``append``. Counting, formatting and writing happen once a batch.

All events are counted. Of those that neither failed nor were slow, a share is written
(``LOG_SAMPLE``).
"""

from __future__ import annotations

import time
from math import inf
from random import random
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from goproxyai.http11.exchange import Exchange
from goproxyai.messages.redaction import redacted_target
from goproxyai.telemetry.aggregate import count_requests
from goproxyai.telemetry.busiest import Busiest
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.events import Batch, Event, Write, finished_events
from goproxyai.telemetry.failure_log import FailureLog
from goproxyai.telemetry.outcome import CLIENT_CLOSED_REQUEST, RequestOutcome
from goproxyai.telemetry.records import Columns, Record
from goproxyai.telemetry.trace_protocol import Tracer

_log = Logger(namespace="goproxyai.log")

FLUSH_SECONDS = 0.05
"""The longest time between the end of a request and its event."""

MAX_WAITING: Final = 256
"""Records that wait for the next batch: about a millisecond of work."""


class AccessLog:
    """Collects the records of finished requests; counts and writes them in batches.

    :param write: ``None``: events are counted only.
    :param slow: seconds to the first byte from which a request is slow.
    :param sample: share, 0 to 1, of the unremarkable requests that are written.
    :ivar failures: the failed requests that the dashboard shows.
    :ivar busiest: the clients and paths with the most requests.
    :ivar tracer: ``None``: requests are not traced.
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
        self.failures = FailureLog()
        self.busiest = Busiest()
        self.tracer: Tracer | None = None
        self._waiting: list[Record] = []
        self._flush_call: IDelayedCall | None = None

    def write_to(self, write: Write | None) -> None:
        """Write events with *write* from now on; ``None``: count them only."""
        self.flush()
        self._write = write

    def record(self, exchange: Exchange, client: str, outcome: RequestOutcome) -> None:
        """Record that *exchange* ended.

        :param client: address.
        """
        began, head = exchange.started_at, exchange.head
        target = head.logged_target
        if not target:
            target = head.logged_target = redacted_target(head.target)
        waiting = self._waiting
        waiting.append(
            (
                began, head.method, target,
                exchange.status or CLIENT_CLOSED_REQUEST, client, exchange.connection.subject,
                exchange.body.received, exchange.body_bytes_sent, self._seconds() - began,
                exchange.request_id, exchange.trace, outcome,
            )
        )  # fmt: skip
        if self._flush_call is None:
            self._flush_call = self._clock.callLater(FLUSH_SECONDS, self.flush)
        elif len(waiting) >= MAX_WAITING:
            self.flush()

    @property
    def pending(self) -> int:
        """Requests whose events are not yet counted and written."""
        return len(self._waiting)

    def flush(self) -> None:
        """Count and write the records that wait."""
        call, self._flush_call = self._flush_call, None
        if call is not None and call.active():
            call.cancel()
        records, self._waiting = self._waiting, []
        if not records:
            return
        columns = Columns.of(records)
        any_failed = count_requests(self._counters, columns, self.slow, self.busiest)
        if not any_failed and self._write is None and self.tracer is None:
            return
        batch = Batch(time.time() - self._clock.seconds(), self.slow, self.sample)
        try:
            events = finished_events(columns)
            if any_failed:
                self.failures.add(events, batch)
            if self._write is not None:
                self._write(events if self.sample >= 1 else self._sampled(events), batch)
            if self.tracer is not None:
                self.tracer.ended(events, batch)
        except Exception:  # an error here must not fail the request that filled the batch
            _log.failure("{count} request events were not written", count=len(records))

    def _sampled(self, events: list[Event]) -> list[Event]:
        """Return the notable events and a random share of the others."""
        sample, slow = self.sample, self.slow
        return [
            event
            for event in events
            if event.is_notable(slow) or random() < sample  # noqa: S311  # not a secret
        ]
