"""Asking again: when it can do no harm, how often, and how long after."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import succeed

from goproxyai.proxy import upstream_request as asking
from goproxyai.upstream.breaker import MIN_REQUESTS
from goproxyai.upstream.retries import (
    IDEMPOTENT_METHODS,
    INITIAL_BACKOFF_SECONDS,
    MAX_ATTEMPTS,
    MAX_BACKOFF_SECONDS,
    MAX_SAVED_RETRIES,
    RetryBudget,
    RetryCause,
    backoff_seconds,
    may_retry,
    parse_retry_after,
)
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.requests import Request
from tests.support.serving import loopback
from tests.support.steps import Close, Pause, Reset
from tests.support.upstream import FakeUpstream

CHAT = "/v1/chat/completions"
ASKED = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
CHUNKED = (b"Transfer-Encoding", b"chunked")


# The table.


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"GET", b"PUT"])
def test_without_a_connection_any_request_is_sent_again(method: bytes) -> None:
    assert may_retry(RetryCause.CONNECT, method, replayable=False)


@pytest.mark.parametrize("cause", [RetryCause.RESET, RetryCause.STATUS])
def test_else_only_what_may_be_done_twice_and_is_still_here(cause: RetryCause) -> None:
    for method in (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"):
        assert method in IDEMPOTENT_METHODS
        assert may_retry(cause, method, replayable=True)
        assert not may_retry(cause, method, replayable=False)
    for method in (b"POST", b"PATCH"):
        assert not may_retry(cause, method, replayable=True)


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 100))
def test_waits_grow_are_bounded_and_never_shorter_than_asked_for(
    tries: int, chance: float, after: float | None
) -> None:
    wait = backoff_seconds(tries, chance, after)
    jitter = wait - (after or 0.0)
    assert -1e-9 <= jitter <= min(INITIAL_BACKOFF_SECONDS * 2 ** (tries - 1), MAX_BACKOFF_SECONDS)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"7", 7.0), (b" 7 ", 7.0), (b"-1", None), (b"1.5", None), (b"9" * 11, None), (None, None),
     (b"Wed, 25 Nov 2026 11:12:30 GMT", None), (b"", None), (b"\xb2", None)],
)  # fmt: skip
def test_retry_after_is_read_in_seconds(value: bytes | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 30)), max_size=20))
def test_retries_are_a_tenth_of_all_requests_and_some_to_begin_with(
    steps: list[tuple[int, int]],
) -> None:
    budget = RetryBudget()
    requests = granted = 0
    for more, tries in steps:
        requests += more
        granted += sum(budget.try_spend(requests) for _ in range(tries))
        assert granted <= MAX_SAVED_RETRIES + 0.1 * requests + 1e-6
    assert RetryBudget().try_spend(0)


# Over real sockets.


@pytest.fixture(autouse=True)
def no_time_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are drawn at random, from zero on: draw zero."""
    monkeypatch.setattr(asking, "random", lambda: 0.0)


def code(answer: Any) -> str:
    return str(json.loads(answer.body)["error"]["code"])


def counted(harness: ProxyHarness) -> dict[str, int]:
    assert harness.daemon is not None
    return harness.daemon.context.counters.retries


async def closed_port(harness: ProxyHarness) -> int:
    """A port on which nobody listens."""
    port = await loopback(harness.reactor).listen(FakeUpstream(harness.reactor))
    number = int(port.getHost().port)
    await (port.stopListening() or succeed(None))
    return number


@pytest.mark.parametrize("data", [request(), post(CHAT, ASKED), request("/v1/x", "PATCH")])
@pytest_twisted.ensureDeferred
async def test_a_connection_that_fails_is_tried_three_times(
    harness: ProxyHarness, data: bytes
) -> None:
    port = await closed_port(harness)
    await harness.start(upstream=f"http://127.0.0.1:{port}")
    answer = await harness.ask(data)
    assert (answer.status, code(answer)) == (502, "upstream_unreachable")
    assert counted(harness) == {"connect": MAX_ATTEMPTS - 1, "reset": 0, "status": 0}
    assert len(await harness.logged()) == 1


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_comes_back_meanwhile_answers(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await closed_port(harness)
    await harness.start(upstream=f"http://127.0.0.1:{port}")
    assert harness.daemon is not None
    monkeypatch.setattr(asking, "backoff_seconds", lambda *_: 0.05)
    wire = await harness.connect()
    wire.send(post(CHAT, ASKED))
    await eventually(harness.reactor, lambda: counted(harness)["connect"])
    from twisted.internet.endpoints import TCP4ServerEndpoint

    await harness.upstream.listen(TCP4ServerEndpoint(harness.reactor, port, interface="127.0.0.1"))
    assert (await wire.answer()).status == 200
    assert [one.body_length for one in harness.upstream.requests] == [len(ASKED)]


@pytest_twisted.ensureDeferred
async def test_an_upload_that_had_not_begun_is_sent_whole_by_the_second_try(
    harness: ProxyHarness,
) -> None:
    port, other = (
        await closed_port(harness),
        await harness.upstream.listen(loopback(harness.reactor)),
    )
    await harness.start(upstream=f"http://127.0.0.1:{port} http://127.0.0.1:{other}")
    body = b"x" * 300_000
    answer = await harness.ask(request("/v1/files", "POST", [("Content-Type", "a/b")], body))
    assert answer.status in (200, 400)
    (asked,) = harness.upstream.requests
    assert asked.body_length == len(body)


def dying(request_: Request) -> Any:
    """Serves one request on each connection, and resets the next."""
    return response(b"%d" % request_.number) if request_.number % 2 else [Reset()]


@pytest.mark.parametrize(
    ("method", "again"),
    [("GET", True), ("PUT", True), ("DELETE", True), ("POST", False), ("PATCH", False)],
)
@pytest_twisted.ensureDeferred
async def test_a_kept_connection_that_died_is_no_reason_to_bill_twice(
    harness: ProxyHarness, method: str, again: bool
) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, dying)
    await harness.ask(request("/v1/1"))
    answer = await harness.ask(request("/v1/2", method, body=b"{}"))
    assert answer.status == (200 if again else 502)
    assert len(harness.upstream.requests) == (3 if again else 2)
    assert counted(harness)["reset"] == int(again)


@pytest.mark.parametrize(
    "answer",
    [[Reset()], [Close()], [b"HTTP/1.1 200 OK\r\nContent-", Close()], b"junk\r\n\r\n"],
    ids=["reset", "closed", "inside the head", "junk"],
)
@pytest_twisted.ensureDeferred
async def test_a_new_connection_that_died_was_upstreams_own_doing(
    harness: ProxyHarness, answer: Any
) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, answer)
    assert (await harness.ask(request())).status == 502
    assert len(harness.upstream.requests) == 1
    assert counted(harness) == {"connect": 0, "reset": 0, "status": 0}


@pytest_twisted.ensureDeferred
async def test_an_answer_that_has_begun_is_never_asked_for_again(harness: ProxyHarness) -> None:
    await harness.start()
    cut = [head(200, [CHUNKED]), chunk(b"abc"), Reset()]
    harness.upstream.script(lambda one: one.number > 1, cut)
    await harness.ask(request("/v1/models"))
    answer = await harness.ask(request("/v1/models/gpt-4o"))
    assert (answer.body, answer.cut) == (b"abc", True)
    assert len(harness.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_an_answer_with_a_status_is_the_clients_unless_told_otherwise(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    for status in (429, 500, 502, 503):
        harness.upstream.script(lambda _: True, response(b"{}", status))
        assert (await harness.ask(request(f"/v1/{status}"))).status == status
    assert len(harness.upstream.requests) == 4


@pytest.mark.parametrize(
    ("data", "tries"),
    [(request(), 2), (request("/v1/x", "DELETE"), 2), (post(CHAT, ASKED), 1)],
    ids=["GET", "DELETE", "POST"],
)
@pytest_twisted.ensureDeferred
async def test_a_status_that_is_named_is_asked_for_again(
    harness: ProxyHarness, data: bytes, tries: int
) -> None:
    await harness.start(RETRY_STATUS="502,503")
    harness.upstream.script(lambda _: True, response(b"{}", 503), times=1)
    answer = await harness.ask(data)
    assert answer.status == (200 if tries == 2 and b"GET" in data else answer.status)
    assert (answer.status == 503) is (tries == 1)
    assert len(harness.upstream.requests) == tries
    assert counted(harness)["status"] == tries - 1


@pytest_twisted.ensureDeferred
async def test_the_last_answer_is_the_clients_whatever_its_status(harness: ProxyHarness) -> None:
    await harness.start(RETRY_STATUS="503")
    harness.upstream.script(lambda _: True, lambda one: response(b"%d" % one.number, 503))
    answer = await harness.ask(request())
    assert (answer.status, answer.body) == (503, b"%d" % MAX_ATTEMPTS)


@pytest_twisted.ensureDeferred
async def test_nobody_waits_longer_than_the_client_has_patience(harness: ProxyHarness) -> None:
    await harness.start(RETRY_STATUS="503", REQUEST_TIMEOUT="5s")
    late = response(b"{}", 503, [(b"Retry-After", b"6")])
    harness.upstream.script(lambda _: True, late)
    assert (await harness.ask(request())).status == 503
    assert len(harness.upstream.requests) == 1


@pytest_twisted.ensureDeferred
async def test_retry_after_is_waited_for(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []

    def no_wait(_tries: int, _chance: float, after: float | None) -> float:
        waits.append(after)
        return 0.0

    monkeypatch.setattr(asking, "backoff_seconds", no_wait)
    await harness.start(RETRY_STATUS="503")
    soon = response(b"{}", 503, [(b"Retry-After", b"6")])
    harness.upstream.script(lambda _: True, soon, times=1)
    assert (await harness.ask(request())).status == 200
    assert waits == [pytest.approx(6.0, abs=0.1)]


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_is_down_is_not_asked_twice_as_much(harness: ProxyHarness) -> None:
    await harness.start(RETRY_STATUS="503", BREAKER="0")
    harness.upstream.script(lambda _: True, response(b"{}", 503))
    wire = await harness.connect()
    for number in range(100):
        wire.send(request(f"/v1/{number}"))
        assert (await wire.answer()).status == 503
    assert len(harness.upstream.requests) <= 100 * 1.1 + MAX_SAVED_RETRIES + 3


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_while_it_waits_is_not_asked_for_again(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "backoff_seconds", lambda *_: 20.0)
    await harness.start(RETRY_STATUS="503")
    harness.upstream.script(lambda _: True, response(b"{}", 503))
    flight, alone = await harness.connect(), await harness.connect()
    flight.send(request())
    alone.send(request("/v1/x", "DELETE"))
    await eventually(harness.reactor, lambda: counted(harness)["status"] == 2)
    for wire in (flight, alone):
        wire.abort()
        await wire.wait_closed()
    log = harness.access_log
    await eventually(harness.reactor, lambda: log.pending + len(harness.events) == 2)
    assert [one["ended"] for one in await harness.logged(2)] == ["client_gone"] * 2
    assert len(harness.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_a_leader_that_left_is_asked_for_again_all_the_same(harness: ProxyHarness) -> None:
    await harness.start(RETRY_STATUS="503")
    gate = Pause()
    data = post("/v1/embeddings", b'{"input":"x"}').replace(b"POST", b"GET")
    harness.upstream.script(lambda _: True, [gate, response(b"{}", 503)], times=1)
    harness.upstream.script(lambda one: one.number > 1, response(b"{}"))
    leader, follower = await harness.connect(), await harness.connect()
    leader.send(data)
    await harness.upstream.wait_for(lambda one: one.paused)
    follower.send(data)
    await eventually(harness.reactor, lambda: harness.daemon.context.counters.coalesced)  # type: ignore[union-attr]
    leader.abort()
    await leader.wait_closed()
    gate.release()
    assert (await follower.answer()).status == 200
    first, second = harness.upstream.requests
    assert first.body_length == second.body_length == len(b'{"input":"x"}')


# Several upstreams.


@pytest_twisted.ensureDeferred
async def test_the_next_upstream_is_asked_where_the_first_is_not_there(
    harness: ProxyHarness,
) -> None:
    port, other = (
        await closed_port(harness),
        await harness.upstream.listen(loopback(harness.reactor)),
    )
    urls = f"http://127.0.0.1:{port}/first http://127.0.0.1:{other}/second"
    await harness.start(upstream=urls)
    for _ in range(2):
        harness.upstream.script("/second/v1/models", response(b"{}"))
        answer = await harness.ask(request(headers=[("Cache-Control", "no-cache")]))
        assert answer.status == 200
    asked = harness.upstream.requests[-1]
    assert asked.target == b"/second/v1/models"
    assert asked.all(b"host") == [b"127.0.0.1:%d" % other]
    stats = json.loads((await harness.ask(request("/stats"))).body)
    assert [one["url"] for one in stats["upstreams"]] == urls.split()
    assert stats["openai_url"] == urls.replace(" ", ", ")
    assert stats["requests"]["retries"]["connect"] == 2


@pytest_twisted.ensureDeferred
async def test_once_its_circuit_is_open_the_first_is_left_alone(harness: ProxyHarness) -> None:
    port, other = (
        await closed_port(harness),
        await harness.upstream.listen(loopback(harness.reactor)),
    )
    await harness.start(upstream=f"http://127.0.0.1:{port} http://127.0.0.1:{other}")
    assert harness.daemon is not None
    harness.upstream.script(lambda _: True, response(b"{}"))
    wire = await harness.connect()
    for number in range(MIN_REQUESTS + 5):
        wire.send(request(f"/v1/{number}"))
        assert (await wire.answer()).status in (200, 502)  # the budget has an end
    first, second = harness.daemon.context.upstreams.each
    assert (first.breaker.closed, second.breaker.closed) == (False, True)
    before = sum(counted(harness).values())
    wire.send(request("/v1/last"))
    assert (await wire.answer()).status == 200
    assert sum(counted(harness).values()) == before
    assert (await harness.ask(request("/health/ready"))).status == 200


# The circuit.


async def broken(harness: ProxyHarness, **texts: str) -> None:
    """A daemon whose circuit is open."""
    await harness.start(**texts)
    harness.upstream.script(lambda _: True, response(b"{}"))
    assert (await harness.ask(request("/v1/stored"))).status == 200
    harness.upstream.script(lambda _: True, [Reset()])
    wire = await harness.connect()
    for number in range(MIN_REQUESTS + 1):
        wire.send(post(CHAT, b"%d" % number))
        answer = await wire.answer()
    assert (answer.status, code(answer)) == (503, "circuit_open")
    assert 1 <= int(answer.get("Retry-After") or b"") <= 5
    assert answer.get("Cache-Status") == b"goproxyai; detail=circuit-open"


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_fails_too_often_is_left_alone(skewed_harness: ProxyHarness) -> None:
    await broken(skewed_harness)
    count = len(skewed_harness.upstream.requests)
    assert code(await skewed_harness.ask(request("/v1/new"))) == "circuit_open"
    assert code(await skewed_harness.ask(request("/v1/x", "DELETE"))) == "circuit_open"
    assert (await skewed_harness.ask(request("/v1/stored"))).get("X-Cache") == b"HIT"
    ready = await skewed_harness.ask(request("/health/ready"))
    assert (ready.status, code(ready)) == (503, "circuit_open")
    assert (await skewed_harness.ask(request("/health"))).status == 200
    (told,) = json.loads((await skewed_harness.ask(request("/stats"))).body)["upstreams"]
    assert (told["circuit"], told["opened"]) == ("open", 1)
    assert len(skewed_harness.upstream.requests) == count


@pytest_twisted.ensureDeferred
async def test_one_request_probes_and_its_answer_closes_the_circuit(
    skewed_harness: ProxyHarness,
) -> None:
    await broken(skewed_harness)
    skewed_harness.reactor.skew += 5.0
    assert (await skewed_harness.ask(request("/health/ready"))).status == 200, (
        "else nobody would probe"
    )
    gate = Pause()
    skewed_harness.upstream.script(lambda _: True, [gate, response(b"{}")])
    probe = await skewed_harness.connect()
    probe.send(request("/v1/probe"))
    await skewed_harness.upstream.wait_for(lambda one: one.paused)
    assert code(await skewed_harness.ask(request("/v1/other"))) == "circuit_open"
    gate.release()
    assert (await probe.answer()).status == 200
    assert (await skewed_harness.ask(request("/v1/other"))).status == 200


@pytest_twisted.ensureDeferred
async def test_a_probe_that_is_taken_back_lets_another_try(skewed_harness: ProxyHarness) -> None:
    await broken(skewed_harness)
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
async def test_a_probe_that_fails_opens_it_for_longer(skewed_harness: ProxyHarness) -> None:
    await broken(skewed_harness)
    skewed_harness.reactor.skew += 5.0
    assert (await skewed_harness.ask(request("/v1/probe"))).status == 502
    answer = await skewed_harness.ask(request("/v1/other"))
    assert 6 <= int(answer.get("Retry-After") or b"") <= 10


@pytest_twisted.ensureDeferred
async def test_what_has_expired_answers_while_the_circuit_is_open(
    skewed_harness: ProxyHarness,
) -> None:
    await broken(skewed_harness, CACHE_TTL="1s", CACHE_STALE="1h")
    skewed_harness.reactor.skew += 3.0
    stale = await skewed_harness.ask(request("/v1/stored"))
    assert (stale.status, stale.get("X-Cache")) == (200, b"HIT")
    assert b"stale-if-error" in (stale.get("Cache-Status") or b"")


@pytest_twisted.ensureDeferred
async def test_clients_that_leave_and_answers_of_any_status_open_nothing(
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


# The probe beside.


@pytest_twisted.ensureDeferred
async def test_upstreams_are_asked_for_a_path_without_a_credential(harness: ProxyHarness) -> None:
    await harness.start(HEALTH_PROBE="/v1/models")
    await harness.upstream.wait_for(lambda one: one.path == "/v1/models")
    (asked,) = harness.upstream.requests
    assert (asked.method, asked.all(b"authorization")) == (b"GET", [])


@pytest_twisted.ensureDeferred
async def test_an_answer_to_the_probe_closes_the_circuit(skewed_harness: ProxyHarness) -> None:
    await broken(skewed_harness, HEALTH_PROBE="/v1/models")
    assert skewed_harness.daemon is not None
    probing = skewed_harness.daemon.maintenance.health_probe
    assert probing is not None
    skewed_harness.upstream.script(lambda _: True, response(b"{}", 401))
    probing.probe_all()
    await eventually(
        skewed_harness.reactor,
        lambda: skewed_harness.daemon.context.upstreams.each[0].breaker.closed,
    )
    assert (await skewed_harness.ask(request("/v1/new"))).status == 401


@pytest.mark.parametrize("failing", [[Reset()], response(b"{}", 500), [Pause()]])
@pytest_twisted.ensureDeferred
async def test_failed_probes_open_the_circuit(harness: ProxyHarness, failing: Any) -> None:
    await harness.start(HEALTH_PROBE="/v1/models")
    assert harness.daemon is not None
    maintenance = harness.daemon.maintenance
    harness.upstream.script(lambda _: True, failing)
    breaker = harness.daemon.context.upstreams.each[0].breaker
    for number in range(2 * MIN_REQUESTS):
        assert maintenance.health_probe is not None
        maintenance.health_probe.probe_all()
        await harness.upstream.wait_until(lambda n=number: len(harness.upstream.requests) > n)  # type: ignore[misc]
    await eventually(harness.reactor, lambda: not breaker.closed)
