"""A parent and two workers in this process, over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import deferLater

from goproxyai.state.cache_client import MAX_RECORD_BYTES
from goproxyai.state.messages import Drain, Reload, Reopen, Welcome
from goproxyai.worker import start
from tests.integration.cached_requests import CHAT
from tests.support.answers import event, response, sse
from tests.support.harness import ProxyHarness, eventually, post, request
from tests.support.raw_client import RawClient
from tests.support.serving import loopback
from tests.support.steps import Pause
from tests.support.worker_service import WorkerService


class Clients:
    """A service, and a kept connection to each worker."""

    def __init__(self, service: WorkerService, one: RawClient, other: RawClient) -> None:
        self.service, self.one, self.other = service, one, other

    async def ask(self, client: RawClient, data: bytes) -> Any:
        client.send(data)
        return await client.answer(data.partition(b" ")[0])


@pytest_twisted.async_yield_fixture
async def clients(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Clients]:
    """A service with a limit of 16 requests a minute: a lease of two tokens."""
    upstream_port = await harness.upstream.listen(loopback(harness.reactor))
    settings = {
        "OPENAI_API_URL": f"http://127.0.0.1:{upstream_port}",
        "LISTEN": "tcp:0:interface=127.0.0.1",
        "RATE_LIMIT": "16",
        "WORKERS": "2",
        "ADMIN_HOSTS": "proxy.test",
        **getattr(request, "param", {}),
    }
    service = WorkerService(harness.reactor, settings)
    service.start(monkeypatch)
    await service.until_serving()
    connections = []
    for index in range(2):
        service.accept_only(index)
        port = service.ports()[0].getHost().port
        endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port)
        client = await connectProtocol(endpoint, RawClient(harness.reactor))
        client.send(_request("/health"))
        await client.answer(b"GET")
        connections.append(client)
    yield Clients(service, *connections)
    for client in connections:
        client.abort()
    await service.stop()


def _request(path: str, method: str = "GET") -> bytes:
    return request(path, method=method)


async def stats(clients: Clients) -> Any:
    return json.loads((await clients.ask(clients.one, _request("/stats"))).body)


@pytest_twisted.ensureDeferred
async def test_requests_of_one_client_share_one_limit(clients: Clients) -> None:
    statuses = []
    for number in range(12):
        for client in (clients.one, clients.other):
            answer = await clients.ask(client, _request(f"/v1/models/{number}"))
            statuses.append(answer.status)
    assert 16 - 4 <= 24 - statuses.count(429) <= 16 + 4
    assert (await clients.ask(clients.other, _request("/nothing"))).status == 429
    document = await stats(clients)
    assert document["requests"]["limited"] == statuses.count(429) + 1
    assert document["workers"]["lease"] == 2


@pytest_twisted.ensureDeferred
async def test_unknown_path_spends_a_token(clients: Clients) -> None:
    assert (await clients.ask(clients.one, _request("/nothing"))).status == 404
    assert (await stats(clients))["clients"] == 1


@pytest_twisted.ensureDeferred
async def test_client_that_leaves_while_undecided_is_recorded(clients: Clients) -> None:
    worker = clients.service.workers[0][0]
    channel = worker._link.channel
    channel.pauseProducing()  # questions are left out
    clients.one.send(_request("/v1/models"))
    reactor = clients.service.reactor
    while not worker._link.limiter._waiting:
        await deferLater(reactor, 0)
    clients.one.abort()
    finished = worker._daemon.context.counters.finished
    while not finished.client_gone:
        worker._daemon.context.access_log.flush()
        await deferLater(reactor, 0.01)
    while worker._link.limiter._waiting:
        await deferLater(reactor, 0.01)
    channel.resumeProducing()


@pytest_twisted.ensureDeferred
async def test_undecided_request_without_an_answer_is_refused(clients: Clients) -> None:
    channel = clients.service.workers[0][0]._link.channel
    channel.pauseProducing()
    assert (await clients.ask(clients.one, _request("/v1/models"))).status == 429
    channel.resumeProducing()


@pytest_twisted.ensureDeferred
async def test_numbers_of_both_workers_are_shown(clients: Clients) -> None:
    for client, path in ((clients.one, "/v1/models"), (clients.other, "/v1/models/gpt-4o")):
        assert (await clients.ask(client, _request(path))).status == 200
    document = await stats(clients)
    assert document["cache"]["misses"] == 2
    assert [each["state"] for each in document["workers"]["processes"]] == ["serving"] * 2
    metrics = (await clients.ask(clients.other, _request("/metrics"))).body
    assert b'goproxyai_cache_requests_total{outcome="miss"} 2.0' in metrics
    assert b"goproxyai_workers 2.0" in metrics


@pytest_twisted.ensureDeferred
async def test_clearing_reaches_the_other_worker(clients: Clients) -> None:
    path = _request("/v1/models")
    for client, expected in (
        (clients.one, b"MISS"),
        (clients.one, b"HIT"),
        (clients.other, b"HIT"),
    ):
        assert (await clients.ask(client, path)).get("X-Cache") == expected
    assert (await clients.ask(clients.one, _request("/cache", "DELETE"))).status == 200
    assert (await clients.ask(clients.other, path)).get("X-Cache") == b"MISS"


@pytest.mark.parametrize("size", [900_000, MAX_RECORD_BYTES, MAX_RECORD_BYTES + 1])
@pytest_twisted.ensureDeferred
async def test_large_response_is_shared_up_to_the_bound(
    harness: ProxyHarness, clients: Clients, size: int
) -> None:
    body = b'{"object":"model","x":"' + b"x" * (size - 25) + b'"}'
    harness.upstream.script("/v1/models/large", response(body))
    shared = size <= MAX_RECORD_BYTES
    path = _request("/v1/models/large")
    expected = b"HIT" if shared else b"MISS"
    for client, outcome in ((clients.one, b"MISS"), (clients.other, expected)):
        answer = await clients.ask(client, path)
        assert (answer.get("X-Cache"), answer.body) == (outcome, body)
    numbers = clients.service.supervisor.stats.workers()["second_level"]
    assert (numbers["item_count"], numbers["stores"]) == (int(shared), int(shared))


@pytest_twisted.ensureDeferred
async def test_identical_requests_to_both_workers_share_a_stream(
    harness: ProxyHarness, clients: Clients
) -> None:
    gate = Pause()
    usual = event({"choices": [{"index": 0, "finish_reason": "stop", "delta": {}}]})
    begin, *rest = sse([usual, b"data: [DONE]\n\n"], 0)
    harness.upstream.script(CHAT, [begin, gate, *rest])
    data = post(CHAT, b'{"stream":true,"seed":1}')
    clients.one.send(data)
    await clients.one.until(lambda: b"\r\n\r\n" in clients.one.received)
    clients.other.send(data)
    claims = clients.service.supervisor.state.cache.claims
    await eventually(clients.service.reactor, lambda: claims.waiting == 1)
    gate.release()
    live, stored = await clients.one.answer(b"POST"), await clients.other.answer(b"POST")
    assert live.body == stored.body == usual + b"data: [DONE]\n\n"
    assert (live.get("X-Cache"), stored.get("X-Cache")) == (b"MISS", b"HIT")
    assert len(harness.upstream.requests) == 1
    assert (len(claims), claims.waiting) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_client_that_leaves_no_longer_waits_in_the_parent(
    harness: ProxyHarness, clients: Clients
) -> None:
    gate = Pause()
    harness.upstream.script("/v1/models", [gate, response(b"{}")])
    clients.one.send(_request("/v1/models"))
    reactor, cache = clients.service.reactor, clients.service.supervisor.state.cache
    claims = cache.claims
    await eventually(reactor, lambda: cache.claimed_keys == 1)
    assert len(claims) == 0  # the worker has not asked
    clients.other.send(_request("/v1/models"))
    await eventually(reactor, lambda: claims.waiting == 1)
    assert (len(claims), cache.claimed_keys) == (1, 1)
    clients.other.abort()
    await eventually(reactor, lambda: claims.waiting == 0)
    gate.release()
    assert (await clients.one.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_parent_that_does_not_read_delays_no_request_for_long(clients: Clients) -> None:
    for _ in range(2):  # the worker has a token left afterwards
        await clients.ask(clients.one, _request("/v1/models/gpt-4o"))
    process = clients.service.workers[0][2]
    process._channel.transport.pauseProducing()  # the parent reads nothing of the first worker
    answer = await clients.ask(clients.one, _request("/v1/models"))
    assert answer.get("X-Cache") == b"MISS"
    process._channel.transport.resumeProducing()


@pytest_twisted.ensureDeferred
async def test_dashboard_events_are_those_of_all_workers(clients: Clients) -> None:
    await clients.ask(clients.one, _request("/v1/models"))
    clients.other.send(_request("/dashboard/events"))
    await clients.other.until(lambda: clients.other.received.count(b"event: state") >= 2)
    assert b'"misses": 1' in clients.other.received or b'"misses":1' in clients.other.received
    assert clients.other.received.count(b"event: slots") == 1


@pytest_twisted.ensureDeferred
async def test_failures_of_all_workers_are_one_verdict(
    harness: ProxyHarness, clients: Clients
) -> None:
    refused = [response(b"{}", 429, [(b"x-request-id", name)]) for name in (b"req_1", b"req_2")]
    for client, answer in zip((clients.one, clients.other), refused, strict=True):
        harness.upstream.script("/v1/files", answer)
        for number in range(2):
            assert (await clients.ask(client, _request(f"/v1/files?{number}"))).status == 429
    document = await stats(clients)
    assert document["verdict"]["text"].startswith("4 of 4 requests failing for 10 s: upstream")
    assert document["failures"] == {"upstream_429": 4}
    assert document["requests"]["own_pages"] >= 2
    assert document["process"]["processes"] == 3
    clients.other.send(_request("/dashboard/events"))
    await clients.other.until(lambda: b"event: state" in clients.other.received)
    received = clients.other.received
    assert b'"upstream_request_id":"req_2"' in received
    assert b'"requests":4,"limited":0,"errors":4' in received


@pytest_twisted.ensureDeferred
async def test_page_without_the_parent_is_503(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goproxyai.state import parent_link

    monkeypatch.setattr(parent_link, "PAGE_SECONDS", 0.01)
    monkeypatch.setattr(clients.service.supervisor.state, "_ask", lambda *_: None)
    answer = await clients.ask(clients.one, _request("/stats"))
    assert answer.status == 503
    assert json.loads(answer.body)["error"]["code"] == "overloaded"


@pytest_twisted.ensureDeferred
async def test_messages_of_the_parent_are_carried_out(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, reactor, process = clients.service.workers[0]
    monkeypatch.setenv("CACHE_TTL", "7m")
    for message in (Reload(), Reopen(), Drain()):
        process.send(message)
    while not reactor.stopped:
        await deferLater(clients.service.reactor, 0)
    assert worker._daemon.stats.ready
    assert worker.report()[1]


def test_worker_of_another_release_does_not_start() -> None:
    welcome = Welcome("0.0", 2, {}, "/", b"", "", 3, 0, [], [])
    with pytest.raises(SystemExit, match="restart the service"):
        start(None, welcome)
