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
from goproxyai.daemon import service
from goproxyai.limits.addresses import Networks
from goproxyai.proxy import upstream_request as asking
from goproxyai.proxy.health_probe import MAX_FAILURES_IN_A_ROW
from goproxyai.proxy.upstreams import Upstream
from goproxyai.upstream.breaker import MIN_REQUESTS
from tests.integration.test_retries import broken, closed_port, code, counted
from tests.support.answers import response
from tests.support.harness import Skewed, Stand, eventually, request
from tests.support.serving import loopback
from tests.support.steps import Pause, Reset

DELETE = request("/v1/x", "DELETE")


@pytest.fixture
def skewed(stand: Stand) -> Stand:
    stand.reactor = Skewed(stand.reactor)
    return stand


def upstreams(stand: Stand) -> tuple[Upstream, ...]:
    assert stand.daemon is not None
    return stand.daemon.handler.upstreams.each


async def two(stand: Stand, **texts: str) -> tuple[Upstream, ...]:
    """A daemon before two upstreams, ``/a`` and ``/b``, which are one double."""
    first = await stand.upstream.listen(loopback(stand.reactor))
    second = await stand.upstream.listen(loopback(stand.reactor))
    urls = f"http://127.0.0.1:{first}/a http://127.0.0.1:{second}/b"
    await stand.start(upstream=urls, **texts)
    return upstreams(stand)


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
async def test_the_first_is_asked_again_once_it_is_back(skewed: Stand) -> None:
    first, second = await two(skewed)
    skewed.upstream.script(lambda _: True, response(b"{}"))
    opened(first, skewed.reactor.seconds())
    assert (await skewed.ask(request("/v1/1"))).status == 200
    assert skewed.upstream.requests[-1].path == "/b/v1/1"
    skewed.reactor.ahead += 5.0
    assert (await skewed.ask(request("/v1/2"))).status == 200
    assert skewed.upstream.requests[-1].path == "/a/v1/2"
    assert first.breaker.closed
    assert second.breaker.closed


@pytest_twisted.ensureDeferred
async def test_going_round_waits_before_it_comes_back(
    stand: Stand, waits: list[tuple[Any, ...]]
) -> None:
    ports = [await closed_port(stand) for _ in range(2)]
    await stand.start(upstream=" ".join(f"http://127.0.0.1:{port}" for port in ports))
    assert (await stand.ask(request())).status == 502
    assert counted(stand)["connect"] == 2
    assert len(waits) == 1, "the next is asked at once, the first not again"


@pytest_twisted.ensureDeferred
async def test_each_upstreams_retry_after_is_its_own(
    stand: Stand, waits: list[tuple[Any, ...]]
) -> None:
    await two(stand, RETRY_STATUS="503")
    stand.upstream.script("/a/v1/x", response(b"{}", 503, [(b"Retry-After", b"20")]))
    stand.upstream.script("/b/v1/x", response(b"{}", 503, [(b"Retry-After", b"9")]))
    await stand.ask(DELETE)
    assert [one.path for one in stand.upstream.requests] == ["/a/v1/x", "/b/v1/x", "/b/v1/x"]
    assert [rest for _, _, rest in waits] == [pytest.approx(9.0, abs=0.2)]


@pytest_twisted.ensureDeferred
async def test_a_circuit_that_opens_while_a_retry_waits_says_when_to_come_back(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "backoff_seconds", lambda *_: 0.2)
    await stand.start(RETRY_STATUS="503")
    stand.upstream.script(lambda _: True, response(b"{}", 503))
    wire = await stand.connect()
    wire.send(DELETE)
    await eventually(stand.reactor, lambda: counted(stand)["status"] == 1)
    opened(upstreams(stand)[0], stand.reactor.seconds())
    answer = await wire.answer()
    assert code(answer) == "circuit_open"
    assert int(answer.get("Retry-After") or b"") >= 1


@pytest_twisted.ensureDeferred
async def test_a_retry_takes_whoever_is_there_when_its_time_comes(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "backoff_seconds", lambda *_: 0.2)
    first, second = await two(stand, RETRY_STATUS="503")
    stand.upstream.script("/a/v1/x", response(b"{}", 503))
    stand.upstream.script("/b/v1/x", response(b"{}"))
    opened(second, stand.reactor.seconds())
    wire = await stand.connect()
    wire.send(DELETE)
    await eventually(stand.reactor, lambda: counted(stand)["status"] == 1)
    second.breaker.record_success()
    opened(first, stand.reactor.seconds())
    assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_all_tries_together_end_with_the_clients_patience(
    stand: Stand, waits: list[tuple[Any, ...]]
) -> None:
    await stand.start(RETRY_STATUS="503", REQUEST_TIMEOUT="400ms")
    stand.upstream.script(lambda one: one.number == 1, response(b"{}", 503))
    stand.upstream.script(lambda one: one.number > 1, [Pause()])
    wire = await stand.connect()
    wire.send(DELETE)
    await stand.upstream.wait_for(lambda one: one.paused)
    assert (await wire.answer()).status == 504
    await stand.upstream.wait_for(lambda one: one.lost)
    assert len(stand.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_a_retry_is_no_probe_any_more(skewed: Stand) -> None:
    await broken(skewed, RETRY_STATUS="503")
    skewed.reactor.ahead += 5.0
    asked = len(skewed.upstream.requests)
    skewed.upstream.script("/v1/a", response(b"{}", 503), times=1)
    skewed.upstream.script(lambda one: one.path == "/v1/a" and one.number > asked + 1, [Pause()])
    retried = await skewed.connect()
    retried.send(request("/v1/a"))
    await skewed.upstream.wait_for(lambda one: one.paused)
    opened(upstreams(skewed)[0], skewed.reactor.seconds())
    skewed.reactor.ahead += 5.0
    skewed.upstream.script("/v1/b", [Pause()])
    probe = await skewed.connect()
    probe.send(request("/v1/b"))
    await skewed.upstream.wait_for(lambda one: one.paused and one.path == "/v1/b")
    retried.abort()
    await skewed.upstream.wait_for(lambda one: one.lost and one.path == "/v1/a")
    assert code(await skewed.ask(request("/v1/c"))) == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_a_probe_that_takes_for_ever_is_followed_by_another(skewed: Stand) -> None:
    await broken(skewed)
    skewed.upstream.script(lambda _: True, response(b"{}"))
    skewed.reactor.ahead += 5.0
    slow = await skewed.connect()
    slow.send(request("/v1/files", "POST", [("Content-Length", "100000")]) + b"x" * 1000)
    await skewed.upstream.wait_for(lambda one: one.path == "/v1/files")
    assert code(await skewed.ask(request("/v1/other"))) == "circuit_open"
    skewed.reactor.ahead += 10.0
    assert (await skewed.ask(request("/v1/other"))).status == 200


@pytest_twisted.ensureDeferred
async def test_who_joins_a_probe_keeps_it_alive_and_no_longer(skewed: Stand) -> None:
    await broken(skewed)
    skewed.reactor.ahead += 5.0
    skewed.upstream.script("/v1/p", [Pause()])
    leader, follower = await skewed.connect(), await skewed.connect()
    leader.send(request("/v1/p"))
    await skewed.upstream.wait_for(lambda one: one.paused and one.path == "/v1/p")
    follower.send(request("/v1/p"))
    assert skewed.daemon is not None
    counters = skewed.daemon.admin.stats.counters
    await eventually(skewed.reactor, lambda: counters.coalesced)
    leader.abort()
    await eventually(skewed.reactor, lambda: counters.connections.closed)
    assert code(await skewed.ask(request("/v1/q"))) == "circuit_open"
    follower.abort()
    await skewed.upstream.wait_for(lambda one: one.lost and one.path == "/v1/p")
    skewed.upstream.script("/v1/q", response(b"{}"))
    assert (await skewed.ask(request("/v1/q"))).status == 200


@pytest_twisted.ensureDeferred
async def test_failed_health_probes_in_a_row_open_the_circuit(stand: Stand) -> None:
    await stand.start(HEALTH_PROBE="/v1/models")
    assert stand.daemon is not None
    probing = stand.daemon.maintenance.probing
    assert probing is not None
    stand.upstream.script(lambda _: True, response(b"{}", 500))
    breaker = upstreams(stand)[0].breaker
    for _ in range(MAX_FAILURES_IN_A_ROW):
        probing.probe_all()
        await eventually(stand.reactor, lambda: not probing.pending)
    assert not breaker.closed
    assert code(await stand.ask(request("/health/ready"))) == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_a_407_on_the_way_is_no_answer(stand: Stand) -> None:
    await stand.start()
    stand.upstream.script(lambda _: True, response(b"", 407))
    wire = await stand.connect()
    for number in range(MIN_REQUESTS + 1):
        wire.send(request(f"/v1/{number}"))
        answer = await wire.answer()
    assert code(answer) == "circuit_open"


@pytest_twisted.ensureDeferred
async def test_a_timeout_counts_for_nothing_where_others_are_answered(
    skewed: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BREAKER_INTERVAL_SECONDS", 0.05)
    await skewed.start()
    skewed.upstream.script("/v1/slow", [Pause()])
    slow = [await skewed.connect() for _ in range(MIN_REQUESTS)]
    for number, wire in enumerate(slow):
        wire.send(request(f"/v1/slow?{number}"))
    await skewed.upstream.wait_until(
        lambda: sum(one.paused for one in skewed.upstream.requests) == MIN_REQUESTS
    )
    skewed.reactor.ahead += 5.0
    assert (await skewed.ask(request("/v1/models"))).status == 200
    breaker = upstreams(skewed)[0].breaker
    await eventually(skewed.reactor, lambda: not breaker.successes)
    skewed.reactor.ahead += 30.0
    for wire in slow:
        assert (await wire.answer()).status == 504
    assert breaker.closed


@pytest_twisted.ensureDeferred
async def test_a_write_that_never_went_out_drops_nothing(skewed: Stand) -> None:
    await broken(skewed)
    assert code(await skewed.ask(request("/v1/stored", "DELETE"))) == "circuit_open"
    assert (await skewed.ask(request("/v1/stored"))).get("X-Cache") == b"HIT"


@pytest_twisted.ensureDeferred
async def test_the_log_says_nothing_of_an_answer_that_was_turned_away(
    stand: Stand, waits: list[tuple[Any, ...]]
) -> None:
    await stand.start(RETRY_STATUS="503")
    away = response(b"{}", 503, [(b"X-Request-Id", b"first")])
    stand.upstream.script(lambda one: one.number == 1, away)
    stand.upstream.script(lambda one: one.number > 1, [Reset()])
    assert (await stand.ask(DELETE)).status == 502
    (event,) = await stand.logged()
    assert "first" not in json.dumps(event)
    assert "upstream" not in event["ms"]


@pytest_twisted.ensureDeferred
async def test_nothing_is_left_of_a_retry_that_waits_as_the_daemon_stops(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "backoff_seconds", lambda *_: 20.0)
    await stand.start(RETRY_STATUS="503", DRAIN_TIMEOUT="100ms", HEALTH_PROBE="/v1/probe")
    stand.upstream.script(lambda one: one.path == "/v1/probe", [Pause()])
    stand.upstream.script(lambda one: one.path != "/v1/probe", response(b"{}", 503))
    alone, flight = await stand.connect(), await stand.connect()
    alone.send(DELETE)
    flight.send(request("/v1/y"))
    await eventually(stand.reactor, lambda: counted(stand)["status"] == 2)
    assert stand.daemon is not None
    await stand.daemon.stopService()
    stand.daemon = None
    assert [code(await wire.answer()) for wire in (alone, flight)] == ["draining"] * 2
    assert [event["code"] for event in stand.events] == ["draining"] * 2


@pytest_twisted.ensureDeferred
async def test_what_a_drain_cuts_before_it_began_is_told_so(stand: Stand) -> None:
    await stand.start(DRAIN_TIMEOUT="100ms")
    stand.upstream.script(lambda _: True, [Pause()])
    wire = await stand.connect()
    wire.send(request())
    await stand.upstream.wait_for(lambda one: one.paused)
    assert stand.daemon is not None
    await stand.daemon.stopService()
    stand.daemon = None
    answer = await wire.answer()
    assert (answer.status, code(answer)) == (503, "draining")
    assert answer.get("Connection") == b"close"


@pytest_twisted.ensureDeferred
async def test_who_is_trusted_by_a_reload_is_so_at_the_entrance(stand: Stand) -> None:
    await stand.start(MAX_CONNECTIONS_PER_CLIENT="1", TRUSTED_PROXIES="")
    assert stand.daemon is not None
    trusting = attrs.evolve(stand.daemon.settings, trusted_proxies=Networks.parse("127.0.0.0/8"))
    apply_settings(stand.daemon, trusting)
    for wire in (await stand.connect(), await stand.connect()):
        wire.send(request())
        assert (await wire.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_what_is_under_way_as_the_cache_is_turned_off_is_not_stored(stand: Stand) -> None:
    await stand.start()
    gate = Pause()
    stand.upstream.script(lambda _: True, [gate, response(b"{}")])
    wire = await stand.connect()
    wire.send(request())
    await stand.upstream.wait_for(lambda one: one.paused)
    assert stand.daemon is not None
    apply_settings(stand.daemon, attrs.evolve(stand.daemon.settings, cache_ttl=0.0))
    gate.release()
    assert (await wire.answer()).status == 200
    await deferLater(stand.reactor, 0)
    assert len(stand.daemon.handler.store) == 0


def test_a_secret_that_wrapped_is_not_repeated() -> None:
    with pytest.raises(envfile.EnvFileError) as complaint:
        envfile.parse_env_file(b"CACHE_SNAPSHOT_KEY=\nc2VjcmV0c2VjcmV0c2VjcmV0==\n", VARIABLE_NAMES)
    assert "c2Vj" not in str(complaint.value)
