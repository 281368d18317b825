"""The CONNECT endpoint by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory

from goproxyai.egress.tunnel_endpoint import ConnectEndpoint
from goproxyai.messages.connect_errors import ConnectMalformed, ConnectRefused
from tests.integration.egress_proxy import proxy_refusal
from tests.support.harness import ProxyHarness, RawClient
from tests.support.proxy import ESTABLISHED, FakeProxy
from tests.support.steps import Answer as Script
from tests.support.steps import Close, Pause, Reset

pytestmark = pytest.mark.usefixtures("collect_garbage")

TARGET = "target.test:1"


@attrs.define(eq=False)
class Tunnel:
    """A CONNECT endpoint and the proxy that it uses."""

    reactor: Any
    proxy: FakeProxy
    endpoint: ConnectEndpoint

    def connect(self) -> Deferred[Any]:
        return self.endpoint.connect(Factory.forProtocol(lambda: RawClient(self.reactor)))


@pytest_twisted.async_yield_fixture
async def tunnel(harness: ProxyHarness) -> AsyncIterator[Tunnel]:
    proxy, port = await harness.egress()
    to_proxy = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port)
    yield Tunnel(harness.reactor, proxy, ConnectEndpoint(to_proxy, TARGET.encode()))


@pytest_twisted.ensureDeferred
async def test_bytes_after_proxy_answer_are_delivered_first(tunnel: Tunnel) -> None:
    gate = Pause()
    tunnel.proxy.script(TARGET, [ESTABLISHED + b"first", gate, b" second", Close()])
    client = await tunnel.connect()
    await client.until(lambda: client.received == b"first")
    gate.release()
    await client.wait_closed()
    assert client.received == b"first second"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (proxy_refusal(407), ConnectRefused),
        (b"nonsense\r\n\r\n", ConnectMalformed),
        ([Close()], ConnectMalformed),
        ([Reset()], ConnectMalformed),
    ],
)
@pytest_twisted.ensureDeferred
async def test_failed_tunnel_closes_socket(
    tunnel: Tunnel, answer: Script, error: type[Exception]
) -> None:
    tunnel.proxy.script(TARGET, answer)
    with pytest.raises(error):
        await tunnel.connect()
    await tunnel.proxy.wait_closed()
