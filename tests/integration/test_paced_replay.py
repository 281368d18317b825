"""Stored event streams are replayed at once or with the original timing."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from goproxyai.proxy.replay import TimedReplay
from tests.integration.cached_requests import (
    CHAT,
    CHUNKED,
    EVENTS,
    QUESTION,
    SSE_TYPE,
    ask_twice,
    start_numbered,
    x_cache,
)
from tests.support.answers import chunk, head
from tests.support.harness import ProxyHarness, SkewedReactor, eventually, post
from tests.support.steps import Pause


class Paced(SkewedReactor):
    """A reactor whose replay timers run in :meth:`pass_time` only."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.clock = Clock()

    def callLater(self, delay: float, function: Any, *args: Any, **kw: Any) -> Any:
        if delay > 0 and isinstance(getattr(function, "__self__", None), TimedReplay):
            return self.clock.callLater(delay, function, *args, **kw)
        return self._reactor.callLater(delay, function, *args, **kw)

    def pass_time(self, seconds: float) -> None:
        self.skew += seconds
        self.clock.advance(seconds)


@pytest.fixture
def paced(harness: ProxyHarness) -> Paced:
    """The reactor of the harness; a test advances its replay timers."""
    harness.reactor = Paced(harness.reactor)
    return harness.reactor


PACED = [("X-Cache-Replay", "paced")]


async def recorded(harness: ProxyHarness, clock: Paced) -> bytes:
    """Store a stream whose events are ten seconds apart; return the body."""
    gates = [Pause() for _ in EVENTS]
    steps: list[Any] = [head(200, [SSE_TYPE, CHUNKED])]
    for gate, each in zip(gates, EVENTS, strict=True):
        steps += [gate, chunk(each)]
    harness.upstream.script(CHAT, [*steps, chunk(b"")])
    wire = await harness.connect()
    wire.send(post(CHAT, QUESTION))
    for gate, each in zip(gates, EVENTS, strict=True):
        await harness.upstream.wait_for(lambda one: one.paused)
        gate.release()
        await wire.until(lambda each=each: each in wire.received)  # type: ignore[misc]
        clock.pass_time(10.0)
    return (await wire.answer()).body


@pytest_twisted.ensureDeferred
async def test_stream_is_replayed_at_once_or_paced(harness: ProxyHarness, paced: Paced) -> None:
    await harness.start()
    body = await recorded(harness, paced)
    at_once = await harness.ask(post(CHAT, QUESTION))
    assert (at_once.get("X-Cache"), at_once.body) == (b"HIT", body)
    wire = await harness.connect()
    wire.send(post(CHAT, QUESTION, PACED))
    for number, each in enumerate(EVENTS[:-1]):
        await wire.until(lambda each=each: each in wire.received)  # type: ignore[misc]
        assert EVENTS[number + 1] not in wire.received
        paced.pass_time(9.0)
        await eventually(harness.reactor, lambda: True)
        assert EVENTS[number + 1] not in wire.received
        paced.pass_time(1.1)
    hit = await wire.answer()
    assert hit.body == body
    assert (hit.get("Transfer-Encoding"), hit.get("Content-Length")) == (b"chunked", None)
    assert b"; detail=paced" in (hit.get("Cache-Status") or b"")
    assert "X-Cache-Replay" not in str(harness.upstream.requests[0].headers)
    wire.send(post(CHAT, QUESTION))
    assert x_cache(await wire.answer()) == [b"HIT"]
    assert [one["cache"] for one in await harness.logged(4)] == ["MISS", "HIT", "HIT", "HIT"]


@pytest_twisted.ensureDeferred
async def test_paced_replay_catches_up_with_the_original(
    harness: ProxyHarness, paced: Paced
) -> None:
    await harness.start()
    body = await recorded(harness, paced)
    wire = await harness.connect()
    wire.send(post(CHAT, QUESTION, PACED))
    await wire.until(lambda: EVENTS[0] in wire.received)
    paced.pass_time(10.0 * len(EVENTS))
    assert (await wire.answer()).body == body


@pytest_twisted.ensureDeferred
async def test_client_that_disconnects_during_paced_replay_leaves_no_timer(
    harness: ProxyHarness, paced: Paced
) -> None:
    await harness.start()
    await recorded(harness, paced)
    wire = await harness.connect()
    wire.send(post(CHAT, QUESTION, PACED))
    await wire.until(lambda: EVENTS[0] in wire.received)
    wire.abort()
    assert harness.daemon is not None
    await eventually(harness.reactor, lambda: not paced.clock.getDelayedCalls())
    assert (await harness.logged(2))[1]["ended"] == "client_gone"


@pytest_twisted.ensureDeferred
async def test_whole_response_is_not_paced(harness: ProxyHarness) -> None:
    await start_numbered(harness)
    asked = post(CHAT, QUESTION, PACED)
    miss, hit = await ask_twice(harness, asked)
    assert (x_cache(miss, hit), hit.body) == ([b"MISS", b"HIT"], miss.body)
