"""A listener for IPv6 and IPv4, and how it treats the addresses of its clients."""

from __future__ import annotations

import errno
import json
import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory

from goproxyai.daemon import dual_stack
from goproxyai.daemon.dual_stack import DualStackEndpoint
from tests.support.harness import Answer, ProxyHarness, RawClient, request


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="the host has no IPv6")


async def ask(harness: ProxyHarness, address: str, data: bytes) -> Answer:
    """Send a request to the loopback *address* and return the response."""
    kind: Any = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
    endpoint = kind(harness.reactor, address, harness.port)
    client = await connectProtocol(endpoint, RawClient(harness.reactor))
    harness.clients.append(client)
    client.send(data)
    return await client.answer()


@needs_ipv6
@pytest_twisted.ensureDeferred
async def test_ipv4_and_ipv6_clients_are_served(harness: ProxyHarness) -> None:
    await harness.start(LISTEN="tcp46:0")
    for address in ("127.0.0.1", "::1"):
        assert (await ask(harness, address, request("/health"))).status == 200
    assert [event["client"] for event in await harness.logged(2)] == ["127.0.0.1", "::1"]


@pytest_twisted.ensureDeferred
async def test_ipv4_client_has_its_ipv4_address(harness: ProxyHarness) -> None:
    await harness.start(
        LISTEN="tcp46:0", RATE_LIMIT="1", ADMIN_ALLOW="127.0.0.1", TRUSTED_PROXIES="127.0.0.1"
    )
    assert (await ask(harness, "127.0.0.1", request("/stats"))).status == 200
    statuses = []
    for address in ("::ffff:192.0.2.1", "192.0.2.1"):
        forwarded = request("/v1/models", headers=[("X-Forwarded-For", address)])
        statuses.append((await ask(harness, "127.0.0.1", forwarded)).status)
    assert statuses == [200, 429]
    assert (await ask(harness, "127.0.0.1", request("/v1/models"))).status == 200
    assert [event["client"] for event in await harness.logged(4)] == [
        "127.0.0.1", "192.0.2.1", "192.0.2.1", "127.0.0.1",
    ]  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_ipv4_client_outside_of_the_lists_is_refused(harness: ProxyHarness) -> None:
    await harness.start(LISTEN="tcp46:0", ADMIN_ALLOW="::/0", TRUSTED_PROXIES="::/0")
    answer = await ask(harness, "127.0.0.1", request("/stats"))
    assert answer.status == 403
    assert json.loads(answer.body)["error"]["code"] == "admin_forbidden"
    forwarded = [("X-Forwarded-For", "2001:db8::1")]
    await ask(harness, "127.0.0.1", request("/v1/models", headers=forwarded))
    assert [event["client"] for event in await harness.logged(2)] == ["127.0.0.1"] * 2


@pytest_twisted.ensureDeferred
async def test_host_without_ipv6_gets_an_ipv4_socket(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dual_stack._listening_socket

    def ipv4_only(family: socket.AddressFamily, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(dual_stack, "_listening_socket", ipv4_only)
    endpoint = DualStackEndpoint.parse(harness.reactor, "tcp46:0")
    listening = await endpoint.listen(Factory.forProtocol(RawClient))
    assert isinstance(listening.getHost(), IPv4Address)
    await listening.stopListening()


@needs_ipv6
def test_socket_is_dual_stack_whatever_the_host_has_as_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ipv6OnlyByDefault(socket.socket):
        """As with ``net.ipv6.bindv6only=1``."""

        def __init__(self, family: int, kind: int) -> None:
            super().__init__(family, kind)
            self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)

    monkeypatch.setattr(dual_stack.socket, "socket", Ipv6OnlyByDefault)
    with dual_stack._listening_socket(socket.AF_INET6, "::", 0, 1) as listening:
        assert listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0


@pytest_twisted.ensureDeferred
async def test_port_in_use_is_an_error(harness: ProxyHarness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = DualStackEndpoint(harness.reactor, taken.getsockname()[1])
        with pytest.raises(CannotListenError, match="in use"):
            await endpoint.listen(Factory.forProtocol(RawClient))


@pytest.mark.parametrize(
    ("description", "port", "backlog"),
    [("tcp46:0", 0, 1024), ("tcp46:8080:backlog=5", 8080, 5), ("tcp46:port=8080", 8080, 1024)],
)
def test_description_has_port_and_backlog(description: str, port: int, backlog: int) -> None:
    endpoint = DualStackEndpoint.parse(None, description)
    assert (endpoint.port, endpoint.backlog) == (port, backlog)


@pytest.mark.parametrize(
    "description", ["tcp46:", "tcp46:65536", "tcp46:http", "tcp46:80:interface=127.0.0.1"]
)
def test_other_description_is_refused(description: str) -> None:
    with pytest.raises(ValueError, match="expected tcp46:PORT"):
        DualStackEndpoint.parse(None, description)
