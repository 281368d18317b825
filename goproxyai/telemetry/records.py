"""The raw form of a finished request, and a batch of them by column."""

from __future__ import annotations

from typing import Any, NamedTuple

from goproxyai.telemetry.outcome import CacheOutcome, Ending, RequestOutcome
from goproxyai.usage.usage import UsageSource

Record = tuple[float, bytes, str, int, str, str, int, int, float, bytes, Any, RequestOutcome]
"""A finished request, not counted yet: one value of each field of :class:`RecordColumns`.

A plain tuple takes 0.1 us, a named one 0.5 us, and every request creates one.
"""


class RecordColumns(NamedTuple):
    """The fields of a batch of records, one tuple a field.

    :ivar began: reactor seconds, when the head of the request was complete.
    :ivar path: redacted target, see :func:`goproxyai.messages.redaction.redacted_target`.
    :ivar client: address.
    :ivar client_subject: of its TLS certificate; empty without one.
    :ivar bytes_in: of the request's body.
    :ivar bytes_out: of the response's body.
    :ivar seconds: from the head of the request to the end of the response.
    :ivar request_id: see :mod:`goproxyai.proxy.request_id`.
    :ivar trace: a :class:`~.trace_protocol.Trace`, if requests are traced.
    """

    began: tuple[float, ...]
    method: tuple[bytes, ...]
    path: tuple[str, ...]
    status: tuple[int, ...]
    client: tuple[str, ...]
    client_subject: tuple[str, ...]
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
    usage_source: tuple[UsageSource | None, ...]


class Columns(NamedTuple):
    """A batch of records, at least one."""

    request: RecordColumns
    outcome: OutcomeColumns

    @classmethod
    def of(cls, records: list[Record]) -> Columns:
        """Transpose *records*."""
        request = RecordColumns._make(zip(*records, strict=True))
        return cls(request, OutcomeColumns._make(zip(*request.outcome, strict=True)))
