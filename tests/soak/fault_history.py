"""When the faults that affect all requests of a deployment began and ended."""

from __future__ import annotations

from collections.abc import Iterable

from tests.soak.faults import (
    AFTERMATH_SECONDS,
    ANSWER,
    BY_NAME,
    INTERRUPTED,
    PROTECTIVE,
    SLACK_SECONDS,
    STALLED,
)

RECENT = 40
"""The number of past faults that may have caused an outcome."""


class FaultHistory:
    """The faults of one deployment; times are in the reactor's seconds."""

    def __init__(self) -> None:
        self._ended: list[tuple[float, float, str]] = []
        self._began: list[tuple[float, str]] = []
        self._active: list[tuple[float, str]] = []
        self._last_fault = float("-inf")

    def began(self, name: str, now: float) -> None:
        self._active.append((now, name))
        self._began.append((now, name))
        self._last_fault = now

    def ended(self, name: str, now: float) -> None:
        first = next((one for one in self._active if one[1] == name), None)
        if first is not None:  # several of the same kind may be active
            self._active.remove(first)
            self._ended.append((first[0], now, name))
        self._last_fault = now

    def stalled(self, begin: float, end: float) -> None:
        """The harness itself did not run for a part of this time."""
        for index, (since, until, name) in enumerate(self._ended):
            if name == STALLED and begin <= until:
                self._ended[index] = (since, end, STALLED)
                return
        self._ended.append((begin, end, STALLED))

    def injected(self, now: float) -> None:
        """A fault was injected into a single answer."""
        self._last_fault = max(self._last_fault, now)

    def cause(
        self,
        outcome: str,
        begin: float,
        end: float,
        injected: Iterable[tuple[float, str]],
        large: bool = False,
    ) -> str | None:
        """The fault that explains *outcome* of a call; ``None`` if there is none.

        :param begin: of the call; *end* likewise.
        :param injected: the faults injected into the call, with their times.
        :param large: whether the answer is too large to be shared to its end.
        """
        for at, name in injected:
            if begin - 5 <= at <= end:
                if outcome in BY_NAME[name].outcomes:
                    return name
                if large and outcome == "cut":
                    return f"{name}, in a restarted request"
        nearby: str | None = None
        active = [(since, float("inf"), name) for since, name in self._active]
        for since, until, name in [*self._ended[-RECENT:], *active]:
            if since - SLACK_SECONDS <= end and begin <= until + SLACK_SECONDS:
                fault = BY_NAME[name]
                if fault.where != ANSWER and outcome in fault.outcomes:
                    return name
                if outcome in fault.nearby_outcomes:
                    nearby = name
        for at, name in self._began[-RECENT:]:
            overlaps = begin - SLACK_SECONDS <= at <= end
            if BY_NAME[name].drops_connections and outcome in INTERRUPTED and overlaps:
                return f"the beginning of: {name}"
        if outcome in PROTECTIVE and begin - self._last_fault < AFTERMATH_SECONDS:
            return "an earlier fault"
        return nearby

    def recent(self) -> str:
        """The active and the last faults, for a problem's text."""
        active = [f"{name} since {since:.2f}" for since, name in self._active]
        ended = [f"{begin:.2f}-{end:.2f} {name}" for begin, end, name in self._ended[-3:]]
        return ", ".join(active + ended)
