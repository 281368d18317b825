"""The verdict on the traffic of the last minutes, in one line: what fails, since when, and why.

Policy without a clock: the caller passes counts of slots of equal length, oldest first, of which
the last one may be shorter.

1. The share is that of the last minute; with fewer than :data:`MIN_REQUESTS` requests in it, of the
   last five minutes.
2. An incident lasts for as long as slots with failures follow each other, with less than a minute
   or less than :data:`MIN_REQUESTS` requests between them. It has ended if there was none in the
   last :data:`RECOVERY_SLOTS` slots and :data:`MIN_REQUESTS` requests.
3. Failures that single clients cause are no incident. They are named only if nothing else is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import attrs

from goproxyai.admin.failure_texts import advice_for, describe, join
from goproxyai.telemetry.failure_cause import INCIDENTS, PARTY, FailureCause, Party
from goproxyai.upstream.breaker import CircuitState

SLOTS_A_MINUTE: Final = 6
WINDOW_SLOTS: Final = SLOTS_A_MINUTE + 1
"""Slots of the last minute: the open one, and six closed ones."""

LONG_WINDOW_SLOTS: Final = 5 * SLOTS_A_MINUTE + 1
RECENT_INCIDENT_SLOTS: Final = 15 * SLOTS_A_MINUTE
"""An incident that ended longer ago is not mentioned."""

RECOVERY_SLOTS: Final = 2
MIN_REQUESTS: Final = 5
MIN_FAILURES: Final = 3
"""Failures from which an incident may be serious."""

WARNED_FAILURES: Final = 0.01
SERIOUS_FAILURES: Final = 0.05
WARNED_LIMITED: Final = 0.05
WARNED_INVALID: Final = 0.2
WARNED_STALE: Final = 0.01
SECOND_CAUSE_SHARE: Final = 0.25
"""Share of the failures from which a second cause is named."""


class Level(StrEnum):
    """How the dashboard colours a verdict or a tile."""

    GOOD = "good"
    WARNING = "busy"
    BAD = "bad"
    IDLE = "idle"


@attrs.frozen
class Traffic:
    """Finished requests of the API in one slot.

    :ivar failures: by cause.
    :ivar stale: answered with an expired entry, since upstream failed.
    :ivar incidents: failures that are part of an incident.
    """

    requests: int = 0
    failures: Mapping[FailureCause, int] = attrs.field(factory=dict)
    stale: int = 0
    incidents: int = attrs.field(
        init=False,
        eq=False,
        default=attrs.Factory(lambda self: _incidents(self.failures), takes_self=True),
    )

    @classmethod
    def sum(cls, slots: Sequence[Traffic]) -> Traffic:
        failures: dict[FailureCause, int] = {}
        for slot in slots:
            for cause, number in slot.failures.items():
                failures[cause] = failures.get(cause, 0) + number
        requests = sum([slot.requests for slot in slots])
        return cls(requests, failures, sum([slot.stale for slot in slots]))


def _incidents(failures: Mapping[FailureCause, int]) -> int:
    return sum([number for cause, number in failures.items() if cause in INCIDENTS])


@attrs.frozen
class LastFailure:
    """The last failure of a cause: its status and its cause for operators."""

    status: int
    detail: str = ""


@attrs.frozen
class Situation:
    """What the verdict depends on.

    :ivar slots: oldest first.
    :ivar slot_seconds: length of a slot.
    :ivar last: the last failure by cause.
    :ivar circuits: of the upstreams.
    :ivar stopping: whether the daemon is about to end.
    :ivar has_egress: whether there is an egress proxy.
    :ivar limited_client: the client that the rate limit refuses most often.
    """

    slots: Sequence[Traffic]
    slot_seconds: float = 10.0
    last: Mapping[FailureCause, LastFailure] = attrs.field(factory=dict)
    circuits: Sequence[CircuitState] = ()
    stopping: bool = False
    has_egress: bool = False
    limited_client: str = ""


@attrs.frozen
class Verdict:
    """The verdict.

    :ivar text: one line.
    :ivar advice: what to do, or empty.
    :ivar cause: the most frequent cause of an incident, or empty.
    :ivar share: of the requests that fail by the incident, 0 to 1.
    :ivar seconds: for which the incident lasts.
    """

    level: Level
    text: str
    advice: str = ""
    cause: str = ""
    share: float = 0.0
    seconds: float = 0.0


@attrs.frozen
class _Incident:
    """The last series of slots with failures.

    :ivar slots: from the first to the last one with failures.
    :ivar after: the slots after them.
    """

    slots: Sequence[Traffic]
    after: Sequence[Traffic]

    @property
    def has_ended(self) -> bool:
        requests = sum([slot.requests for slot in self.after])
        return len(self.after) >= RECOVERY_SLOTS and requests >= MIN_REQUESTS


def verdict(now: Situation) -> Verdict:
    """Return the verdict on the present situation."""
    if now.stopping:
        return Verdict(Level.WARNING, "Stopping: requests in progress are completed")
    recent = _recent(now.slots)
    incident = _last_incident(now.slots)
    if incident is not None and not incident.has_ended and recent.incidents:
        found = _incident_verdict(now, recent, incident)
        if found is not None:
            return found
    return (
        _circuit_verdict(now)
        or _client_verdict(now, recent)
        or _quiet_verdict(now, recent, incident)
    )


def _recent(slots: Sequence[Traffic]) -> Traffic:
    """Return the requests that the shares refer to."""
    recent = Traffic.sum(slots[-WINDOW_SLOTS:])
    if recent.requests >= MIN_REQUESTS:
        return recent
    return Traffic.sum(slots[-LONG_WINDOW_SLOTS:])


def _last_incident(slots: Sequence[Traffic]) -> _Incident | None:
    first = last = -1
    quiet_slots = quiet_requests = 0
    for index in range(len(slots) - 1, -1, -1):
        if slots[index].incidents:
            first, quiet_slots, quiet_requests = index, 0, 0
            last = index if last < 0 else last
            continue
        quiet_slots += 1
        quiet_requests += slots[index].requests
        if last >= 0 and quiet_slots >= SLOTS_A_MINUTE and quiet_requests >= MIN_REQUESTS:
            break
    return None if last < 0 else _Incident(slots[first : last + 1], slots[last + 1 :])


def _incident_verdict(now: Situation, recent: Traffic, incident: _Incident) -> Verdict | None:
    failed, share = recent.incidents, recent.incidents / max(recent.requests, 1)
    if share < WARNED_FAILURES:
        return None
    causes = _causes(recent, incident)
    seconds = len(incident.slots) * now.slot_seconds
    is_full = len(incident.slots) + len(incident.after) >= len(now.slots) > LONG_WINDOW_SLOTS
    how_long = _duration(seconds, at_least=is_full)
    serious = share >= SERIOUS_FAILURES and failed >= MIN_FAILURES
    why = join([_describe(now, cause) for cause in causes])
    return Verdict(
        Level.BAD if serious else Level.WARNING,
        f"{_part(failed, recent.requests)} failing {how_long}: {why}",
        advice_for(causes[0]),
        causes[0],
        round(share, 4),
        seconds,
    )


def _causes(recent: Traffic, incident: _Incident) -> list[FailureCause]:
    """Return the one or two causes to name, the most frequent first.

    An open circuit is a consequence. The failures that have opened it may be older.
    """
    numbers = Counter(
        {cause: number for cause, number in recent.failures.items() if cause in INCIDENTS}
    )
    if numbers[FailureCause.CIRCUIT_OPEN] and len(+numbers) == 1:
        older = {
            cause: number
            for cause, number in Traffic.sum(incident.slots).failures.items()
            if PARTY[cause] in (Party.UPSTREAM, Party.EGRESS)
        }
        numbers = Counter(older)
    if len(+numbers) > 1:
        numbers[FailureCause.CIRCUIT_OPEN] = 0
    (first, number), *others = (+numbers).most_common(2)
    return [first, *[second for second, other in others if other >= SECOND_CAUSE_SHARE * number]]


def _describe(now: Situation, cause: FailureCause) -> str:
    last = now.last.get(cause, LastFailure(0))
    return describe(cause, last.status, last.detail, now.has_egress)


def _circuit_verdict(now: Situation) -> Verdict | None:
    is_open = [state is CircuitState.OPEN for state in now.circuits]
    if not any(is_open):
        return None
    if all(is_open):
        text = "No upstream is used: the circuit is open after repeated failures"
        return Verdict(Level.BAD, text, advice_for(FailureCause.CIRCUIT_OPEN))
    count = f"{sum(is_open)} of {len(is_open)} upstreams"
    text = f"{count} not used after repeated failures; the others serve all requests"
    return Verdict(Level.WARNING, text, advice_for(FailureCause.CIRCUIT_OPEN))


def _client_verdict(now: Situation, recent: Traffic) -> Verdict | None:
    """Return the verdict on refusals, which single clients cause, and on stale answers."""
    requests, failures = recent.requests, recent.failures
    if recent.stale and recent.stale >= WARNED_STALE * requests:
        text = f"Upstream is failing: {_part(recent.stale, requests)} answered from expired entries"
        return Verdict(Level.WARNING, text, "See the recent errors and the upstream's status page.")
    limited = failures.get(FailureCause.RATE_LIMITED, 0)
    if limited >= max(MIN_FAILURES, WARNED_LIMITED * requests):
        most = f", most of them from {now.limited_client}" if now.limited_client else ""
        text = f"Clients are limited: {_part(limited, requests)} exceed RATE_LIMIT{most}"
        return Verdict(Level.WARNING, text, advice_for(FailureCause.RATE_LIMITED))
    by_client = {
        cause: number for cause, number in failures.items() if PARTY[cause] is Party.CLIENT
    }
    invalid = sum(by_client.values())
    if invalid >= max(MIN_FAILURES, WARNED_INVALID * requests):
        cause = max(by_client, key=lambda each: by_client[each])
        text = f"Clients send invalid requests: {_part(invalid, requests)}, {_describe(now, cause)}"
        return Verdict(Level.WARNING, text, advice_for(cause))
    return None


def _quiet_verdict(now: Situation, recent: Traffic, incident: _Incident | None) -> Verdict:
    advice = ""
    if incident is not None and incident.has_ended:
        ago = len(incident.after)
        whole = Traffic.sum(incident.slots)
        is_noted = whole.incidents >= max(MIN_FAILURES, SERIOUS_FAILURES * whole.requests)
        if ago <= RECENT_INCIDENT_SLOTS and is_noted:
            why = _describe(now, _causes(whole, incident)[0])
            lasted = _duration(len(incident.slots) * now.slot_seconds)
            advice = f"Recovered {_length(ago * now.slot_seconds)} ago. Before, {lasted}: {why}."
    if not recent.requests:
        return Verdict(Level.IDLE, "No requests in the last 5 min", advice)
    return Verdict(Level.GOOD, "Healthy", advice)


def _part(part: int, whole: int) -> str:
    """Return a share in words: a percentage, or the numbers where they are small."""
    if whole < 4 * MIN_REQUESTS:
        return f"{part} of {whole} requests"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent < 1 else f"{percent:.0f} %"


def _duration(seconds: float, at_least: bool = False) -> str:
    return f"for {'over ' if at_least else ''}{_length(seconds)}"


def _length(seconds: float) -> str:
    """Return a length of time as text, rounded down."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    return f"{seconds // 3600:.0f} h"
