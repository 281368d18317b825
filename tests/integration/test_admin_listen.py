"""A listener for operators, apart from the listener for clients."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.logger import capturedLogs

from goproxyai.daemon.endpoints import ListenError
from tests.integration.admin_requests import FROM_ELSEWHERE, error_of
from tests.support.harness import Answer, ProxyHarness, RawClient, eventually, lines, request
from tests.support.steps import Pause

HEALTH = ["/health", "/health/", "/health/live", "/health/ready"]
OPERATORS = [
    ("GET", "/"),
    ("GET", "/stats"),
    ("GET", "/metrics"),
    ("GET", "/dashboard"),
    ("GET", "/dashboard/app.js"),
    ("DELETE", "/cache"),
]
LISTEN = "tcp:0:interface=127.0.0.1"


async def connect_as_operator(harness: ProxyHarness) -> RawClient:
    """Return a new connection to the listener for operators."""
    assert harness.daemon is not None
    port = harness.daemon.listeners.addresses[1].port
    endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port)
    client: RawClient = await connectProtocol(endpoint, RawClient(harness.reactor))
    harness.clients.append(client)
    return client


async def ask_as_operator(harness: ProxyHarness, data: bytes) -> Answer:
    """Send one request to the listener for operators, and return the response."""
    client = await connect_as_operator(harness)
    client.send(data)
    answer = await client.answer(data.partition(b" ")[0])
    client.abort()
    return answer


@pytest_twisted.ensureDeferred
async def test_listener_of_clients_serves_relay_and_health_alone(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_LISTEN=LISTEN, ADMIN_TOKEN="t0ken")
    assert (await harness.ask(request())).status == 200
    for target in HEALTH:
        assert (await harness.ask(request(target))).status == 200
    for method, target in OPERATORS:
        for key in (b"Bearer sk-good", b"Bearer t0ken"):
            answer = await harness.ask(request(target, method, key=key), method.encode())
            assert (answer.status, error_of(answer)["code"]) == (404, "not_found")
            assert "ADMIN_LISTEN" in error_of(answer)["message"]
    unknown = await harness.ask(request("/unknown"))
    assert "ADMIN_LISTEN" not in error_of(unknown)["message"]
    assert (await harness.ask(request("/health", "POST"))).status == 405
    assert (await harness.ask(request("/v1/models", "TRACE"))).status == 405


@pytest_twisted.ensureDeferred
async def test_listener_of_operators_serves_all_but_the_relay(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_LISTEN=LISTEN)
    for method, target in [*OPERATORS, *(("GET", target) for target in HEALTH)]:
        assert (await ask_as_operator(harness, request(target, method))).status == 200
    for method, target in (("GET", "/v1/models"), ("POST", "/v1/x"), ("GET", "/models")):
        answer = await ask_as_operator(harness, request(target, method))
        assert (answer.status, error_of(answer)["code"]) == (404, "not_found")
        assert "LISTEN" in error_of(answer)["message"]
    assert harness.upstream.connections_made == 0
    index = await ask_as_operator(harness, request("/"))
    assert "/v1/" not in json.loads(index.body)["endpoints"]


@pytest.mark.parametrize("line", ["OPTIONS *", "CONNECT proxy.example:443"])
@pytest_twisted.ensureDeferred
async def test_listener_of_operators_allows_the_methods_of_its_endpoints(
    harness: ProxyHarness, line: str
) -> None:
    await harness.start(ADMIN_LISTEN=LISTEN)
    host = line.partition(" ")[2].strip("*") or "localhost"
    answer = await ask_as_operator(harness, f"{line} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert (answer.status, answer.all("Allow")) == (405, [b"GET, DELETE, HEAD"])


@pytest_twisted.ensureDeferred
async def test_listener_of_operators_needs_authorization(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_LISTEN=LISTEN, ADMIN_ALLOW="", ADMIN_TOKEN="t0ken")
    assert (await ask_as_operator(harness, request("/stats"))).status == 403
    assert (await ask_as_operator(harness, request("/health"))).status == 200
    with_token = request("/stats", key=b"Bearer t0ken")
    assert (await ask_as_operator(harness, with_token)).status == 200


@pytest_twisted.ensureDeferred
async def test_both_listeners_share_the_rate_limit(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_LISTEN=LISTEN, RATE_LIMIT="2")
    other = request("/stats", headers=FROM_ELSEWHERE)
    assert (await ask_as_operator(harness, other)).status == 403
    assert (await harness.ask(other)).status == 404
    assert (await harness.ask(other)).status == 429
    assert (await ask_as_operator(harness, other)).status == 429
    assert (await ask_as_operator(harness, request("/stats"))).status == 200


@pytest_twisted.ensureDeferred
async def test_both_listeners_share_the_limit_of_connections(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_LISTEN=LISTEN, MAX_CONNECTIONS="1")
    await harness.connect()
    assert (await ask_as_operator(harness, request("/stats"))).status == 503
    assert (await ask_as_operator(harness, request("/health"))).status == 200


@pytest_twisted.ensureDeferred
async def test_connections_of_both_listeners_are_counted_and_drained(
    harness: ProxyHarness,
) -> None:
    await harness.start(ADMIN_LISTEN=LISTEN)
    pause = Pause()
    harness.upstream.script("/v1/models", [pause, b"HTTP/1.1 204 No Content\r\n\r\n"])
    client, operator = await harness.connect(), await connect_as_operator(harness)
    operator.send(request("/stats"))
    assert json.loads((await operator.answer()).body)["connections"]["open"] == 2
    client.send(request())
    await harness.upstream.wait_for(lambda seen: seen.paused)
    assert harness.daemon is not None
    ports = [address.port for address in harness.daemon.listeners.addresses]
    stopping = harness.daemon.stopService()
    await eventually(harness.reactor, lambda: harness.daemon.admin.stats.draining)
    operator.send(request("/stats"))
    assert (await operator.answer()).status == 503
    await operator.wait_closed()
    assert not client.closed
    for port in ports:
        endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port)
        with pytest.raises(Refused):
            await connectProtocol(endpoint, RawClient(harness.reactor))
    pause.release()
    assert (await client.answer()).status == 204
    await stopping
    harness.daemon = None


@pytest.mark.parametrize("taken", ["LISTEN", "ADMIN_LISTEN"])
@pytest_twisted.ensureDeferred
async def test_taken_port_of_either_listener_stops_the_start(
    harness: ProxyHarness, taken: str
) -> None:
    await harness.start(ADMIN_LISTEN=LISTEN)
    assert harness.daemon is not None
    port = harness.daemon.listeners.addresses[taken == "ADMIN_LISTEN"].port
    other = ProxyHarness(harness.reactor, harness.authority)
    texts = {"LISTEN": LISTEN, "ADMIN_LISTEN": LISTEN, taken: f"tcp:{port}:interface=127.0.0.1"}
    with pytest.raises(ListenError, match=f"cannot listen on tcp:{port}:.* in use"):
        await other.start(**texts)
    await other.stop()


@pytest_twisted.ensureDeferred
async def test_log_names_the_listener_of_operators(harness: ProxyHarness) -> None:
    with capturedLogs() as events:
        await harness.start(ADMIN_LISTEN=LISTEN)
    listening = [line for line in lines(events) if "listening on" in line]
    assert [line.endswith(" for operators") for line in listening] == [False, True]
