"""All checks pass in every simulation, and fail when a defect is planted."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from twisted.logger import LogEvent

from goproxyai.cache.store import Store
from goproxyai.proxy import flight, forward, upstream_request
from goproxyai.proxy.flight import Flight
from goproxyai.proxy.recorder import Recorder
from goproxyai.proxy.resume import ResumedForward
from goproxyai.proxy.single_flight import SingleFlight
from goproxyai.proxy.subscriber import Subscriber
from tests.simulation.run import run_simulation
from tests.simulation.simulation import Simulation

SEEDS = range(50)
"""``python -m tests.simulation`` runs others."""


@cache
def outcome(seed: int) -> tuple[Counter[str], str]:
    """The situations in the simulation of *seed*, and its failed check; cached for both tests."""
    simulation, failure = run_simulation(seed)
    return situations(simulation), failure


def test_all_checks_pass() -> None:
    assert [failure for _, failure in map(outcome, SEEDS) if failure] == []


def test_seed_is_reproducible() -> None:
    first, second = (run_simulation(7)[0] for _ in range(2))
    assert [client.outcomes for client in first.clients] == [
        client.outcomes for client in second.clients
    ]


def situations(simulation: Simulation) -> Counter[str]:
    """How often each of the situations occurred that the simulation is meant to cover."""
    counters, attempts = simulation.counters, simulation.attempts
    raw = [one.raw for client in simulation.clients for one in client.outcomes]
    return Counter(
        {
            "cache hit": counters.hits,
            "coalesced": counters.coalesced,
            "resumed": sum(isinstance(one.owner, ResumedForward) for one in attempts),
            "stale if error": counters.stale_served,
            "paced replay": sum(b"detail=paced" in each for each in raw),
            "client gone": sum(event.ending == "client_gone" for event in simulation.events),
            "truncated": sum(event.ending == "cut" for event in simulation.events),
            "unshareable": sum(
                attempt.unshareable and simulation.environment.shared for attempt in attempts
            ),
            **{f"retry: {cause}": count for cause, count in counters.retries.items()},
        }
    )


def test_every_situation_occurs_in_many_simulations() -> None:
    simulations: Counter[str] = Counter()
    for seed in SEEDS:
        simulations.update((+outcome(seed)[0]).keys())
    expected = {*outcome(0)[0]}
    assert {what for what in expected if simulations[what] < len(SEEDS) // 10} == set()


def do_nothing(*_: Any, **__: Any) -> None:
    pass


def always(*_: Any) -> bool:
    return True


def never(*_: Any) -> bool:
    return False


def drop_a_byte(
    subscriber: Subscriber, pieces: list[bytes], original: Any = Subscriber._next_slice
) -> bytes:
    data: bytes = original(subscriber, pieces)
    return data[1:] if len(data) > 100 else data


DEFECTS = [
    (Flight, "_adjust_flow", do_nothing, "an upstream is read, but no client accepts its answer"),
    (SingleFlight, "_close", do_nothing, "are left"),
    (Flight, "_abandon", do_nothing, "an upstream is read, but no client"),
    (Subscriber, "record", do_nothing, "events of"),
    (Subscriber, "_next_slice", drop_a_byte, "the wrong"),
    (
        ResumedForward,
        "_refuse_different_response",
        do_nothing,
        "requests without an answer are left",
    ),
    (flight, "may_share", always, "an unshareable answer reached several requests"),
    (Recorder, "drop", do_nothing, "bytes reserved in the store are left"),
    (upstream_request, "may_retry", always, "unsafe retry"),
    (upstream_request, "MAX_ATTEMPTS", 9, " times"),
    (Store, "is_outdated", never, "the wrong"),
    (forward, "answer_stale", do_nothing, "requests without an answer"),
]
"""What is replaced, by what, and part of the check's message."""


@pytest.mark.parametrize(
    ("owner", "name", "defect", "message"), DEFECTS, ids=[name for _, name, _, _ in DEFECTS]
)
def test_planted_defect_fails_a_check(
    monkeypatch: pytest.MonkeyPatch,
    failures: list[LogEvent],
    owner: Any,
    name: str,
    defect: Any,
    message: str,
) -> None:
    monkeypatch.setattr(owner, name, defect)
    found = next((failure for seed in range(60) if (failure := run_simulation(seed)[1])), "")
    failures.clear()
    assert found
    assert message in found
