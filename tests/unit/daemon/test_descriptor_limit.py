"""The limit on open files at the start, and the number of connections that it allows."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.logger import LogEvent, capturedLogs, eventAsText

from goproxyai.daemon.descriptor_limit import fit_descriptor_limit
from goproxyai.limits.connection_slots import ConnectionSlots
from tests.support.harness import ProxyHarness, request

Limits = Callable[..., list[tuple[int, int]]]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """Set the limits on open files that the process sees; returns the limits that it sets."""

    def set_limits(soft: int, hard: int, forbidden: bool = False) -> list[tuple[int, int]]:
        raised: list[tuple[int, int]] = []

        def setrlimit(_: int, to: tuple[int, int]) -> None:
            if forbidden:
                raise ValueError("not allowed to raise maximum limit")
            raised.append(to)

        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", setrlimit)
        return raised

    return set_limits


def warnings(events: list[LogEvent]) -> list[str]:
    return [
        eventAsText(event, includeTimestamp=False, includeSystem=False)
        for event in events
        if event["log_level"].name == "warn"
    ]


def fit(most: int) -> tuple[int, list[str]]:
    """Return the number of connections that are accepted of *most*, and the logged warnings."""
    slots: ConnectionSlots[int] = ConnectionSlots(most, 0, bool)
    with capturedLogs() as events:
        fit_descriptor_limit(slots)
    return slots.max_connections, warnings(events)


def test_soft_limit_is_raised_to_the_hard_limit(limits: Limits) -> None:
    raised = limits(1024, 4096)
    assert fit(1000) == (1000, [])
    assert raised == [(4096, 4096)]


def test_limit_that_is_too_low_lowers_the_connections_with_one_warning(limits: Limits) -> None:
    limits(256, 1024)
    assert fit(10_000) == (
        573,
        [
            "MAX_CONNECTIONS is 10000, which needs 15164 file descriptors, but the limit is 1024: "
            "at most 573 connections are accepted; raise the limit (ulimit -n)"
        ],
    )


def test_limit_that_may_not_be_raised_stays(limits: Limits) -> None:
    limits(1024, 100_000, forbidden=True)
    assert fit(10_000)[0] == 573


def test_unlimited_descriptors_lower_nothing(limits: Limits) -> None:
    assert limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY) == []
    assert fit(1_000_000) == (1_000_000, [])


@pytest_twisted.ensureDeferred
async def test_daemon_starts_with_fewer_connections_and_reports_them(
    harness: ProxyHarness, limits: Limits
) -> None:
    limits(1024, 1024)
    with capturedLogs() as events:
        await harness.start()
    assert harness.daemon is not None
    assert harness.daemon.admin.stats.document()["connections"]["most"] == 573
    assert len(warnings(events)) == 1
    assert (await harness.ask(request())).status == 200
