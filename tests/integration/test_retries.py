"""Which requests are sent again, how often and after which time."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ServerEndpoint

from goproxyai.proxy import upstream_request
from goproxyai.upstream.breaker import MIN_REQUESTS
from goproxyai.upstream.retries import MAX_ATTEMPTS, MAX_SAVED_RETRIES
from tests.integration.failing_upstreams import CHAT, closed_port, error_code, retry_counts
from tests.support.answers import chunk, head, response
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.requests import Request
from tests.support.serving import loopback
from tests.support.steps import Close, Pause, Reset

QUESTION = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
CHUNKED = (b"Transfer-Encoding", b"chunked")


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each backoff take no time: the random number is zero."""
    monkeypatch.setattr(upstream_request, "random", lambda: 0.0)


@pytest.mark.parametrize("data", [request(), post(CHAT, QUESTION), request("/v1/x", "PATCH")])
@pytest_twisted.ensureDeferred
async def test_failed_connection_is_tried_three_times(harness: ProxyHarness, data: bytes) -> None:
    port = await closed_port(harness)
    await harness.start(upstream=f"http://127.0.0.1:{port}")
    answer = await harness.ask(data)
    assert (answer.status, error_code(answer)) == (502, "upstream_unreachable")
    assert retry_counts(harness) == {"connect": MAX_ATTEMPTS - 1, "reset": 0, "status": 0}
    assert len(await harness.logged()) == 1


@pytest_twisted.ensureDeferred
async def test_retry_succeeds_when_upstream_recovers(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await closed_port(harness)
    await harness.start(upstream=f"http://127.0.0.1:{port}")
    assert harness.daemon is not None
    monkeypatch.setattr(upstream_request, "backoff_seconds", lambda *_: 0.05)
    wire = await harness.connect()
    wire.send(post(CHAT, QUESTION))
    await eventually(harness.reactor, lambda: retry_counts(harness)["connect"])
    await harness.upstream.listen(TCP4ServerEndpoint(harness.reactor, port, interface="127.0.0.1"))
    assert (await wire.answer()).status == 200
    assert [one.body_length for one in harness.upstream.requests] == [len(QUESTION)]


@pytest_twisted.ensureDeferred
async def test_unsent_upload_is_sent_whole_by_retry(
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


def serve_then_reset(request_: Request) -> Any:
    """Serve one request on each connection and reset the connection at the next."""
    return response(b"%d" % request_.number) if request_.number % 2 else [Reset()]


@pytest.mark.parametrize(
    ("method", "again"),
    [("GET", True), ("PUT", True), ("DELETE", True), ("POST", False), ("PATCH", False)],
)
@pytest_twisted.ensureDeferred
async def test_post_on_broken_kept_connection_is_not_retried(
    harness: ProxyHarness, method: str, again: bool
) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, serve_then_reset)
    await harness.ask(request("/v1/1"))
    answer = await harness.ask(request("/v1/2", method, body=b"{}"))
    assert answer.status == (200 if again else 502)
    assert len(harness.upstream.requests) == (3 if again else 2)
    assert retry_counts(harness)["reset"] == int(again)


@pytest.mark.parametrize(
    "answer",
    [[Reset()], [Close()], [b"HTTP/1.1 200 OK\r\nContent-", Close()], b"junk\r\n\r\n"],
    ids=["reset", "closed", "inside the head", "junk"],
)
@pytest_twisted.ensureDeferred
async def test_broken_new_connection_is_not_retried(harness: ProxyHarness, answer: Any) -> None:
    await harness.start()
    harness.upstream.script(lambda _: True, answer)
    assert (await harness.ask(request())).status == 502
    assert len(harness.upstream.requests) == 1
    assert retry_counts(harness) == {"connect": 0, "reset": 0, "status": 0}


@pytest_twisted.ensureDeferred
async def test_started_response_is_never_retried(harness: ProxyHarness) -> None:
    await harness.start()
    cut = [head(200, [CHUNKED]), chunk(b"abc"), Reset()]
    harness.upstream.script(lambda one: one.number > 1, cut)
    await harness.ask(request("/v1/models"))
    answer = await harness.ask(request("/v1/models/gpt-4o"))
    assert (answer.body, answer.cut) == (b"abc", True)
    assert len(harness.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_error_status_is_relayed_by_default(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    for status in (429, 500, 502, 503):
        harness.upstream.script(lambda _: True, response(b"{}", status))
        assert (await harness.ask(request(f"/v1/{status}"))).status == status
    assert len(harness.upstream.requests) == 4


@pytest.mark.parametrize(
    ("data", "tries"),
    [(request(), 2), (request("/v1/x", "DELETE"), 2), (post(CHAT, QUESTION), 1)],
    ids=["GET", "DELETE", "POST"],
)
@pytest_twisted.ensureDeferred
async def test_status_in_retry_status_is_retried(
    harness: ProxyHarness, data: bytes, tries: int
) -> None:
    await harness.start(RETRY_STATUS="502,503")
    harness.upstream.script(lambda _: True, response(b"{}", 503), times=1)
    answer = await harness.ask(data)
    assert answer.status == (200 if tries == 2 and b"GET" in data else answer.status)
    assert (answer.status == 503) is (tries == 1)
    assert len(harness.upstream.requests) == tries
    assert retry_counts(harness)["status"] == tries - 1


@pytest_twisted.ensureDeferred
async def test_last_response_is_relayed(harness: ProxyHarness) -> None:
    await harness.start(RETRY_STATUS="503")
    harness.upstream.script(lambda _: True, lambda one: response(b"%d" % one.number, 503))
    answer = await harness.ask(request())
    assert (answer.status, answer.body) == (503, b"%d" % MAX_ATTEMPTS)


@pytest_twisted.ensureDeferred
async def test_retry_stays_within_request_timeout(harness: ProxyHarness) -> None:
    await harness.start(RETRY_STATUS="503", REQUEST_TIMEOUT="5s")
    late = response(b"{}", 503, [(b"Retry-After", b"6")])
    harness.upstream.script(lambda _: True, late)
    assert (await harness.ask(request())).status == 503
    assert len(harness.upstream.requests) == 1


@pytest_twisted.ensureDeferred
async def test_retry_waits_for_retry_after(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []

    def no_wait(_tries: int, _chance: float, after: float | None) -> float:
        waits.append(after)
        return 0.0

    monkeypatch.setattr(upstream_request, "backoff_seconds", no_wait)
    await harness.start(RETRY_STATUS="503")
    soon = response(b"{}", 503, [(b"Retry-After", b"6")])
    harness.upstream.script(lambda _: True, soon, times=1)
    assert (await harness.ask(request())).status == 200
    assert waits == [pytest.approx(6.0, abs=0.1)]


@pytest_twisted.ensureDeferred
async def test_retries_do_not_double_load_on_failing_upstream(harness: ProxyHarness) -> None:
    await harness.start(RETRY_STATUS="503", BREAKER="0")
    harness.upstream.script(lambda _: True, response(b"{}", 503))
    wire = await harness.connect()
    for number in range(100):
        wire.send(request(f"/v1/{number}"))
        assert (await wire.answer()).status == 503
    assert len(harness.upstream.requests) <= 100 * 1.1 + MAX_SAVED_RETRIES + 3


@pytest_twisted.ensureDeferred
async def test_client_that_disconnects_during_backoff_ends_retry(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_request, "backoff_seconds", lambda *_: 20.0)
    await harness.start(RETRY_STATUS="503")
    harness.upstream.script(lambda _: True, response(b"{}", 503))
    flight, alone = await harness.connect(), await harness.connect()
    flight.send(request())
    alone.send(request("/v1/x", "DELETE"))
    await eventually(harness.reactor, lambda: retry_counts(harness)["status"] == 2)
    for wire in (flight, alone):
        wire.abort()
        await wire.wait_closed()
    log = harness.access_log
    await eventually(harness.reactor, lambda: log.pending + len(harness.events) == 2)
    assert [one["ended"] for one in await harness.logged(2)] == ["client_gone"] * 2
    assert len(harness.upstream.requests) == 2


@pytest_twisted.ensureDeferred
async def test_retry_continues_for_remaining_subscribers(harness: ProxyHarness) -> None:
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


@pytest_twisted.ensureDeferred
async def test_next_upstream_is_tried_without_connection(
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
async def test_upstream_with_open_circuit_is_skipped(harness: ProxyHarness) -> None:
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
        assert (await wire.answer()).status in (200, 502)  # 502 once the retry budget is used up
    first, second = harness.daemon.context.upstreams.all
    assert (first.breaker.closed, second.breaker.closed) == (False, True)
    before = sum(retry_counts(harness).values())
    wire.send(request("/v1/last"))
    assert (await wire.answer()).status == 200
    assert sum(retry_counts(harness).values()) == before
    assert (await harness.ask(request("/health/ready"))).status == 200
