"""Connections over loopback: pipelining without reading, unusual hosts, TLS, bodiless messages."""

from __future__ import annotations

import socket

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.ssl import optionsForClientTLS

from goproxyai.http11 import server_connection
from goproxyai.http11.connection_states import OutputState
from tests.support.answers import response
from tests.support.harness import ProxyHarness, RawClient, eventually, request
from tests.support.serving import loopback


@pytest_twisted.ensureDeferred
async def test_pipelining_client_that_does_not_read_is_not_served_further(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("/v1/large", response(b"x" * 60_000, content_type=b"text/plain"))
    await harness.ask(request("/v1/large"))
    assert harness.daemon is not None
    counters = harness.daemon.context.counters
    wire = await harness.connect()
    wire.pause_reading()
    wire.send(request("/v1/large") * 1_000)
    last = -1

    def settled() -> bool:
        nonlocal last
        before, last = last, counters.hits
        return last == before > 0

    await eventually(harness.reactor, settled)
    assert counters.hits < 500
    wire.resume_reading()
    for _ in range(1_000):
        assert len((await wire.answer()).body) == 60_000
    assert counters.hits == 1_000


@pytest_twisted.ensureDeferred
async def test_last_response_is_delivered_to_a_client_that_reads_late(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = 0
    tick = server_connection.ServerConnection.tick

    def count_wait(connection: server_connection.ServerConnection, now: float) -> None:
        nonlocal waits
        waits += connection.output.state is OutputState.CLOSING
        tick(connection, now)

    monkeypatch.setattr(server_connection, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(server_connection.ServerConnection, "tick", count_wait)
    await harness.start()
    harness.upstream.script("/v1/large", response(b"x" * 1_000_000, content_type=b"text/plain"))
    client = await harness.connect()
    client.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.pause_reading()
    client.send(request("/v1/large", headers=[("Connection", "close")]))
    await eventually(harness.reactor, lambda: waits >= 3)
    client.resume_reading()
    answer = await client.answer()
    assert (len(answer.body), answer.cut) == (1_000_000, False)
    await client.wait_closed()
    assert client.reason is not None
    assert client.reason.check(ConnectionDone)


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 64 + ".test", "[::1]:80"])
@pytest_twisted.ensureDeferred
async def test_unusual_host_reaches_the_admin_endpoints(harness: ProxyHarness, host: str) -> None:
    await harness.start()
    data = f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert (await harness.ask(data)).status == 200


@pytest_twisted.ensureDeferred
async def test_304_without_length_stays_without_length(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/models", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n")
    answer = await harness.ask(request(headers=[("If-None-Match", "x")]))
    assert answer.status == 304
    assert answer.get("Content-Length") is None


@pytest_twisted.ensureDeferred
async def test_empty_chunked_body_is_forwarded_with_content_length(harness: ProxyHarness) -> None:
    await harness.start()
    await harness.ask(
        b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert harness.upstream.requests[0].header(b"content-length") == b"0"


@pytest_twisted.ensureDeferred
async def test_tls_listener_negotiates_http_1_1(harness: ProxyHarness) -> None:
    await harness.start()
    assert harness.daemon is not None
    tls = harness.authority.good().options(())
    port = await loopback(harness.reactor, tls).listen(harness.daemon.listeners.factory)
    creator = optionsForClientTLS(
        "localhost",
        trustRoot=harness.authority.trust_root(),
        acceptableProtocols=[b"h2", b"http/1.1"],
    )
    tcp = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port.getHost().port)
    wire = await connectProtocol(wrapClientTLS(creator, tcp), RawClient(harness.reactor))
    for state in (b"MISS", b"HIT"):
        wire.send(request())
        answer = await wire.answer()
        assert (answer.status, answer.get("X-Cache")) == (200, state)
    assert wire.transport.negotiatedProtocol == b"http/1.1"
    wire.abort()
    await wire.wait_closed()
    await port.stopListening()
