"""The demo within this process, without its pauses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain, repeat
from typing import Any

import pytest
import pytest_twisted

from goproxyai.daemon.endpoints import ListenError
from goproxyai.demo import api, traffic
from goproxyai.demo.demo import Demo
from goproxyai.demo.phases import Period, Phase
from tests.support.harness import eventually
from tests.support.prompt import PROMPT_SECONDS

pytestmark = pytest.mark.usefixtures("collect_garbage")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the API and the clients pause for milliseconds only."""
    monkeypatch.setattr(api, "FIRST_BYTE_SECONDS", (0.001, 0.002))
    monkeypatch.setattr(api, "PIECE_SECONDS", 0.001)
    monkeypatch.setattr(traffic, "QUICK_SECONDS", 0.01)
    monkeypatch.setattr(traffic, "CALM_SECONDS", (0.02, 0.03))
    monkeypatch.setattr(traffic, "BATCH_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(traffic, "DISCONNECT_SECONDS", 0.003)


@pytest_twisted.async_yield_fixture
async def reactor(quick: None) -> AsyncIterator[Any]:
    from twisted.internet import reactor

    yield reactor


Start = Callable[..., Demo]


@pytest_twisted.async_yield_fixture
async def start(reactor: Any) -> AsyncIterator[Start]:
    """Start demos; stop them after the test."""
    running: list[Demo] = []

    def started(phases: Iterator[Period], told: Callable[[str], None] = pytest.fail) -> Demo:
        demo = Demo(reactor, phases, told)
        demo.start(0)
        running.append(demo)
        return demo

    yield started
    for demo in running:
        await demo.stop()


NORMAL = Period(Phase.NORMAL, 60.0)


def stats(demo: Demo) -> dict[str, Any]:
    demo.daemon.context.access_log.flush()
    return demo.daemon.admin.stats.document()


@pytest_twisted.ensureDeferred
async def test_demo_has_hits_misses_streams_errors_and_a_limited_client(
    reactor: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "RARE_FAILURE", 40)
    demo = start(repeat(NORMAL))

    def complete() -> bool:
        document = stats(demo)
        cache, requests = document["cache"], document["requests"]
        return bool(
            min(cache["hits"], cache["misses"], cache["bypasses"], requests["limited"]) >= 3
            and requests["by_status"]["4xx"] > requests["limited"]  # a wrong key
            and requests["by_status"]["5xx"]
            and requests["client_gone"]
            and requests["stream_gap"]["max_ms"]
            and all((document["tokens"]["money"] or {"": 0}).values())
        )

    await eventually(reactor, complete, 120.0)
    assert stats(demo)["config"]["RATE_LIMIT"] == {"value": "30", "source": "environment"}


@pytest_twisted.ensureDeferred
async def test_outage_ends_the_connections_that_are_kept(reactor: Any, start: Start) -> None:
    phases = chain([Period(Phase.NORMAL, 1.0)], repeat(Period(Phase.AWAY, 60.0)))
    demo = start(phases, lambda line: None)
    pool = demo.daemon.context.client.pool
    await eventually(reactor, lambda: len(pool) > 0, 30.0)
    await eventually(reactor, lambda: demo.api.phase is Phase.AWAY, 30.0)
    await eventually(reactor, lambda: len(pool) == 0, PROMPT_SECONDS)


@pytest_twisted.ensureDeferred
async def test_phases_of_the_api_cause_errors_and_end(reactor: Any, start: Start) -> None:
    told: list[str] = []
    phases = chain(
        [Period(Phase.LIMITING, 0.2), Period(Phase.FAILING, 0.2), Period(Phase.AWAY, 0.3)],
        repeat(NORMAL),
    )
    demo = start(phases, told.append)
    port = demo.api.port
    await eventually(reactor, lambda: len(told) == 4, 30.0)
    assert told == [
        Phase.LIMITING.value, Phase.FAILING.value, Phase.AWAY.value, Phase.NORMAL.value,
    ]  # fmt: skip
    assert stats(demo)["errors"]["upstream_unreachable"]
    hits = stats(demo)["requests"]["by_status"]["2xx"]
    await eventually(reactor, lambda: stats(demo)["requests"]["by_status"]["2xx"] > hits + 5, 30.0)
    assert demo.api.port == port


@pytest_twisted.ensureDeferred
async def test_demo_that_stops_in_an_outage_leaves_nothing(reactor: Any, start: Start) -> None:
    demo = start(repeat(Period(Phase.AWAY, 60.0)), lambda line: None)
    await eventually(reactor, lambda: stats(demo)["errors"], 30.0)


@pytest_twisted.ensureDeferred
async def test_port_in_use_is_one_line(reactor: Any, start: Start) -> None:
    port = start(repeat(NORMAL)).daemon.listeners.addresses[0].port
    second = Demo(reactor, repeat(NORMAL), pytest.fail)
    with pytest.raises(ListenError, match=f"cannot listen on tcp:{port}:.* in use"):
        second.start(port)
    await second.api.close()
