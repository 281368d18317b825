"""The failed requests that the dashboard shows, by cause.

Bounded by :data:`MAX_OF_CAUSE` requests and one group for each :class:`.FailureCause`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any, Final

import attrs

from goproxyai.telemetry.counters import is_own_page
from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.failure_cause import FailureCause, cause_of

MAX_OF_CAUSE: Final = 8
"""Requests of a cause that are kept, so that a frequent cause does not displace the others."""

SERIES_GAP_SECONDS: Final = 3600.0
"""Failures of one cause with a longer gap between them are separate series."""


@attrs.define
class FailureGroup:
    """The present series of failures of one cause.

    :ivar first_seen: Unix seconds, of the first one of the series.
    :ivar last_seen: Unix seconds; the other attributes are those of the last one.
    :ivar detail: cause of the failure, for operators; contains no secret.
    :ivar upstream_request_id: ``x-request-id`` of upstream's last response of the series that had
        one: a stored response has none.
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
    """Keeps failed requests of the API."""

    def __init__(self) -> None:
        self._groups: dict[FailureCause, FailureGroup] = {}
        self._last: defaultdict[FailureCause, deque[tuple[Event, Batch]]] = defaultdict(
            lambda: deque(maxlen=MAX_OF_CAUSE)
        )

    @property
    def recent(self) -> list[tuple[Event, Batch]]:
        """The last failed requests of each cause, each with its batch, in the order of their ends.

        Requests that the rate limit has refused are not among them.
        """
        kept = [each for of_cause in self._last.values() for each in of_cause]
        return sorted(kept, key=lambda each: _ended_at(*each))

    def add(self, events: Iterable[Event], batch: Batch) -> None:
        """Keep the failed ones of *events*, which are in the order of their ends."""
        for event in events:
            cause = cause_of(event.status, event.code, event.cache, event.ending)
            if cause is None or is_own_page(event.path):
                continue
            if cause is not FailureCause.RATE_LIMITED:
                self._last[cause].append((event, batch))
            self._add_to_group(cause, event, _ended_at(event, batch))

    def _add_to_group(self, cause: FailureCause, event: Event, ended: float) -> None:
        group = self._groups.get(cause)
        is_same = group is not None and ended - group.last_seen <= SERIES_GAP_SECONDS
        first_seen, upstream_id = ended, event.upstream_request_id.decode("latin-1")
        if group is not None and is_same:
            first_seen = group.first_seen
            upstream_id = upstream_id or group.upstream_request_id
        self._groups[cause] = FailureGroup(
            cause,
            first_seen,
            ended,
            event.status,
            event.method.decode("ascii", "replace"),
            event.path,
            event.detail,
            event.request_id.decode("ascii"),
            upstream_id,
        )

    def groups(self) -> list[dict[str, Any]]:
        """Return the groups as plain values."""
        return [attrs.asdict(group) for group in self._groups.values()]


def _ended_at(event: Event, batch: Batch) -> float:
    """Return when a request ended, in Unix seconds."""
    return event.began + event.seconds + batch.offset


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
    name = "upstream_request_id"
    first_seen = min(one["first_seen"], other["first_seen"])
    return {**later, "first_seen": first_seen, name: later[name] or earlier[name]}
