"""Failover between upstreams, circuits that open during a retry, and requests cut by a stop."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from goproxyai.daemon import maintenance
from goproxyai.daemon.reload import apply_settings
from goproxyai.limits.addresses import TrustedProxies
from goproxyai.proxy import upstream_request
from goproxyai.proxy.upstreams import Upstream
from goproxyai.upstream.breaker import MAX_PROBE_FAILURES, MIN_REQUESTS
from tests.integration.failing_upstreams import (
    closed_port,
    error_code,
    open_circuit,
    retry_counts,
    start_with_open_circuit,
)
from tests.support.answers import response
from tests.support.harness import ProxyHarness, eventually, request
from tests.support.serving import loopback
from tests.support.steps import Pause, Reset

DELETE = request("/v1/x", "DELETE")


def upstreams(harness: ProxyHarness) -> tuple[Upstream, ...]:
    assert harness.daemon is not None
    return harness.daemon.context.upstreams.all


async def start_with_two_upstreams(harness: ProxyHarness, **texts: str) -> tuple[Upstream, ...]:
    """Start a proxy with two upstreams, ``/a`` and ``/b``, which are the same fake upstream."""
    first = await harness.upstream.listen(loopback(harness.reactor))
    second = await harness.upstream.listen(loopback(harness.reactor))
    urls = f"http://127.0.0.1:{first}/a http://127.0.0.1:{second}/b"
    await harness.start(upstream=urls, **texts)
    return upstreams(harness)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Return the arguments of each backoff; the backoff takes no time."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        upstream_request, "backoff_seconds", lambda *given: asked.append(given) or 0.0
    )
    return asked


@pytest_twisted.ensureDeferred
async def test_recovered_upstream_is_preferred_again(skewed_harness: ProxyHarness) -> None:
    first, second = await start_with_two_upstreams(skewed_harness)
    skewed_harness.upstream.script(lambda _: True, response(b"{}"))
    open_circuit(first, skewed_harness.reactor.seconds())
    assert (await skewed_harness.ask(request("/v1/1"))).status == 200
    assert skewed_harness.upstream.requests[-1].path == "/b/v1/1"
    skewed_harness.reactor.skew += 5.0
    assert (await skewed_harness.ask(request("/v1/2"))).status == 200
    assert skewed_harness.upstream.requests[-1].path == "/a/v1/2"
    assert first.breaker.closed
    assert second.breaker.closed


@pytest_twisted.ensureDeferred
async def test_retry_waits_before_returning_to_the_first_upstream(
    harness: ProxyHarness, waits: list[tuple[Any, ...]]
) -> None:
    ports = [await closed_port(harness) for _ in range(2)]
    await harness.start(upstream=" ".join(f"http://127.0.0.1:{port}" for port in ports))
    assert (await harness.ask(request())).status == 502
    assert retry_counts(harness)["connect"] == 2
    assert len(waits) == 1, "the next upstream is tried without a backoff"


@pytest_twisted.ensureDeferred
async def test_retry_after_applies_to_its_upstream(
    harness: ProxyHarness, waits: list[tuple[Any, ...]]
) -> None:
    await start_with_two_upstreams(harness, RETRY_STATUS="503")
    harness.upstream.script("/a/v1/x", response(b"{}", 503, [(b"Retry-After", b"20")]))
    harness.upstream.script("/b/v1/x", response(b"{}", 503, [(b"Retry-After", b"9")]))
    await harness.ask(DELETE)
    assert [one.path for one in harness.upstream.requests] == ["/a/v1/x", "/b/v1/x", "/b/v1/x"]
    assert [rest for _, _, rest in waits] == [pytest.approx(9.0, abs=0.2)]


@pytest_twisted.ensureDeferred
async def test_circuit_that_opens_during_backoff_states_the_wait(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_request, "backoff_seconds", lambda *_: 0.2)
    await harness.start(RETRY_STATUS="503")
    harness.upstream.script(lambda _: True, response(b"{}", 503))
    wire = await harness.connect()
    wire.send(DELETE)
    await eventually(harness.reactor, lambda: retry_counts(harness)["status"] == 1)
    open_circuit(upstreams(harness)[0], harness.reactor.seconds())
    answer = await wire.answer()
    assert error_code(answer) == "circuit_open"
    assert int(answer.get("Retry-After") or b"") >= 1


@pytest_twisted.ensureDeferred
async def test_retry_uses_an_upstream_available_after_backoff(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_request, "backoff_seconds", lambda *_: 0.2)
    first, second = await start_with_two_upstreams(harness, RETRY_STATUS="503")
    harness.upstream.script("/a/v1/x", response(b"{}", 503))
    harness.upstream.script("/b/v1/x", response(b"{}"))
    open_circuit(second, harness.reactor.seconds())
    wire = await harness.connect()
    wire.send(DELETE)
    await eventually(harness.reactor, lambda: retry_counts(harness)["status"] == 1)
    second.breaker.record_success()
    open_circuit(first, harness.reactor.seconds())
    assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_request_timeout_covers_all_attempts(
    harness: ProxyHarness, waits: list[tuple[Any, ...]]
) -> None:
    await harness.start(RETRY_STATUS="503", REQUEST_TIMEOUT="400ms")
    harness.upstream.script(lambda one: one.number == 1, response(b"{}", 503))
    harness.upstream.script(lambda one: one.number > 1, [Pause()])
    wire = await harness.connect()
    wire.send(DELETE)
    await harness.upstream.wait_for(lambda one: one.paused)
    assert (await wire.answer()).status == 504
    await harness.upstream.wait_for(lambda one: one.lost)
    assert len(harness.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_retry_of_a_trial_is_no_longer_the_trial(skewed_harness: ProxyHarness) -> None:
    await start_with_open_circuit(skewed_harness, RETRY_STATUS="503")
    skewed_harness.reactor.skew += 5.0
    asked = len(skewed_harness.upstream.requests)
    skewed_harness.upstream.script("/v1/a", response(b"{}", 503), times=1)
    skewed_harness.upstream.script(
        lambda one: one.path == "/v1/a" and one.number > asked + 1, [Pause()]
    )
    retried = await skewed_harness.connect()
    retried.send(request("/v1/a"))
    await skewed_harness.upstream.wait_for(lambda one: one.paused)
    open_circuit(upstreams(skewed_harness)[0], skewed_harness.reactor.seconds())
    skewed_harness.reactor.skew += 5.0
    skewed_harness.upstream.script("/v1/b", [Pause()])
    probe = await skewed_harness.connect()
    probe.send(request("/v1/b"))
    await skewed_harness.upstream.wait_for(lambda one: one.paused and one.path == "/v1/b")
    retried.abort()
    await skewed_harness.upstream.wait_for(lambda one: one.lost and one.path == "/v1/a")
    assert error_code(await skewed_harness.ask(request("/v1/c"))) == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_trial_without_outcome_is_replaced(
    skewed_harness: ProxyHarness,
) -> None:
    await start_with_open_circuit(skewed_harness)
    skewed_harness.upstream.script(lambda _: True, response(b"{}"))
    skewed_harness.reactor.skew += 5.0
    skewed_harness.upstream.script("/v1/slow", [Pause()])
    slow = await skewed_harness.connect()
    slow.send(request("/v1/slow"))
    await skewed_harness.upstream.wait_for(lambda one: one.path == "/v1/slow")
    assert error_code(await skewed_harness.ask(request("/v1/other"))) == "circuit_open"
    skewed_harness.reactor.skew += 10.0
    assert (await skewed_harness.ask(request("/v1/other"))).status == 200


@pytest_twisted.ensureDeferred
async def test_subscriber_of_trial_keeps_it_alive(skewed_harness: ProxyHarness) -> None:
    await start_with_open_circuit(skewed_harness)
    skewed_harness.reactor.skew += 5.0
    skewed_harness.upstream.script("/v1/p", [Pause()])
    leader, follower = await skewed_harness.connect(), await skewed_harness.connect()
    leader.send(request("/v1/p"))
    await skewed_harness.upstream.wait_for(lambda one: one.paused and one.path == "/v1/p")
    follower.send(request("/v1/p"))
    assert skewed_harness.daemon is not None
    counters = skewed_harness.daemon.context.counters
    await eventually(skewed_harness.reactor, lambda: counters.coalesced)
    leader.abort()
    await eventually(skewed_harness.reactor, lambda: counters.connections.closed)
    assert error_code(await skewed_harness.ask(request("/v1/q"))) == "circuit_open"
    follower.abort()
    await skewed_harness.upstream.wait_for(lambda one: one.lost and one.path == "/v1/p")
    skewed_harness.upstream.script("/v1/q", response(b"{}"))
    assert (await skewed_harness.ask(request("/v1/q"))).status == 200


@pytest_twisted.ensureDeferred
async def test_consecutive_failed_health_probes_open_circuit(harness: ProxyHarness) -> None:
    await harness.start(HEALTH_PROBE="/v1/models")
    assert harness.daemon is not None
    probing = harness.daemon.maintenance.health_probe
    assert probing is not None
    harness.upstream.script(lambda _: True, response(b"{}", 500))
    breaker = upstreams(harness)[0].breaker
    for _ in range(MAX_PROBE_FAILURES):
        probing.probe_all()
        await eventually(harness.reactor, lambda: not probing.pending)
    assert not breaker.closed
    assert error_code(await harness.ask(request("/health/ready"))) == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_407_of_egress_proxy_is_a_failure(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, response(b"", 407))
    wire = await harness.connect()
    for number in range(MIN_REQUESTS + 1):
        wire.send(request(f"/v1/{number}"))
        answer = await wire.answer()
    assert error_code(answer) == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_timeout_is_no_failure_while_others_succeed(
    skewed_harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "BREAKER_INTERVAL_SECONDS", 0.05)
    await skewed_harness.start()
    skewed_harness.upstream.script("/v1/slow", [Pause()])
    slow = [await skewed_harness.connect() for _ in range(MIN_REQUESTS)]
    for number, wire in enumerate(slow):
        wire.send(request(f"/v1/slow?{number}"))
    await skewed_harness.upstream.wait_until(
        lambda: sum(one.paused for one in skewed_harness.upstream.requests) == MIN_REQUESTS
    )
    skewed_harness.advance(5.0)
    assert (await skewed_harness.ask(request("/v1/models"))).status == 200
    breaker = upstreams(skewed_harness)[0].breaker
    await eventually(skewed_harness.reactor, lambda: not breaker.successes)
    skewed_harness.advance(30.0)
    for wire in slow:
        assert (await wire.answer()).status == 504
    assert breaker.closed


@pytest_twisted.ensureDeferred
async def test_unsent_write_drops_nothing(skewed_harness: ProxyHarness) -> None:
    await start_with_open_circuit(skewed_harness)
    assert error_code(await skewed_harness.ask(request("/v1/stored", "DELETE"))) == "circuit_open"
    assert (await skewed_harness.ask(request("/v1/stored"))).get("X-Cache") == b"HIT"


@pytest_twisted.ensureDeferred
async def test_log_omits_response_that_was_retried(
    harness: ProxyHarness, waits: list[tuple[Any, ...]]
) -> None:
    await harness.start(RETRY_STATUS="503")
    away = response(b"{}", 503, [(b"X-Request-Id", b"first")])
    harness.upstream.script(lambda one: one.number == 1, away)
    harness.upstream.script(lambda one: one.number > 1, [Reset()])
    assert (await harness.ask(DELETE)).status == 502
    (event,) = await harness.logged()
    assert "first" not in json.dumps(event)
    assert "upstream" not in event["ms"]


@pytest_twisted.ensureDeferred
async def test_stop_cancels_retry_in_backoff(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_request, "backoff_seconds", lambda *_: 20.0)
    await harness.start(RETRY_STATUS="503", DRAIN_TIMEOUT="100ms", HEALTH_PROBE="/v1/probe")
    harness.upstream.script(lambda one: one.path == "/v1/probe", [Pause()])
    harness.upstream.script(lambda one: one.path != "/v1/probe", response(b"{}", 503))
    alone, flight = await harness.connect(), await harness.connect()
    alone.send(DELETE)
    flight.send(request("/v1/y"))
    await eventually(harness.reactor, lambda: retry_counts(harness)["status"] == 2)
    assert harness.daemon is not None
    await harness.daemon.stopService()
    harness.daemon = None
    assert [error_code(await wire.answer()) for wire in (alone, flight)] == ["draining"] * 2
    assert [event["code"] for event in harness.events] == ["draining"] * 2


@pytest_twisted.ensureDeferred
async def test_drain_refuses_request_that_was_not_forwarded(harness: ProxyHarness) -> None:
    await harness.start(DRAIN_TIMEOUT="100ms")
    harness.upstream.script(lambda _: True, [Pause()])
    wire = await harness.connect()
    wire.send(request())
    await harness.upstream.wait_for(lambda one: one.paused)
    assert harness.daemon is not None
    await harness.daemon.stopService()
    harness.daemon = None
    answer = await wire.answer()
    assert (answer.status, error_code(answer)) == (503, "draining")
    assert answer.get("Connection") == b"close"


@pytest_twisted.ensureDeferred
async def test_reload_of_trusted_proxies_applies_to_connection_limits(
    harness: ProxyHarness,
) -> None:
    await harness.start(MAX_CONNECTIONS_PER_CLIENT="1", TRUSTED_PROXIES="")
    assert harness.daemon is not None
    trusting = attrs.evolve(
        harness.daemon.settings, trusted_proxies=TrustedProxies.parse("127.0.0.0/8")
    )
    apply_settings(harness.daemon, trusting)
    for wire in (await harness.connect(), await harness.connect()):
        wire.send(request())
        assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_response_in_flight_is_not_stored_after_cache_is_disabled(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    gate = Pause()
    harness.upstream.script(lambda _: True, [gate, response(b"{}")])
    wire = await harness.connect()
    wire.send(request())
    await harness.upstream.wait_for(lambda one: one.paused)
    assert harness.daemon is not None
    apply_settings(harness.daemon, attrs.evolve(harness.daemon.settings, cache_ttl=0.0))
    gate.release()
    assert (await wire.answer()).status == 200
    await deferLater(harness.reactor, 0)
    assert len(harness.daemon.context.store) == 0
