"""The failed requests that the dashboard shows: the last ones, and the last one of each cause.

Bounded by :data:`MAX_RECENT` requests and one group for each :class:`.FailureCause`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import attrs

from goproxyai.telemetry.counters import is_own_page
from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.failure_cause import FailureCause, cause_of

MAX_RECENT: Final = 50

SERIES_GAP_SECONDS: Final = 3600.0
"""Failures of one cause with a longer gap between them are separate series."""


@attrs.define
class FailureGroup:
    """The present series of failures of one cause.

    :ivar first_seen: Unix seconds, of the first one of the series.
    :ivar last_seen: Unix seconds; the other attributes are those of the last one.
    :ivar detail: cause of the failure, for operators; contains no secret.
    :ivar upstream_request_id: ``x-request-id`` of upstream's response.
    """

    cause: FailureCause
    first_seen: float
    last_seen: float
    status: int
    method: str
    path: str
    detail: str
    request_id: str
    upstream_request_id: str


class FailureLog:
    """Keeps failed requests of the API.

    :ivar recent: the last :data:`MAX_RECENT`, each with its batch; without those that the rate
        limit has refused.
    """

    def __init__(self) -> None:
        self.recent: deque[tuple[Event, Batch]] = deque(maxlen=MAX_RECENT)
        self._groups: dict[FailureCause, FailureGroup] = {}

    def add(self, events: Iterable[Event], batch: Batch) -> None:
        """Keep the failed ones of *events*, which are in the order of their ends."""
        for event in events:
            cause = cause_of(event.status, event.code, event.cache, event.ending)
            if cause is None or is_own_page(event.path):
                continue
            if cause is not FailureCause.RATE_LIMITED:
                self.recent.append((event, batch))
            self._add_to_group(cause, event, event.began + event.seconds + batch.offset)

    def _add_to_group(self, cause: FailureCause, event: Event, ended: float) -> None:
        group = self._groups.get(cause)
        is_same = group is not None and ended - group.last_seen <= SERIES_GAP_SECONDS
        first_seen = group.first_seen if group is not None and is_same else ended
        self._groups[cause] = FailureGroup(
            cause,
            first_seen,
            ended,
            event.status,
            event.method.decode("ascii", "replace"),
            event.path,
            event.detail,
            event.request_id.decode("ascii"),
            event.upstream_request_id.decode("latin-1"),
        )

    def groups(self) -> list[dict[str, Any]]:
        """Return the groups as plain values."""
        return [attrs.asdict(group) for group in self._groups.values()]


def merged_groups(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one group for each cause, from the groups of several processes."""
    merged: dict[str, dict[str, Any]] = {}
    for group in groups:
        present = merged.get(group["cause"])
        merged[group["cause"]] = group if present is None else _merged(present, group)
    return list(merged.values())


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    earlier, later = sorted((one, other), key=lambda group: float(group["last_seen"]))
    if later["first_seen"] - earlier["last_seen"] > SERIES_GAP_SECONDS:
        return later
    return {**later, "first_seen": min(one["first_seen"], other["first_seen"])}
