"""The levels of the dashboard's tiles, and the share of a processor."""

from __future__ import annotations

import pytest

from goproxyai.admin.cpu_share import CpuShare
from goproxyai.admin.situation import Level
from goproxyai.admin.thresholds import failures_level, fill_level, limited_level, overhead_level


@pytest.mark.parametrize(
    ("incidents", "by_clients", "requests", "level"),
    [
        (0, 0, 0, Level.IDLE),
        (0, 0, 100, Level.GOOD),
        (1, 0, 1000, Level.GOOD),
        (1, 0, 100, Level.WARNING),
        (2, 0, 2, Level.WARNING),
        (3, 0, 3, Level.BAD),
        (5, 0, 100, Level.BAD),
        (0, 19, 100, Level.GOOD),
        (0, 20, 100, Level.WARNING),
        (0, 100, 100, Level.WARNING),
    ],
)
def test_error_rate_is_serious_from_five_percent(
    incidents: int, by_clients: int, requests: int, level: Level
) -> None:
    assert failures_level(incidents, by_clients, requests) is level


def test_limited_requests_are_noticeable_from_five_percent() -> None:
    levels = [limited_level(limited, 100) for limited in (0, 4, 5, 100)]
    assert levels == [Level.GOOD, Level.GOOD, Level.WARNING, Level.WARNING]
    assert limited_level(0, 0) is Level.IDLE


def test_overhead_and_fill_have_two_thresholds() -> None:
    assert [overhead_level(ms) for ms in (None, 1.0, 50.0, 250.0)] == [
        Level.IDLE,
        Level.GOOD,
        Level.WARNING,
        Level.BAD,
    ]
    assert [fill_level(used, 100) for used in (0, 79, 80, 95)] == [
        Level.GOOD,
        Level.GOOD,
        Level.WARNING,
        Level.BAD,
    ]
    assert fill_level(5, 0) is Level.IDLE, "without a limit"


def test_cpu_share_is_that_of_the_last_slots() -> None:
    cpu = CpuShare()
    assert cpu.share(1.0, 10) is None
    cpu.note(10.0, 1000)
    assert cpu.share(10.0, 1000) is None
    assert cpu.share(11.0, 1500) == 0.5
    cpu.note(20.0, 6000)
    assert cpu.share(22.0, 7000) == 0.5
    cpu.note(30.0, 6000)
    assert cpu.share(30.0, 6000) == 0.0
    assert cpu.share(31.0, 1000) == 0.0, "a worker has ended"
