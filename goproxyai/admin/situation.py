"""What the verdict and the colours of the tiles are derived from, and the levels that they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import attrs

from goproxyai.telemetry.failure_cause import INCIDENTS, FailureCause
from goproxyai.upstream.breaker import CircuitState


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

    @property
    def admitted(self) -> int:
        """The requests that the rate limit has admitted."""
        return self.requests - self.failures.get(FailureCause.RATE_LIMITED, 0)

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


def all_open(circuits: Sequence[CircuitState]) -> bool:
    """Return whether no upstream is used, of at least one."""
    return bool(circuits) and all(state is CircuitState.OPEN for state in circuits)


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
