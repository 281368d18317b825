"""A daemon on loopback between a raw client and a fake upstream, all in the test process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, eventAsText
from zope.interface import implementer

from goproxyai.config.settings import Settings
from goproxyai.daemon.build import make_daemon
from goproxyai.daemon.service import Daemon
from goproxyai.egress.tls import ClientTLS
from goproxyai.http11.connection_pool import ConnectionPool
from goproxyai.telemetry.access_log import AccessLog
from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.trace_protocol import Tracer
from tests.support.authority import Authority, Identity
from tests.support.proxy import FakeProxy
from tests.support.raw_client import KEY, Answer, RawClient, post, request
from tests.support.serving import loopback
from tests.support.upstream import FakeUpstream

__all__ = [
    "KEY",
    "Answer",
    "ProxyHarness",
    "RawClient",
    "SkewedReactor",
    "eventually",
    "lines",
    "post",
    "request",
]


class SkewedReactor:
    """A reactor whose clock runs ahead of the real one by a settable amount.

    :ivar skew: seconds.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.skew = 0.0

    def seconds(self) -> float:
        return float(self._reactor.seconds()) + self.skew

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


async def eventually(reactor: Any, condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Poll *condition*, once a reactor iteration, where no event signals its change."""
    deadline = reactor.seconds() + timeout
    while not condition():
        assert reactor.seconds() < deadline, f"the condition does not hold after {timeout} s"
        await deferLater(reactor, 0.001)


def lines(events: list[LogEvent]) -> list[str]:
    """Log events as text, each after its level."""
    return [
        f"{event['log_level'].name}: "
        + eventAsText(event, includeTimestamp=False, includeSystem=False)
        for event in events
    ]


@attrs.frozen
@implementer(IHostResolution)
class _Resolution:
    name: str

    def cancel(self) -> None:
        raise NotImplementedError("a resolution completes before it can be cancelled")


@attrs.frozen
@implementer(IHostnameResolver)
class FakeResolver:
    """A resolver that knows *addresses* only.

    :ivar addresses: by name; several are separated by spaces.
    """

    addresses: dict[str, str]

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for address in self.addresses.get(hostName, "").split():
            resolutionReceiver.addressResolved(IPv4Address("TCP", address, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


class ProxyHarness:
    """A fake upstream and the daemon in front of it.

    :ivar events: what the daemon's access log has written.
    :ivar tracer: the daemon's tracer, if any; set before :meth:`start`.
    :ivar clients: connections that :meth:`stop` closes.
    """

    def __init__(self, reactor: Any, authority: Authority) -> None:
        self.reactor = reactor
        self.authority = authority
        self.upstream = FakeUpstream(reactor)
        self.upstream_port = 0
        self.events: list[dict[str, Any]] = []
        self.daemon: Daemon | None = None
        self.tracer: Tracer | None = None
        self.clients: list[RawClient] = []
        self._egress_proxies: list[FakeProxy] = []
        self._real_resolver: Any = None

    # Before the daemon starts.

    def names(self, **addresses: str) -> None:
        """Resolve only the names in *addresses*, in which an underscore stands for a dot."""
        self.resolve({name.replace("_", "."): address for name, address in addresses.items()})

    def resolve(self, addresses: dict[str, str]) -> None:
        """Resolve only the names in *addresses*, as a :class:`FakeResolver` does."""
        previous = self.reactor.installNameResolver(FakeResolver(addresses))
        self._real_resolver = self._real_resolver or previous

    async def listen_with_tls(self, identity: Identity | None = None) -> int:
        """Make the upstream listen with TLS, with a valid certificate unless *identity* is given.

        :returns: the port.
        """
        endpoint = self.loopback(identity or self.authority.good())
        self.upstream_port = await self.upstream.listen(endpoint)
        return self.upstream_port

    def loopback(self, identity: Identity | None = None) -> Any:
        """An endpoint on which a fake server may listen, with TLS if *identity* is given."""
        return loopback(self.reactor, identity.options() if identity else None)

    async def egress(
        self,
        credentials: tuple[str, str] | None = None,
        tls: bool = False,
        identity: Identity | None = None,
    ) -> tuple[FakeProxy, int]:
        """An egress proxy that can reach ``api.openai.test``, and its port for ``PROXY_URL``.

        :param identity: the proxy's with TLS, if not a valid one.
        """
        proxy = FakeProxy(self.reactor, credentials=credentials)
        self._egress_proxies.append(proxy)
        for port in (80, 443):
            proxy.names[f"api.openai.test:{port}"] = ("127.0.0.1", self.upstream_port)
        identity = identity or (self.authority.good() if tls else None)
        return proxy, await proxy.listen(self.loopback(identity))

    async def start(self, upstream: str | None = None, **texts: str) -> ProxyHarness:
        """Start the daemon.

        :param upstream: ``OPENAI_API_URL``; the fake upstream without TLS if not given.
        :param texts: other settings, by the names of their variables.
        """
        if not self.upstream_port:
            self.upstream_port = await self.upstream.listen(loopback(self.reactor))
        texts.setdefault("RATE_LIMIT", "0")
        texts.setdefault("LISTEN", "tcp:0:interface=127.0.0.1")
        texts.setdefault("ADMIN_HOSTS", "proxy.test")  # the Host of request()
        texts["OPENAI_API_URL"] = upstream or f"http://127.0.0.1:{self.upstream_port}"
        settings = Settings.from_texts(texts)
        self.daemon = make_daemon(
            self.reactor, settings, self._record, tls=self._tls, tracer=self.tracer
        )
        self.daemon.startService()
        return self

    def _tls(self, host: str) -> Any:
        return ClientTLS(host, self.authority.trust_root())

    # While the daemon runs.

    @property
    def pool(self) -> ConnectionPool:
        """The daemon's connections to the upstream."""
        assert self.daemon is not None
        return self.daemon.agent.pool

    @property
    def access_log(self) -> AccessLog:
        assert self.daemon is not None
        return self.daemon.context.access_log

    @property
    def port(self) -> int:
        assert self.daemon is not None
        return int(self.daemon.listeners.addresses[0].port)

    async def connect(self, client: RawClient | None = None) -> RawClient:
        """A new connection to the daemon, with *client* as its protocol if given."""
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.port)
        client = await connectProtocol(endpoint, client or RawClient(self.reactor))
        self.clients.append(client)
        return client

    async def ask(self, data: bytes, method: bytes = b"GET") -> Answer:
        """Send one request on a new connection and return the response."""
        client = await self.connect()
        client.send(data)
        answer = await client.answer(method)
        client.abort()
        return answer

    async def logged(self, count: int = 1) -> list[dict[str, Any]]:
        """The access log, which must hold at least *count* events."""
        self.access_log.flush()
        assert len(self.events) >= count, self.events
        return self.events

    def advance(self, seconds: float) -> None:
        """Move the daemon's clock ahead, without running any deadline.

        The daemon does not take the jump for a standstill of the process.

        Only with a :class:`SkewedReactor`, as the fixture ``skewed_harness`` has it.
        """
        self.reactor.skew += seconds
        assert self.daemon is not None
        self.daemon.listeners.factory.ticker.now = self.reactor.seconds()

    def check_deadlines(self) -> None:
        """Run the deadlines of client connections that are due."""
        assert self.daemon is not None
        self.daemon.listeners.factory.ticker.check_deadlines()

    def _record(self, events: list[Event], batch: Batch) -> None:
        self.events += [event.fields(batch) for event in events]

    async def stop(self) -> None:
        """Close all connections, then stop the daemon and the fake servers."""
        for client in self.clients:
            if not client.closed:
                client.abort()
                await client.wait_closed()
        if self.daemon is not None:
            await self.daemon.stopService()
        for proxy in self._egress_proxies:
            await proxy.close()
        await self.upstream.close()
        if self._real_resolver is not None:
            self.reactor.installNameResolver(self._real_resolver)
