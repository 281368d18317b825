"""Slow requests and samples in the access log."""

from __future__ import annotations

import pytest_twisted

from tests.integration.concurrent_requests import wait_for_pauses
from tests.integration.test_usage_metering import CHAT, DONE, LAST, PLAIN, WORD, counters, streamed
from tests.support.answers import response
from tests.support.harness import ProxyHarness, SkewedReactor, eventually, post, request
from tests.support.steps import Pause


@pytest_twisted.ensureDeferred
async def test_replay_left_late_is_not_slow(harness: ProxyHarness) -> None:
    clock = SkewedReactor(harness.reactor)
    harness.reactor = clock
    await harness.start(LOG_SLOW="10s")
    gate = Pause()
    harness.upstream.script(CHAT, streamed(WORD, gate, LAST, DONE, b""))
    first = await harness.connect()
    first.send(post(CHAT, PLAIN))
    await first.until(lambda: b"word" in first.received)
    clock.skew += 30
    gate.release()
    await first.answer()
    second = await harness.connect()
    second.send(post(CHAT, PLAIN, [("X-Cache-Replay", "paced")]))
    await second.until(lambda: b"word" in second.received)
    assert counters(harness).open_streams == 1
    clock.skew += 15
    second.abort()
    await eventually(harness.reactor, lambda: counters(harness).finished.client_gone == 1)
    assert (counters(harness).open_streams, counters(harness).finished.slow) == (0, 0)
    assert "slow" not in (await harness.logged(2))[1]


@pytest_twisted.ensureDeferred
async def test_slow_request_is_marked_and_counted(harness: ProxyHarness) -> None:
    clock = SkewedReactor(harness.reactor)
    harness.reactor = clock
    await harness.start(LOG_SLOW="5s", REQUEST_TIMEOUT="1h", IDLE_TIMEOUT="1h")
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, response(b"{}")])
    harness.upstream.script("/v1/quick", response(b"{}"))
    wire = await harness.connect()
    wire.send(request())
    await wait_for_pauses(harness)
    clock.skew += 6
    gate.release()
    await wire.answer()
    await harness.ask(request("/v1/quick"))
    slow, quick = await harness.logged(2)
    assert slow["slow"] is True
    assert "slow" not in quick
    assert counters(harness).finished.slow == 1


@pytest_twisted.ensureDeferred
async def test_sample_contains_all_failures_and_all_is_counted(harness: ProxyHarness) -> None:
    await harness.start(LOG_SAMPLE="0", COALESCE="off")
    harness.upstream.script("/v1/bad", response(b"{}", 500))
    for target in ("/v1/models", "/v1/bad", "/v1/models", "/nowhere", "/v1/x"):
        await harness.ask(request(target))
    assert counters(harness).finished.count == 5
    assert [one["path"] for one in harness.events] == ["/v1/bad", "/nowhere", "/v1/x"]
    assert not any("sample" in one for one in harness.events)


@pytest_twisted.ensureDeferred
async def test_sampled_events_carry_the_share(harness: ProxyHarness) -> None:
    await harness.start(LOG_SAMPLE="0.5", COALESCE="off")
    for _ in range(64):
        await harness.ask(request())
    counters(harness)
    assert 0 < len(harness.events) < 64
    assert {one["sample"] for one in harness.events} == {0.5}
