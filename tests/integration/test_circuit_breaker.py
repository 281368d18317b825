"""Open circuits, probes and health probes."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import tcp

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
async def test_successful_trial_closes_circuit(
    skewed_harness: ProxyHarness,
) -> None:
    await start_with_open_circuit(skewed_harness)
    skewed_harness.reactor.skew += 5.0
    assert (await skewed_harness.ask(request("/health/ready"))).status == 200, (
        "otherwise no request becomes the trial"
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
async def test_cancelled_trial_is_replaced(skewed_harness: ProxyHarness) -> None:
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
async def test_failed_trial_doubles_open_time(skewed_harness: ProxyHarness) -> None:
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


# One client's share.


def of_client(address: str, target: str, number: int) -> bytes:
    return request(f"{target}?{number}", headers=[("X-Forwarded-For", address)])


@pytest_twisted.ensureDeferred
async def test_failures_of_one_client_leave_circuit_closed_for_others(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script(lambda one: one.path == "/v1/reset", [Reset()])
    harness.upstream.script(lambda one: one.path == "/v1/models", response(b"{}"))
    statuses: dict[str, list[int]] = {"192.0.2.1": [], "192.0.2.2": []}
    for _ in range(2 * MIN_REQUESTS):
        for client, target in (
            ("192.0.2.2", "/v1/models"), ("192.0.2.1", "/v1/reset"), ("192.0.2.1", "/v1/reset"),
        ):  # fmt: skip
            answer = await harness.ask(of_client(client, target, len(statuses[client])))
            statuses[client].append(answer.status)
    assert set(statuses["192.0.2.2"]) == {200}
    assert set(statuses["192.0.2.1"]) == {502}


@pytest_twisted.ensureDeferred
async def test_failures_of_many_clients_open_circuit(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, response(b"{}"))
    assert (await harness.ask(of_client("192.0.2.1", "/v1/models", 0))).status == 200
    harness.upstream.script(lambda _: True, [Reset()])
    for number in range(MIN_REQUESTS + 2):
        answer = await harness.ask(of_client(f"192.0.2.{number}", "/v1/models", number + 1))
    assert error_code(answer) == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_stalled_uploads_do_not_delay_the_trial(skewed_harness: ProxyHarness) -> None:
    await start_with_open_circuit(skewed_harness)
    skewed_harness.upstream.script(lambda _: True, response(b"{}"))
    skewed_harness.reactor.skew += 5.0
    for number in range(3):
        stalled = await skewed_harness.connect()
        stalled.send(request("/v1/files", "POST", [("Content-Length", "100000")]) + b"x" * 1000)
        if number == 0:
            await skewed_harness.upstream.wait_for(lambda one: one.path == "/v1/files")
        else:
            assert error_code(await stalled.answer()) == "circuit_open"
    assert (await skewed_harness.ask(request("/v1/other"))).status == 200
    assert (await skewed_harness.ask(request("/v1/another"))).status == 200


@pytest_twisted.ensureDeferred
async def test_successful_upload_closes_circuit(skewed_harness: ProxyHarness) -> None:
    await start_with_open_circuit(skewed_harness)
    skewed_harness.upstream.script(lambda _: True, response(b"{}"))
    skewed_harness.reactor.skew += 5.0
    client = await skewed_harness.connect()
    client.send(request("/v1/files", "POST", [("Content-Length", "1100")]) + b"x" * 1000)
    await skewed_harness.upstream.wait_for(lambda one: one.path == "/v1/files")
    client.send(b"x" * 100)
    assert (await client.answer()).status == 200
    assert (await skewed_harness.ask(request("/v1/other"))).status == 200


@pytest_twisted.ensureDeferred
async def test_lack_of_descriptors_is_a_503_and_leaves_circuit_closed(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    await harness.start()
    assert harness.daemon is not None
    client = await harness.connect()
    with monkeypatch.context() as patch:
        patch.setattr(tcp.Client, "createInternetSocket", refuse)
        for number in range(MIN_REQUESTS + 1):
            client.send(request(f"/v1/{number}", "POST", body=b"{}"))
            answer = await client.answer()
            assert (answer.status, error_code(answer)) == (503, "overloaded")
            assert answer.get("Retry-After") == b"1"
    events = await harness.logged()
    assert [each["code"] for each in events] == ["overloaded"] * (MIN_REQUESTS + 1)
    assert "Too many open files" in events[0]["detail"]
    assert harness.daemon.context.upstreams.first.breaker.closed
    client.send(request())
    assert (await client.answer()).status == 200


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


@pytest_twisted.ensureDeferred
async def test_slow_health_probes_leave_circuit_closed_while_requests_are_answered(
    harness: ProxyHarness,
) -> None:
    await harness.start(HEALTH_PROBE="/v1/health")
    assert harness.daemon is not None
    probe = harness.daemon.maintenance.health_probe
    assert probe is not None
    harness.upstream.script("/v1/health", [Pause()])
    harness.upstream.script("/v1/models", response(b"{}"))
    for number in range(MIN_REQUESTS):
        probe.probe_all()
        assert (await harness.ask(request(f"/v1/models?{number}"))).status == 200
    assert (await harness.ask(request("/health/ready"))).status == 200
