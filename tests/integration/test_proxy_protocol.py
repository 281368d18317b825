"""``haproxy:`` endpoints with real connections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    connectProtocol,
)
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import capturedLogs
from twisted.protocols.tls import TLSMemoryBIOFactory

from tests.support.harness import ProxyHarness, RawClient, lines, request
from tests.support.websocket import HANDSHAKE, SWITCHED, TunnelStand

V1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 5 443\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x08\xc0\x00\x02\x01\x00\x05\x01\xbb"
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"

TCP = "haproxy:tcp:0:interface=127.0.0.1"

tls_warnings = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects is deprecated")


@pytest_twisted.ensureDeferred
async def test_announced_address_is_limited_logged_and_kept_for_the_connection(
    harness: ProxyHarness,
) -> None:
    await harness.start(LISTEN=TCP, RATE_LIMIT="1")
    for header, statuses in ((V1, [404, 429]), (V2, [404, 429]), (LOCAL, [404, 429])):
        client = await harness.connect()
        client.send(header)
        answered = []
        for _ in range(2):
            client.send(request("/absent"))
            answered.append((await client.answer()).status)
        assert answered == statuses
    clients = [event["client"] for event in await harness.logged(6)]
    assert clients == ["198.51.100.7"] * 2 + ["198.51.100.8"] * 2 + ["127.0.0.1"] * 2


@pytest_twisted.ensureDeferred
async def test_announced_address_is_the_peer_of_forwarded_for(harness: ProxyHarness) -> None:
    await harness.start(LISTEN=TCP, TRUSTED_PROXIES="127.0.0.1 198.51.100.8")
    forwarded = [("X-Forwarded-For", "203.0.113.5")]
    for header in (V1, V2):
        await harness.ask(header + request("/health", headers=forwarded))
    assert [event["client"] for event in await harness.logged(2)] == ["198.51.100.7", "203.0.113.5"]


@pytest_twisted.ensureDeferred
async def test_announced_address_decides_about_operators(harness: ProxyHarness) -> None:
    await harness.start(LISTEN=TCP, ADMIN_ALLOW="127.0.0.1 198.51.100.8")
    answers = [(await harness.ask(each + request("/stats"))).status for each in (V1, V2, LOCAL)]
    assert answers == [403, 200, 200]


@pytest_twisted.ensureDeferred
async def test_untrusted_sender_is_closed(harness: ProxyHarness) -> None:
    await harness.start(LISTEN=TCP, TRUSTED_PROXIES="192.0.2.1")
    with capturedLogs() as events:
        for _ in range(2):
            client = await harness.connect()
            client.send(V1 + request("/health"))
            await client.wait_closed()
            assert client.received == b""
    assert len([line for line in lines(events) if "not in TRUSTED_PROXIES" in line]) == 1
    assert harness.events == []


@pytest_twisted.ensureDeferred
async def test_admin_listener_takes_the_header(harness: ProxyHarness) -> None:
    await harness.start(ADMIN_LISTEN=TCP, ADMIN_ALLOW="198.51.100.7")
    assert harness.daemon is not None
    port = harness.daemon.listeners.addresses[1].port
    endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port)
    client = await connectProtocol(endpoint, RawClient(harness.reactor))
    harness.clients.append(client)
    client.send(V1 + request("/stats"))
    assert (await client.answer()).status == 200


@pytest_twisted.ensureDeferred
async def test_header_on_a_unix_socket(harness: ProxyHarness, tmp_path: Path) -> None:
    path = os.path.relpath(tmp_path / "web.sock")
    await harness.start(LISTEN=f"haproxy:unix:{path}", TRUSTED_PROXIES="unix")
    for header in (V1, LOCAL):
        endpoint = UNIXClientEndpoint(harness.reactor, path)
        client: Any = await connectProtocol(endpoint, RawClient(harness.reactor))
        harness.clients.append(client)
        client.send(header + request("/health"))
        assert (await client.answer()).status == 200
    assert [event["client"] for event in await harness.logged(2)] == ["198.51.100.7", "local"]


class HeaderThenTLS(Protocol):
    """Sends a header, then begins TLS on the same connection."""

    def __init__(self, header: bytes, tls: Any) -> None:
        self._header = header
        self._tls = tls

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(self._header)
        transport.protocol = self._tls
        self._tls.makeConnection(transport)


@tls_warnings
@pytest_twisted.ensureDeferred
async def test_header_precedes_tls(harness: ProxyHarness, tmp_path: Path) -> None:
    from twisted.internet.protocol import Factory

    file = tmp_path / "own.pem"
    file.write_bytes(harness.authority.good().pem)
    await harness.start(LISTEN=f"haproxy:ssl:0:interface=127.0.0.1:privateKey={file}")
    assert harness.daemon is not None
    harness.daemon.listeners.renew_certificates()
    for header, address in ((V1, "198.51.100.7"), (V2, "198.51.100.8")):
        client = RawClient(harness.reactor)
        harness.clients.append(client)
        options = optionsForClientTLS("localhost", harness.authority.trust_root())
        tls = TLSMemoryBIOFactory(options, True, Factory.forProtocol(lambda one=client: one))
        endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", harness.port)
        await connectProtocol(endpoint, HeaderThenTLS(header, tls.buildProtocol(None)))
        client.send(request("/health"))
        assert (await client.answer()).status == 200
        assert (await harness.logged())[-1]["client"] == address


@pytest.mark.parametrize("header", [V1, V2])
@pytest_twisted.ensureDeferred
async def test_tunnel_has_the_announced_client(stand: TunnelStand, header: bytes) -> None:
    await stand.start(LISTEN=TCP)
    client = await stand.connect()
    client.send(header + HANDSHAKE + b"early")
    upstream = await stand.upstream.peer()
    await upstream.head()
    upstream.send(SWITCHED + b"down")
    await client.head()
    await client.receives(b"down")
    await upstream.receives(b"early")
    upstream.abort()
    await client.wait_closed()
    (event,) = await stand.harness.logged()
    assert (event["status"], event["client"][:-1]) == (101, "198.51.100.")


@pytest_twisted.ensureDeferred
async def test_waiting_connections_end_with_the_daemon(harness: ProxyHarness) -> None:
    await harness.start(LISTEN=TCP)
    client = await harness.connect()
    client.send(V1[:-1])
    daemon, harness.daemon = harness.daemon, None
    assert daemon is not None
    await daemon.stopService()
    await client.wait_closed()
