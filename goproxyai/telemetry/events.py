"""The event of a request: what the access log writes, and what it is made of.

A :class:`Record` is the raw form that the access log keeps until the next batch. An :class:`Event`
is the finished form that writers and tracers get.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

from goproxyai.telemetry.outcome import CacheOutcome, Ending, RequestOutcome
from goproxyai.usage.usage import Usage

MAX_UPSTREAM_ID_CHARACTERS = 200


class Record(NamedTuple):
    """A finished request, not counted yet.

    :ivar began: reactor seconds, when the head of the request was complete.
    :ivar path: redacted target, see :func:`goproxyai.messages.redaction.redacted_target`.
    :ivar client: address.
    :ivar bytes_in: of the request's body. :ivar bytes_out: of the answer's body.
    :ivar seconds: from the head of the request to the end of the answer.
    :ivar request_id: see :mod:`goproxyai.proxy.request_id`.
    :ivar trace: a :class:`~.trace_protocol.Trace`, if requests are traced.
    """

    began: float
    method: bytes
    path: str
    status: int
    client: str
    bytes_in: int
    bytes_out: int
    seconds: float
    request_id: bytes
    trace: Any
    outcome: RequestOutcome


class RecordColumns(NamedTuple):
    """The fields of a batch of records, one tuple a field."""

    began: tuple[float, ...]
    method: tuple[bytes, ...]
    path: tuple[str, ...]
    status: tuple[int, ...]
    client: tuple[str, ...]
    bytes_in: tuple[int, ...]
    bytes_out: tuple[int, ...]
    seconds: tuple[float, ...]
    request_id: tuple[bytes, ...]
    trace: tuple[Any, ...]
    outcome: tuple[RequestOutcome, ...]


class OutcomeColumns(NamedTuple):
    """The fields of a batch of outcomes, one tuple a field."""

    cache: tuple[CacheOutcome, ...]
    bypass_reason: tuple[str, ...]
    code: tuple[str, ...]
    detail: tuple[str, ...]
    ending: tuple[Ending, ...]
    upstream_seconds: tuple[float, ...]
    upstream_request_id: tuple[bytes, ...]
    first_byte_seconds: tuple[float, ...]
    usage_source: tuple[Any, ...]


class Batch(NamedTuple):
    """What applies to all events that are written together.

    :ivar offset: reactor seconds + offset = Unix time.
    :ivar slow: and :ivar sample: see :class:`~.access_log.AccessLog`.
    """

    offset: float
    slow: float = inf
    sample: float = 1.0


class Event(NamedTuple):
    """A finished request, as writers and tracers get it.

    The fields are those of :class:`Record` and :class:`~.outcome.RequestOutcome`; the usage stands
    in the place of its source. No field contains a query value, a header or a body.

    :ivar usage: tokens of a complete answer, if the answer reports them.
    """

    began: float
    method: bytes
    path: str
    status: int
    client: str
    bytes_in: int
    bytes_out: int
    seconds: float
    request_id: bytes
    trace: Any
    cache: CacheOutcome
    bypass_reason: str
    code: str
    detail: str
    ending: Ending
    upstream_seconds: float
    upstream_request_id: bytes
    first_byte_seconds: float
    usage: Usage | None

    @classmethod
    def of(cls, record: Record) -> Event:
        """Return the finished form of *record*."""
        outcome = record.outcome
        source = outcome.usage_source
        usage = None if source is None else source.usage()
        return cls._make((*record[:-1], *outcome[:-1], usage))

    @property
    def cache_label(self) -> str:
        """The reason of a bypass, else the cache outcome: the log's field ``cache``."""
        return self.bypass_reason or self.cache

    @property
    def waited(self) -> float:
        """Seconds until the first byte of the answer, or until the end if there was none."""
        return self.seconds if self.first_byte_seconds < 0 else self.first_byte_seconds

    @property
    def failed(self) -> bool:
        """Whether the request counts as a failure for operators."""
        return bool(self.code) or self.status >= 500 or self.ending is Ending.CUT

    def is_notable(self, slow: float) -> bool:
        """Whether the event is written regardless of sampling: it failed or was slow."""
        return self.status >= 400 or self.ending is not Ending.COMPLETE or self.waited >= slow

    @property
    def upstream_id_text(self) -> str:
        """Upstream's request ID as text of bounded length."""
        return self.upstream_request_id[:MAX_UPSTREAM_ID_CHARACTERS].decode("latin-1")

    def fields(self, batch: Batch) -> dict[str, Any]:
        """Return the fields of the log line by name."""
        ms = {"total": round(self.seconds * 1000, 3)}
        if self.upstream_seconds >= 0:
            ms["upstream"] = round(self.upstream_seconds * 1000, 3)
            ms["proxy"] = round((self.waited - self.upstream_seconds) * 1000, 3)
        if self.first_byte_seconds >= 0:
            ms["first_byte"] = round(self.first_byte_seconds * 1000, 3)
        named: dict[str, Any] = {
            "time": self.began + batch.offset,
            "method": self.method.decode("ascii", "replace"),
            "path": self.path,
            "status": self.status,
            "cache": self.cache_label,
            "client": self.client,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "ms": ms,
            "ended": self.ending,
            "request_id": self.request_id.decode("ascii"),
        }
        if self.code:
            named["code"] = self.code
        if self.detail:
            named["detail"] = self.detail
        if self.upstream_request_id:
            named["upstream_request_id"] = self.upstream_id_text
        if self.usage is not None:
            named["tokens"] = self.usage._asdict()
        if self.waited >= batch.slow:
            named["slow"] = True
        if batch.sample < 1 and not self.is_notable(batch.slow):
            named["sample"] = batch.sample
        return named


Write = Callable[[list[Event], Batch], None]
"""Receives events, oldest first."""
