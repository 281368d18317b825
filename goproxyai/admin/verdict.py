"""The verdict on the traffic of the last minutes, in one line: what fails, since when, and why.

Policy without a clock: the caller passes counts of slots of equal length, oldest first, of which
the last one may be shorter.

1. The share is that of the shortest of :data:`WINDOWS` with enough requests, so that an outage
   shows within seconds. Requests that the rate limit refuses do not count.
2. An incident lasts for as long as slots with failures of its cause follow each other, with less
   than a minute or less than :data:`MIN_REQUESTS` requests between them. It has ended if its cause
   did not occur in the last :data:`RECOVERY_SLOTS` slots and :data:`MIN_REQUESTS` requests. An open
   circuit prolongs the incident that has opened it.
3. Failures that single clients cause are no incident. They are named only if nothing else is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Final

import attrs

from goproxyai.admin.failure_texts import advice_for, describe, join
from goproxyai.admin.situation import LastFailure, Level, Situation, Traffic, all_open
from goproxyai.telemetry.failure_cause import INCIDENTS, PARTY, FailureCause, Party
from goproxyai.upstream.breaker import CircuitState

SLOTS_A_MINUTE: Final = 6
LONG_WINDOW_SLOTS: Final = 5 * SLOTS_A_MINUTE + 1
MIN_REQUESTS: Final = 5

FEW_REQUESTS: Final = 4 * MIN_REQUESTS
"""Requests below which shares are told in numbers."""

WINDOWS: Final = (
    (3, FEW_REQUESTS),
    (SLOTS_A_MINUTE + 1, MIN_REQUESTS),
    (LONG_WINDOW_SLOTS, 0),
)
"""Slots, the open one included, and the requests in them from which their share is told."""

RECENT_INCIDENT_SLOTS: Final = 15 * SLOTS_A_MINUTE
"""An incident that ended longer ago is not mentioned."""

RECOVERY_SLOTS: Final = 2
MIN_FAILURES: Final = 3
"""Failures from which an incident may be serious."""

WARNED_FAILURES: Final = 0.01
SERIOUS_FAILURES: Final = 0.05
WARNED_LIMITED: Final = 0.05
WARNED_INVALID: Final = 0.2
WARNED_STALE: Final = 0.01
SECOND_CAUSE_SHARE: Final = 0.25
"""Of the failures of the first cause, from which a second one is named. A single failure is not
named if the first cause has several."""

_OPENING: Final = frozenset({
    FailureCause.UNREACHABLE, FailureCause.TIMEOUT, FailureCause.TLS, FailureCause.PROTOCOL,
    FailureCause.EGRESS_PROXY,
})  # fmt: skip
"""Causes that open a circuit."""


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
class _Series:
    """The last slots with failures of some causes that follow each other.

    :ivar slots: from the first to the last one with failures.
    :ivar after: the slots after them.
    :ivar failures: number of the failures of these causes.
    """

    causes: Set[FailureCause]
    slots: Sequence[Traffic]
    after: Sequence[Traffic]

    @property
    def failures(self) -> int:
        return sum([slot.failures.get(cause, 0) for slot in self.slots for cause in self.causes])

    @property
    def has_ended(self) -> bool:
        requests = sum([slot.requests for slot in self.after])
        return len(self.after) >= RECOVERY_SLOTS and requests >= MIN_REQUESTS


def verdict(now: Situation) -> Verdict:
    """Return the verdict on the present situation."""
    if now.stopping:
        return Verdict(Level.WARNING, "Stopping: requests in progress are completed")
    recent = _recent(now.slots)
    series = _series_by_cause(now.slots)
    ongoing = {cause: each for cause, each in series.items() if not each.has_ended}
    found = _incident_verdict(now, recent, ongoing)
    if found is not None:
        return found
    found = _circuit_verdict(now) or _client_verdict(now, recent) or _quiet_verdict(recent)
    note = _recovery_note(now, series)
    return attrs.evolve(found, advice=f"{found.advice} {note}".strip())


def _recent(slots: Sequence[Traffic]) -> Traffic:
    """Return the requests that the shares refer to."""
    for count, needed in WINDOWS:
        recent = Traffic.sum(slots[-count:])
        if recent.requests >= needed:
            break
    return recent


def _series_by_cause(slots: Sequence[Traffic]) -> dict[FailureCause, _Series]:
    """Return the last series of each cause of incidents that occurred."""
    occurred = {cause for slot in slots for cause, number in slot.failures.items() if number}
    found = {}
    for cause in FailureCause:
        if cause not in INCIDENTS & occurred:
            continue
        series = _last_series(
            slots, {cause, FailureCause.CIRCUIT_OPEN} if cause in _OPENING else {cause}
        )
        # The failures of an opening cause may be older than the refusals of the open circuit.
        if any(slot.failures.get(cause) for slot in series.slots):
            found[cause] = series
    return found


def _last_series(slots: Sequence[Traffic], causes: Set[FailureCause]) -> _Series:
    """Return the last series of slots with failures of *causes*, of which one occurred."""
    first = last = -1
    quiet_slots = quiet_requests = 0
    for index in range(len(slots) - 1, -1, -1):
        slot = slots[index]
        if slot.incidents and any(slot.failures.get(cause) for cause in causes):
            first, quiet_slots, quiet_requests = index, 0, 0
            last = index if last < 0 else last
            continue
        quiet_slots += 1
        quiet_requests += slot.requests
        if last >= 0 and quiet_slots >= SLOTS_A_MINUTE and quiet_requests >= MIN_REQUESTS:
            break
    return _Series(causes, slots[first : last + 1], slots[last + 1 :])


def _incident_verdict(
    now: Situation, recent: Traffic, ongoing: Mapping[FailureCause, _Series]
) -> Verdict | None:
    failures = {cause: recent.failures.get(cause, 0) for cause in ongoing}
    failed, requests = sum(failures.values()), recent.admitted
    share = failed / max(requests, 1)
    is_single = failed == 1 and requests >= FEW_REQUESTS
    if share < WARNED_FAILURES or is_single:
        return None
    causes = _causes(failures, ongoing)
    series = ongoing[causes[0]]
    seconds = len(series.slots) * now.slot_seconds
    is_full = len(series.slots) + len(series.after) >= len(now.slots) > LONG_WINDOW_SLOTS
    how_long = _duration(seconds, at_least=is_full)
    serious = share >= SERIOUS_FAILURES and failed >= MIN_FAILURES
    why = join([_describe(now, cause) for cause in causes])
    if recent.stale >= WARNED_STALE * requests and recent.stale:
        why += f"; {_part(recent.stale, requests)} answered from expired entries"
    return Verdict(
        Level.BAD if serious or all_open(now.circuits) else Level.WARNING,
        f"{_part(failed, requests)} failing {how_long}: {why}",
        advice_for(causes[0]),
        causes[0],
        round(share, 4),
        seconds,
    )


def _causes(
    failures: Mapping[FailureCause, int], ongoing: Mapping[FailureCause, _Series]
) -> list[FailureCause]:
    """Return the one or two causes to name, the most frequent first.

    The refusals of an open circuit are counted to the cause that has opened it, if it is known.
    """
    numbers = Counter(failures)
    opening = [cause for cause in ongoing if cause in _OPENING]
    if opening:
        opener = max(opening, key=lambda cause: (numbers[cause], ongoing[cause].failures))
        numbers[opener] += numbers.pop(FailureCause.CIRCUIT_OPEN, 0)
    # Of causes with as many failures, the one that occurred last is the first.
    first, *others = sorted(
        +numbers, key=lambda cause: (-numbers[cause], len(ongoing[cause].after))
    )
    needed = max(SECOND_CAUSE_SHARE * numbers[first], min(numbers[first], 2))
    return [first, *[second for second in others[:1] if numbers[second] >= needed]]


def _describe(now: Situation, cause: FailureCause) -> str:
    last = now.last.get(cause, LastFailure(0))
    return describe(cause, last.status, last.detail, now.has_egress)


def _circuit_verdict(now: Situation) -> Verdict | None:
    is_open = [state is CircuitState.OPEN for state in now.circuits]
    if not any(is_open):
        return None
    if all_open(now.circuits):
        text = "No upstream is used: the circuit is open after repeated failures"
        return Verdict(Level.BAD, text, advice_for(FailureCause.CIRCUIT_OPEN))
    count = f"{sum(is_open)} of {len(is_open)} upstreams"
    text = f"{count} not used after repeated failures; the others serve all requests"
    return Verdict(Level.WARNING, text, advice_for(FailureCause.CIRCUIT_OPEN))


def _client_verdict(now: Situation, recent: Traffic) -> Verdict | None:
    """Return the verdict on refusals, which single clients cause, and on stale answers."""
    requests, failures = recent.requests, recent.failures
    if recent.stale and recent.stale >= WARNED_STALE * requests:
        part = _part(recent.stale, recent.admitted)
        text = f"Upstream is failing: {part} answered from expired entries"
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


def _quiet_verdict(recent: Traffic) -> Verdict:
    if not recent.requests:
        return Verdict(Level.IDLE, "No requests in the last 5 min")
    return Verdict(Level.GOOD, "Healthy")


def _recovery_note(now: Situation, series: Mapping[FailureCause, _Series]) -> str:
    """Return which incident ended last; empty if there was none, or only long ago."""
    ended = {
        cause: each
        for cause, each in series.items()
        if each.has_ended and len(each.after) <= RECENT_INCIDENT_SLOTS and not _is_minor(each)
    }
    if not ended:
        return ""
    cause = min(ended, key=lambda each: (len(ended[each].after), -ended[each].failures))
    ago = _length(len(ended[cause].after) * now.slot_seconds)
    lasted = _duration(len(ended[cause].slots) * now.slot_seconds)
    return f"Recovered {ago} ago. Before, {lasted}: {_describe(now, cause)}."


def _is_minor(series: _Series) -> bool:
    requests = sum([slot.requests for slot in series.slots])
    return series.failures < max(MIN_FAILURES, SERIOUS_FAILURES * requests)


def _part(part: int, whole: int) -> str:
    """Return a share in words: a percentage, or the numbers where they are small."""
    if whole < FEW_REQUESTS:
        return f"{part} of {whole} requests"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"


def _duration(seconds: float, at_least: bool = False) -> str:
    return f"for {'over ' if at_least else ''}{_length(seconds)}"


def _length(seconds: float) -> str:
    """Return a length of time as text, rounded down."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    return f"{seconds // 3600:.0f} h"
