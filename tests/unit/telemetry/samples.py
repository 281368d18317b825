"""Events and finished exchanges for the unit tests of telemetry."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from goproxyai.telemetry.events import Event
from goproxyai.telemetry.outcome import CacheOutcome, Ending

UNIX_TIME = 1_700_000_000.0


def make_event(**fields: Any) -> Event:
    """Return the event of a hit on ``/v1/models``, with other *fields*."""
    defaults = {
        "began": 0.25, "method": b"GET", "path": "/v1/models?limit", "status": 200,
        "client": "192.0.2.1", "client_subject": "", "bytes_in": 1, "bytes_out": 2,
        "seconds": 0.00125, "request_id": b"id-1", "trace": None, "cache": CacheOutcome.HIT,
        "bypass_reason": "", "code": "", "detail": "", "ending": Ending.COMPLETE,
        "upstream_seconds": -1.0, "upstream_request_id": b"",
        "first_byte_seconds": -1.0, "usage": None,
    }  # fmt: skip
    return Event(**(defaults | fields))


class FinishedExchange:
    """The part of an exchange, and of its body, that the access log reads."""

    def __init__(self, **fields: Any) -> None:
        self.started_at = 0.0
        self.method = b"GET"
        self.target = b"/v1/models"
        self.logged_target = ""
        self.status = 200
        self.subject = ""
        self.body_bytes_sent = 5
        self.received = 3
        self.request_id = b"id-1"
        self.trace: Any = None
        vars(self).update(fields)

    @property
    def body(self) -> FinishedExchange:
        return self

    @property
    def head(self) -> FinishedExchange:
        return self

    @property
    def connection(self) -> FinishedExchange:
        return self


class MemoryWriter:
    """Takes the place of the log's writer, and writes at once.

    :ivar report: makes the line that reports dropped lines.
    :ivar calls: the names of the methods that were called without arguments.
    """

    def __init__(self) -> None:
        self._stream = io.BytesIO()
        self.dropped = 0
        self.report: Callable[[int], bytes]
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def getvalue(self) -> str:
        return self._stream.getvalue().decode("utf-8")

    def start(self) -> None:
        self.calls.append("start")

    def reopen(self) -> None:
        self.calls.append("reopen")

    def finish(self) -> None:
        self.calls.append("finish")
