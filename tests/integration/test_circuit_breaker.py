"""Open circuits, probes and health probes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from goproxyai.proxy import upstream_request
from goproxyai.upstream.breaker import MIN_REQUESTS
from tests.integration.failing_upstreams import error_code, start_with_open_circuit
from tests.support.answers import response
from tests.support.harness import ProxyHarness, eventually, request
from tests.support.steps import Pause, Reset


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each backoff take no time: the random number is zero."""
    monkeypatch.setattr(upstream_request, "random", lambda: 0.0)


@pytest_twisted.ensureDeferred
async def test_failing_upstream_gets_no_requests_while_open(skewed_harness: ProxyHarness) -> None:
    await start_with_open_circuit(skewed_harness)
    count = len(skewed_harness.upstream.requests)
    assert error_code(await skewed_harness.ask(request("/v1/new"))) == "circuit_open"
    assert error_code(await skewed_harness.ask(request("/v1/x", "DELETE"))) == "circuit_open"
    assert (await skewed_harness.ask(request("/v1/stored"))).get("X-Cache") == b"HIT"
    ready = await skewed_harness.ask(request("/health/ready"))
    assert (ready.status, error_code(ready)) == (503, "circuit_open")
    assert (await skewed_harness.ask(request("/health"))).status == 200
    (told,) = json.loads((await skewed_harness.ask(request("/stats"))).body)["upstreams"]
    assert (told["circuit"], told["opened"]) == ("open", 1)
    assert len(skewed_harness.upstream.requests) == count


@pytest_twisted.ensureDeferred
async def test_successful_probe_closes_circuit(
    skewed_harness: ProxyHarness,
) -> None:
    await start_with_open_circuit(skewed_harness)
    skewed_harness.reactor.skew += 5.0
    assert (await skewed_harness.ask(request("/health/ready"))).status == 200, (
        "otherwise no request becomes the probe"
    )
    gate = Pause()
    skewed_harness.upstream.script(lambda _: True, [gate, response(b"{}")])
    probe = await skewed_harness.connect()
    probe.send(request("/v1/probe"))
    await skewed_harness.upstream.wait_for(lambda one: one.paused)
    assert error_code(await skewed_harness.ask(request("/v1/other"))) == "circuit_open"
    gate.release()
    assert (await probe.answer()).status == 200
    assert (await skewed_harness.ask(request("/v1/other"))).status == 200


@pytest_twisted.ensureDeferred
async def test_cancelled_probe_is_replaced(skewed_harness: ProxyHarness) -> None:
    await start_with_open_circuit(skewed_harness)
    skewed_harness.reactor.skew += 5.0
    skewed_harness.upstream.script(lambda _: True, [Pause()])
    probe = await skewed_harness.connect()
    probe.send(request("/v1/probe"))
    await skewed_harness.upstream.wait_for(lambda one: one.paused)
    probe.abort()
    await skewed_harness.upstream.wait_for(lambda one: one.lost and one.path == "/v1/probe")
    skewed_harness.upstream.script(lambda _: True, response(b"{}"))
    assert (await skewed_harness.ask(request("/v1/other"))).status == 200


@pytest_twisted.ensureDeferred
async def test_failed_probe_doubles_open_time(skewed_harness: ProxyHarness) -> None:
    await start_with_open_circuit(skewed_harness)
    skewed_harness.reactor.skew += 5.0
    assert (await skewed_harness.ask(request("/v1/probe"))).status == 502
    answer = await skewed_harness.ask(request("/v1/other"))
    assert 6 <= int(answer.get("Retry-After") or b"") <= 10


@pytest_twisted.ensureDeferred
async def test_expired_response_is_served_while_circuit_is_open(
    skewed_harness: ProxyHarness,
) -> None:
    await start_with_open_circuit(skewed_harness, CACHE_TTL="1s", CACHE_STALE="1h")
    skewed_harness.reactor.skew += 3.0
    stale = await skewed_harness.ask(request("/v1/stored"))
    assert (stale.status, stale.get("X-Cache")) == (200, b"HIT")
    assert b"stale-if-error" in (stale.get("Cache-Status") or b"")


@pytest_twisted.ensureDeferred
async def test_cancelled_requests_and_error_statuses_keep_circuit_closed(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, response(b"{}", 503))
    for number in range(MIN_REQUESTS + 5):
        assert (await harness.ask(request(f"/v1/{number}"))).status == 503
    harness.upstream.script(lambda _: True, [Pause()])
    for number in range(MIN_REQUESTS + 5):
        wire = await harness.connect()
        wire.send(request(f"/v1/left/{number}"))
        await harness.upstream.wait_for(lambda one, n=number: one.path == f"/v1/left/{n}")  # type: ignore[misc]
        wire.abort()
    harness.upstream.script(lambda _: True, response(b"{}"))
    assert (await harness.ask(request("/v1/well"))).status == 200


# Health probes.


@pytest_twisted.ensureDeferred
async def test_health_probe_has_no_credential(harness: ProxyHarness) -> None:
    await harness.start(HEALTH_PROBE="/v1/models")
    await harness.upstream.wait_for(lambda one: one.path == "/v1/models")
    (asked,) = harness.upstream.requests
    assert (asked.method, asked.all(b"authorization")) == (b"GET", [])


@pytest_twisted.ensureDeferred
async def test_successful_health_probe_closes_circuit(skewed_harness: ProxyHarness) -> None:
    await start_with_open_circuit(skewed_harness, HEALTH_PROBE="/v1/models")
    assert skewed_harness.daemon is not None
    probing = skewed_harness.daemon.maintenance.health_probe
    assert probing is not None
    skewed_harness.upstream.script(lambda _: True, response(b"{}", 401))
    probing.probe_all()
    await eventually(
        skewed_harness.reactor,
        lambda: skewed_harness.daemon.context.upstreams.all[0].breaker.closed,
    )
    assert (await skewed_harness.ask(request("/v1/new"))).status == 401


@pytest.mark.parametrize("failing", [[Reset()], response(b"{}", 500), [Pause()]])
@pytest_twisted.ensureDeferred
async def test_failed_health_probes_open_circuit(harness: ProxyHarness, failing: Any) -> None:
    await harness.start(HEALTH_PROBE="/v1/models")
    assert harness.daemon is not None
    maintenance = harness.daemon.maintenance
    harness.upstream.script(lambda _: True, failing)
    breaker = harness.daemon.context.upstreams.all[0].breaker
    for number in range(2 * MIN_REQUESTS):
        assert maintenance.health_probe is not None
        maintenance.health_probe.probe_all()
        await harness.upstream.wait_until(lambda n=number: len(harness.upstream.requests) > n)  # type: ignore[misc]
    await eventually(harness.reactor, lambda: not breaker.closed)
