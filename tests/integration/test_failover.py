"""Several upstreams, retries that go round, circuits that open meanwhile, and what a drain cuts."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from goproxyai.config import env_file as envfile
from goproxyai.config.sources import VARIABLE_NAMES
from goproxyai.daemon import maintenance
from goproxyai.daemon.reload import apply_settings
from goproxyai.limits.addresses import Networks
from goproxyai.proxy import upstream_request as asking
from goproxyai.proxy.health_probe import MAX_FAILURES_IN_A_ROW
from goproxyai.proxy.upstreams import Upstream
from goproxyai.upstream.breaker import MIN_REQUESTS
from tests.integration.test_retries import broken, closed_port, code, counted
from tests.support.answers import response
from tests.support.harness import ProxyHarness, eventually, request
from tests.support.serving import loopback
from tests.support.steps import Pause, Reset

DELETE = request("/v1/x", "DELETE")


def upstreams(harness: ProxyHarness) -> tuple[Upstream, ...]:
    assert harness.daemon is not None
    return harness.daemon.context.upstreams.each


async def two(harness: ProxyHarness, **texts: str) -> tuple[Upstream, ...]:
    """A daemon before two upstreams, ``/a`` and ``/b``, which are one double."""
    first = await harness.upstream.listen(loopback(harness.reactor))
    second = await harness.upstream.listen(loopback(harness.reactor))
    urls = f"http://127.0.0.1:{first}/a http://127.0.0.1:{second}/b"
    await harness.start(upstream=urls, **texts)
    return upstreams(harness)


def opened(upstream: Upstream, now: float) -> None:
    for _ in range(2 * MIN_REQUESTS):
        upstream.breaker.record_failure(now)
    assert not upstream.breaker.closed


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was asked about waiting; nobody waits."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(asking, "backoff_seconds", lambda *given: asked.append(given) or 0.0)
    return asked


@pytest_twisted.ensureDeferred
async def test_the_first_is_asked_again_once_it_is_back(skewed_harness: ProxyHarness) -> None:
    first, second = await two(skewed_harness)
    skewed_harness.upstream.script(lambda _: True, response(b"{}"))
    opened(first, skewed_harness.reactor.seconds())
    assert (await skewed_harness.ask(request("/v1/1"))).status == 200
    assert skewed_harness.upstream.requests[-1].path == "/b/v1/1"
    skewed_harness.reactor.skew += 5.0
    assert (await skewed_harness.ask(request("/v1/2"))).status == 200
    assert skewed_harness.upstream.requests[-1].path == "/a/v1/2"
    assert first.breaker.closed
    assert second.breaker.closed


@pytest_twisted.ensureDeferred
async def test_going_round_waits_before_it_comes_back(
    harness: ProxyHarness, waits: list[tuple[Any, ...]]
) -> None:
    ports = [await closed_port(harness) for _ in range(2)]
    await harness.start(upstream=" ".join(f"http://127.0.0.1:{port}" for port in ports))
    assert (await harness.ask(request())).status == 502
    assert counted(harness)["connect"] == 2
    assert len(waits) == 1, "the next is asked at once, the first not again"


@pytest_twisted.ensureDeferred
async def test_each_upstreams_retry_after_is_its_own(
    harness: ProxyHarness, waits: list[tuple[Any, ...]]
) -> None:
    await two(harness, RETRY_STATUS="503")
    harness.upstream.script("/a/v1/x", response(b"{}", 503, [(b"Retry-After", b"20")]))
    harness.upstream.script("/b/v1/x", response(b"{}", 503, [(b"Retry-After", b"9")]))
    await harness.ask(DELETE)
    assert [one.path for one in harness.upstream.requests] == ["/a/v1/x", "/b/v1/x", "/b/v1/x"]
    assert [rest for _, _, rest in waits] == [pytest.approx(9.0, abs=0.2)]


@pytest_twisted.ensureDeferred
async def test_a_circuit_that_opens_while_a_retry_waits_says_when_to_come_back(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "backoff_seconds", lambda *_: 0.2)
    await harness.start(RETRY_STATUS="503")
    harness.upstream.script(lambda _: True, response(b"{}", 503))
    wire = await harness.connect()
    wire.send(DELETE)
    await eventually(harness.reactor, lambda: counted(harness)["status"] == 1)
    opened(upstreams(harness)[0], harness.reactor.seconds())
    answer = await wire.answer()
    assert code(answer) == "circuit_open"
    assert int(answer.get("Retry-After") or b"") >= 1


@pytest_twisted.ensureDeferred
async def test_a_retry_takes_whoever_is_there_when_its_time_comes(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "backoff_seconds", lambda *_: 0.2)
    first, second = await two(harness, RETRY_STATUS="503")
    harness.upstream.script("/a/v1/x", response(b"{}", 503))
    harness.upstream.script("/b/v1/x", response(b"{}"))
    opened(second, harness.reactor.seconds())
    wire = await harness.connect()
    wire.send(DELETE)
    await eventually(harness.reactor, lambda: counted(harness)["status"] == 1)
    second.breaker.record_success()
    opened(first, harness.reactor.seconds())
    assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_all_tries_together_end_with_the_clients_patience(
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
async def test_a_retry_is_no_probe_any_more(skewed_harness: ProxyHarness) -> None:
    await broken(skewed_harness, RETRY_STATUS="503")
    skewed_harness.reactor.skew += 5.0
    asked = len(skewed_harness.upstream.requests)
    skewed_harness.upstream.script("/v1/a", response(b"{}", 503), times=1)
    skewed_harness.upstream.script(
        lambda one: one.path == "/v1/a" and one.number > asked + 1, [Pause()]
    )
    retried = await skewed_harness.connect()
    retried.send(request("/v1/a"))
    await skewed_harness.upstream.wait_for(lambda one: one.paused)
    opened(upstreams(skewed_harness)[0], skewed_harness.reactor.seconds())
    skewed_harness.reactor.skew += 5.0
    skewed_harness.upstream.script("/v1/b", [Pause()])
    probe = await skewed_harness.connect()
    probe.send(request("/v1/b"))
    await skewed_harness.upstream.wait_for(lambda one: one.paused and one.path == "/v1/b")
    retried.abort()
    await skewed_harness.upstream.wait_for(lambda one: one.lost and one.path == "/v1/a")
    assert code(await skewed_harness.ask(request("/v1/c"))) == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_a_probe_that_takes_for_ever_is_followed_by_another(
    skewed_harness: ProxyHarness,
) -> None:
    await broken(skewed_harness)
    skewed_harness.upstream.script(lambda _: True, response(b"{}"))
    skewed_harness.reactor.skew += 5.0
    slow = await skewed_harness.connect()
    slow.send(request("/v1/files", "POST", [("Content-Length", "100000")]) + b"x" * 1000)
    await skewed_harness.upstream.wait_for(lambda one: one.path == "/v1/files")
    assert code(await skewed_harness.ask(request("/v1/other"))) == "circuit_open"
    skewed_harness.reactor.skew += 10.0
    assert (await skewed_harness.ask(request("/v1/other"))).status == 200


@pytest_twisted.ensureDeferred
async def test_who_joins_a_probe_keeps_it_alive_and_no_longer(skewed_harness: ProxyHarness) -> None:
    await broken(skewed_harness)
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
    assert code(await skewed_harness.ask(request("/v1/q"))) == "circuit_open"
    follower.abort()
    await skewed_harness.upstream.wait_for(lambda one: one.lost and one.path == "/v1/p")
    skewed_harness.upstream.script("/v1/q", response(b"{}"))
    assert (await skewed_harness.ask(request("/v1/q"))).status == 200


@pytest_twisted.ensureDeferred
async def test_failed_health_probes_in_a_row_open_the_circuit(harness: ProxyHarness) -> None:
    await harness.start(HEALTH_PROBE="/v1/models")
    assert harness.daemon is not None
    probing = harness.daemon.maintenance.health_probe
    assert probing is not None
    harness.upstream.script(lambda _: True, response(b"{}", 500))
    breaker = upstreams(harness)[0].breaker
    for _ in range(MAX_FAILURES_IN_A_ROW):
        probing.probe_all()
        await eventually(harness.reactor, lambda: not probing.pending)
    assert not breaker.closed
    assert code(await harness.ask(request("/health/ready"))) == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_a_407_on_the_way_is_no_answer(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, response(b"", 407))
    wire = await harness.connect()
    for number in range(MIN_REQUESTS + 1):
        wire.send(request(f"/v1/{number}"))
        answer = await wire.answer()
    assert code(answer) == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_a_timeout_counts_for_nothing_where_others_are_answered(
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
    skewed_harness.reactor.skew += 5.0
    assert (await skewed_harness.ask(request("/v1/models"))).status == 200
    breaker = upstreams(skewed_harness)[0].breaker
    await eventually(skewed_harness.reactor, lambda: not breaker.successes)
    skewed_harness.reactor.skew += 30.0
    for wire in slow:
        assert (await wire.answer()).status == 504
    assert breaker.closed


@pytest_twisted.ensureDeferred
async def test_a_write_that_never_went_out_drops_nothing(skewed_harness: ProxyHarness) -> None:
    await broken(skewed_harness)
    assert code(await skewed_harness.ask(request("/v1/stored", "DELETE"))) == "circuit_open"
    assert (await skewed_harness.ask(request("/v1/stored"))).get("X-Cache") == b"HIT"


@pytest_twisted.ensureDeferred
async def test_the_log_says_nothing_of_an_answer_that_was_turned_away(
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
async def test_nothing_is_left_of_a_retry_that_waits_as_the_daemon_stops(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "backoff_seconds", lambda *_: 20.0)
    await harness.start(RETRY_STATUS="503", DRAIN_TIMEOUT="100ms", HEALTH_PROBE="/v1/probe")
    harness.upstream.script(lambda one: one.path == "/v1/probe", [Pause()])
    harness.upstream.script(lambda one: one.path != "/v1/probe", response(b"{}", 503))
    alone, flight = await harness.connect(), await harness.connect()
    alone.send(DELETE)
    flight.send(request("/v1/y"))
    await eventually(harness.reactor, lambda: counted(harness)["status"] == 2)
    assert harness.daemon is not None
    await harness.daemon.stopService()
    harness.daemon = None
    assert [code(await wire.answer()) for wire in (alone, flight)] == ["draining"] * 2
    assert [event["code"] for event in harness.events] == ["draining"] * 2


@pytest_twisted.ensureDeferred
async def test_what_a_drain_cuts_before_it_began_is_told_so(harness: ProxyHarness) -> None:
    await harness.start(DRAIN_TIMEOUT="100ms")
    harness.upstream.script(lambda _: True, [Pause()])
    wire = await harness.connect()
    wire.send(request())
    await harness.upstream.wait_for(lambda one: one.paused)
    assert harness.daemon is not None
    await harness.daemon.stopService()
    harness.daemon = None
    answer = await wire.answer()
    assert (answer.status, code(answer)) == (503, "draining")
    assert answer.get("Connection") == b"close"


@pytest_twisted.ensureDeferred
async def test_who_is_trusted_by_a_reload_is_so_at_the_entrance(harness: ProxyHarness) -> None:
    await harness.start(MAX_CONNECTIONS_PER_CLIENT="1", TRUSTED_PROXIES="")
    assert harness.daemon is not None
    trusting = attrs.evolve(harness.daemon.settings, trusted_proxies=Networks.parse("127.0.0.0/8"))
    apply_settings(harness.daemon, trusting)
    for wire in (await harness.connect(), await harness.connect()):
        wire.send(request())
        assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_what_is_under_way_as_the_cache_is_turned_off_is_not_stored(
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


def test_a_secret_that_wrapped_is_not_repeated() -> None:
    with pytest.raises(envfile.EnvFileError) as complaint:
        envfile.parse_env_file(b"CACHE_SNAPSHOT_KEY=\nc2VjcmV0c2VjcmV0c2VjcmV0==\n", VARIABLE_NAMES)
    assert "c2Vj" not in str(complaint.value)
