"""The simulation of the rate limit, and the properties that it shows."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import attrs
import pytest

from bench.lease_plot import CASES, DIVISORS, PAGE, Point, leases_per_bucket, plot
from bench.lease_simulation import (
    Found,
    ParentService,
    Plan,
    RedisService,
    Simulation,
    excess,
)
from goproxyai.state.leases import LEASES_PER_BUCKET, lease_size

PLAN = Plan(load=3.0, burst_seconds=30.0, seconds=120.0)
SERVICES = [ParentService, RedisService]
FAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "slow network": {"delay": 0.02},
    "wrong clocks": {"skew": 0.05},
    "small limit": {"per_minute": 20, "processes": 8},
    "many processes": {"processes": 12},
    "pauses": {"burst_seconds": 1.5, "load": 6.0},
}


def simulated(service: Any, seed: int, **changes: Any) -> tuple[Plan, Found]:
    plan = attrs.evolve(PLAN, seed=seed, **changes)
    return plan, Simulation(plan, service).run()


def leases_of(plan: Plan) -> int:
    """One lease for each process."""
    return plan.processes * lease_size(plan.per_minute)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("fault", FAULTS)
def test_client_gets_its_limit_to_one_lease_per_process(service: Any, fault: str) -> None:
    for seed in range(2):
        plan, found = simulated(service, seed, **FAULTS[fault])
        assert found.excess <= leases_of(plan)
        assert found.shortfall <= leases_of(plan)
        assert found.admitted_by_one > plan.per_minute  # the bucket was empty at times
        assert abs(found.admitted - found.admitted_by_one) <= leases_of(plan)


@pytest.mark.parametrize("service", SERVICES)
def test_process_that_ends_takes_at_most_a_lease_with_it(service: Any) -> None:
    plan, found = simulated(service, 1, ends=5.0)
    assert found.ends > 10
    assert found.excess <= leases_of(plan)
    assert found.admitted >= found.admitted_by_one - leases_of(plan) - (
        found.ends * lease_size(plan.per_minute)
    )


def test_workers_that_are_cut_off_exceed_no_limit() -> None:
    plan, found = simulated(ParentService, 1, partition=10.0)
    assert found.excess <= leases_of(plan)


def test_machine_that_is_cut_off_gives_a_limit_of_its_own() -> None:
    plan, found = simulated(RedisService, 1, partition=10.0)
    assert 0 < found.excess <= leases_of(plan) + plan.processes * plan.per_minute


def test_questions_are_fewer_than_requests_below_the_limit() -> None:
    for service in SERVICES:
        _, found = simulated(service, 1, load=0.5)
        assert found.admitted == found.requests
        assert found.round_trips < found.requests / 4


def test_run_is_determined_by_its_seed() -> None:
    runs = [simulated(RedisService, seed, ends=7.0)[1] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_excess_is_the_most_of_any_window() -> None:
    assert excess([], 60) == 0
    assert excess([float(second) for second in range(100)], 60) == 0
    assert excess([0.0] * 50 + [1000.0] * 63, 60) == pytest.approx(3)
    assert excess([0.0] * 60 + [10.0] * 12, 60) == pytest.approx(2)


def test_size_of_leases_is_changed_for_a_while() -> None:
    with leases_per_bucket(2):
        assert lease_size(60) == 30
    assert lease_size(60) == 60 // LEASES_PER_BUCKET


def test_plot_has_a_line_for_each_case() -> None:
    case = [Point(divisor, 0.3, 0.0, 1 / divisor) for divisor in DIVISORS]
    root = ElementTree.fromstring(plot({"one": dict.fromkeys(CASES, case)}))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == len(CASES)
    page = ElementTree.fromstring(PAGE.read_text())
    assert len(page.findall("{http://www.w3.org/2000/svg}polyline")) == 2 * len(CASES) + 1
