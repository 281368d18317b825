"""Relay agents with an upstream and an egress proxy to connect to."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from goproxyai.config.urls import ProxyURL
from goproxyai.egress.agent import RelayAgent
from goproxyai.egress.routes import Routes
from goproxyai.egress.tls import ClientTLS
from goproxyai.http11.connection_deadlines import Timeouts
from goproxyai.reactor.deadlines import Ticker
from tests.support.authority import Authority
from tests.support.proxy import FakeProxy
from tests.support.serving import loopback
from tests.support.upstream import FakeUpstream


@attrs.define(eq=False)
class AgentHarness:
    """Makes agents, and closes their connections at the end."""

    reactor: Any
    authority: Authority
    ticker: Ticker
    upstream: FakeUpstream
    proxy: FakeProxy
    _agents: list[RelayAgent] = attrs.field(factory=list)

    def agent(
        self, proxy: ProxyURL | None = None, head_timeout: float = 5.0, connect_timeout: float = 5.0
    ) -> RelayAgent:
        routes = Routes(self.reactor, proxy, (), self._tls)
        timeouts = Timeouts(head_timeout, 5.0)
        agent = RelayAgent(self.reactor, self.ticker, routes, timeouts, connect_timeout)
        self._agents.append(agent)
        return agent

    def _tls(self, host: str) -> Any:
        return ClientTLS(host, self.authority.trust_root())

    async def listen(self, tls: bool = False) -> bytes:
        """Start the upstream and return its origin."""
        options = self.authority.good().options() if tls else None
        port = await self.upstream.listen(loopback(self.reactor, options))
        return b"http%b://127.0.0.1:%d" % (b"s" if tls else b"", port)

    async def close(self) -> None:
        for agent in self._agents:
            agent.pool.close()
        await self.upstream.close()
        await self.proxy.close()


class Body(Protocol):
    """Keeps what ``IResponse.deliverBody`` delivers.

    :ivar ended: fires with the exception that the body ended with.
    """

    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.ended: Deferred[Exception] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert isinstance(reason.value, Exception)
        self.ended.callback(reason.value)
