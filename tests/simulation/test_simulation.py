"""Whatever the order in which clients and upstreams act; see ``tests/simulation``."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from twisted.logger import LogEvent

from goproxyai.cache.store import Store
from goproxyai.proxy import single_flight as flight
from goproxyai.proxy import upstream_request as asking
from goproxyai.proxy.handler import ProxyHandler
from goproxyai.proxy.resume import ResumedForward
from goproxyai.proxy.single_flight import SingleFlight
from goproxyai.proxy.subscriber import Subscriber
from tests.simulation.run import lived
from tests.simulation.world import World

BATCH = 50
BATCHES = [range(first, first + BATCH) for first in range(0, 150, BATCH)]


@cache
def outcome(seed: int) -> tuple[Counter[str], str]:
    """What came up in the world of *seed*, and what was wrong; it is lived once for both."""
    world, told = lived(seed)
    return happened(world), told


@pytest.mark.parametrize("seeds", BATCHES, ids=[f"from {seeds.start}" for seeds in BATCHES])
def test_whatever_happens_each_gets_an_answer_to_his_question_or_none(seeds: range) -> None:
    assert [told for _, told in map(outcome, seeds) if told] == []


def test_a_seed_says_the_same_twice() -> None:
    first, second = (lived(7)[0] for _ in range(2))
    assert [client.got for client in first.clients] == [client.got for client in second.clients]


def happened(world: World) -> Counter[str]:
    """How often what this is about came up in a world."""
    counters, raw = world.counters, [got.raw for client in world.clients for got in client.got]
    return Counter(
        {
            "hits": counters.hits,
            "coalesced": counters.coalesced,
            "resumed": sum(isinstance(one, ResumedForward) for one in world.tries),
            "rescued": counters.rescues,
            "paced": sum(b"detail=paced" in each for each in raw),
            "left": sum(event.ended == "client_gone" for event in world.events),
            "cut": sum(event.ended == "cut" for event in world.events),
            "credentials apart": sum(asked.own and world.shared for asked in world.asked),
            **{f"again: {cause}": count for cause, count in counters.retries.items()},
        }
    )


def test_all_that_it_is_about_comes_up_in_many_worlds() -> None:
    worlds: Counter[str] = Counter()
    for seed in BATCHES[0]:
        worlds.update((+outcome(seed)[0]).keys())
    expected = {*outcome(0)[0]}
    assert {what for what in expected if worlds[what] < BATCH // 10} == set()


def nothing(*_: Any, **__: Any) -> None:
    """What a planted fault leaves undone."""


def always(*_: Any) -> bool:
    return True


def never(*_: Any) -> bool:
    return False


def loses_a_byte(rider: Subscriber, pieces: list[bytes], whole: Any = Subscriber._next) -> bytes:
    data: bytes = whole(rider, pieces)
    return data[1:] if len(data) > 100 else data


PLANTED = [
    (SingleFlight, "_flow", nothing, "upstream is read, and nobody takes what comes"),
    (SingleFlight, "_close", nothing, "are left"),
    (SingleFlight, "_stop", nothing, "upstream is read, and nobody"),
    (SingleFlight, "note", nothing, "events of"),
    (Subscriber, "_next", loses_a_byte, "was answered"),
    (ResumedForward, "_differs", nothing, "requests without an answer are left"),
    (flight, "may_share", always, "an answer for one was given to others"),
    (flight.Recorder, "release", nothing, "bytes reserved in the store are left"),
    (asking, "may_retry", always, "sent again"),
    (asking, "MAX_ATTEMPTS", 9, " times"),
    (Store, "is_outdated", never, "was answered"),
    (ProxyHandler, "rescue", nothing, "requests without an answer are left"),
]
"""What is put in the place of something, and what is complained of then."""


@pytest.mark.parametrize(
    ("owner", "name", "fault", "told"), PLANTED, ids=[name for _, name, _, _ in PLANTED]
)
def test_a_planted_fault_is_found(
    monkeypatch: pytest.MonkeyPatch,
    failures: list[LogEvent],
    owner: Any,
    name: str,
    fault: Any,
    told: str,
) -> None:
    monkeypatch.setattr(owner, name, fault)
    found = next((each for seed in range(60) if (each := lived(seed)[1])), "")
    failures.clear()
    assert found
    assert told in found
