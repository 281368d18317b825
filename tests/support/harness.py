"""A daemon on loopback between a raw client and a fake upstream, all in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import h11
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, eventAsText
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.config.settings import Settings
from goproxyai.daemon.build import make_daemon
from goproxyai.daemon.service import Daemon
from goproxyai.http11.connection_pool import ConnectionPool
from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.trace_protocol import Tracer
from tests.support.authority import Authority, Identity
from tests.support.ledger import Ledger
from tests.support.proxy import FakeProxy
from tests.support.serving import loopback
from tests.support.upstream import FakeUpstream

KEY = b"Bearer sk-good"


@attrs.frozen
class Answer:
    """One response, as a client saw it.

    :ivar cut: the connection ended before the body did.
    """

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    cut: bool = False

    def all(self, name: str) -> list[bytes]:
        return [v for n, v in self.headers if n.lower() == name.lower().encode()]

    def get(self, name: str) -> bytes | None:
        values = self.all(name)
        return values[0] if values else None


class RawClient(Protocol):
    """A client's connection, with nothing between the test and the bytes."""

    def __init__(self, reactor: Any) -> None:
        self.received = b""
        self.closed = False
        self.reason: Failure | None = None
        self._changes: Ledger[None] = Ledger(reactor)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._changes.changed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed, self.reason = True, reason
        self._changes.changed()

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_reading(self) -> None:
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        self.transport.resumeProducing()

    def abort(self) -> None:
        self.transport.abortConnection()

    def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> Deferred[bool]:
        return self._changes.wait_until(condition, timeout)

    def wait_closed(self, timeout: float = 10.0) -> Deferred[bool]:
        return self.until(lambda: self.closed, timeout)

    async def answer(self, method: bytes = b"GET", timeout: float = 10.0) -> Answer:
        """The next response; what follows it stays in :attr:`received`."""
        box: list[Answer | None] = [None]

        def look() -> bool:
            box[0] = self._parse(method)
            return box[0] is not None

        await self.until(look, timeout)
        assert box[0] is not None
        return box[0]

    def _parse(self, method: bytes) -> Answer | None:
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"a")]))
        connection.send(h11.EndOfMessage())
        if self.received:
            connection.receive_data(self.received)
        response, body, cut = None, b"", False
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                if response is None or not self.closed:
                    raise
                cut = True
                break
            if event is h11.NEED_DATA:
                if not self.closed:
                    return None
                try:
                    connection.receive_data(b"")
                except h11.RemoteProtocolError:
                    cut = True
                    break
                if response is None:
                    return None
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
        if response is None:
            return None
        self.received = connection.trailing_data[0]
        headers = list(response.headers.raw_items())
        return Answer(response.status_code, response.reason, headers, body, cut)


def request(
    target: str = "/v1/models",
    method: str = "GET",
    headers: list[tuple[str, str]] | None = None,
    body: bytes = b"",
    key: bytes = KEY,
) -> bytes:
    """A request on the wire, with a Host, a key, and the body's length."""
    lines = [f"{method} {target} HTTP/1.1", "Host: proxy.test", f"Authorization: {key.decode()}"]
    lines += [f"{name}: {value}" for name, value in headers or []]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def post(target: str, document: bytes, headers: list[tuple[str, str]] | None = None) -> bytes:
    """A POST of JSON."""
    return request(
        target, "POST", [("Content-Type", "application/json"), *(headers or [])], document
    )


class SkewedReactor:
    """A reactor whose clock can be set ahead.

    :ivar skew: seconds, of the real clock.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.skew = 0.0

    def seconds(self) -> float:
        return float(self._reactor.seconds()) + self.skew

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


async def eventually(reactor: Any, condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Turn the reactor until *condition* holds, for what tells nobody when it changes."""
    deadline = reactor.seconds() + timeout
    while not condition():
        assert reactor.seconds() < deadline, "it did not come true"
        await deferLater(reactor, 0.001)


def lines(events: list[LogEvent]) -> list[str]:
    """What was logged, each with its level before it."""
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
        raise NotImplementedError("it is over when it begins")


@attrs.frozen
@implementer(IHostnameResolver)
class Names:
    """A resolver that knows *addresses*, and asks nobody about the rest."""

    addresses: dict[str, str]

    def resolveHostName(self, receiver: Any, name: str, **asked: Any) -> Any:
        receiver.resolutionBegan(_Resolution(name))
        if name in self.addresses:
            address = IPv4Address("TCP", self.addresses[name], asked["portNumber"])
            receiver.addressResolved(address)
        receiver.resolutionComplete()
        return receiver


class ProxyHarness:
    """A fake upstream, and the daemon in front of it.

    :ivar events: what the access log wrote.
    :ivar tracer: follows the requests; to be set before :meth:`start`, where somebody does.
    """

    def __init__(self, reactor: Any, authority: Authority) -> None:
        self.reactor = reactor
        self.authority = authority
        self.upstream = FakeUpstream(reactor)
        self.upstream_port = 0
        self.events: list[dict[str, Any]] = []
        self.daemon: Daemon | None = None
        self.tracer: Tracer | None = None
        self._wires: list[RawClient] = []
        self._proxies: list[FakeProxy] = []
        self._resolver: Any = None

    def names(self, **addresses: str) -> None:
        """Let names resolve to *addresses* (dots are written as underscores), and no others."""
        known = {name.replace("_", "."): address for name, address in addresses.items()}
        before = self.reactor.installNameResolver(Names(known))
        self._resolver = self._resolver or before

    async def listen_with_tls(self, identity: Identity | None = None) -> int:
        """Let the upstream speak TLS, as somebody good if not as *identity*; gives the port."""
        endpoint = self.loopback(identity or self.authority.good())
        self.upstream_port = await self.upstream.listen(endpoint)
        return self.upstream_port

    def loopback(self, identity: Identity | None = None) -> Any:
        """Where one of the doubles may listen, with TLS if it has an *identity*."""
        return loopback(self.reactor, identity and identity.options())

    async def egress(
        self, credentials: tuple[str, str] | None = None, tls: bool = False
    ) -> tuple[FakeProxy, int]:
        """A proxy to be given as ``PROXY_URL``, which knows ``api.openai.test``; and its port."""
        proxy = FakeProxy(self.reactor, credentials=credentials)
        self._proxies.append(proxy)
        for port in (80, 443):
            proxy.names[f"api.openai.test:{port}"] = ("127.0.0.1", self.upstream_port)
        return proxy, await proxy.listen(self.loopback(self.authority.good() if tls else None))

    async def start(self, upstream: str | None = None, **texts: str) -> ProxyHarness:
        """Listen; *texts* are settings by their variables' names."""
        if not self.upstream_port:
            self.upstream_port = await self.upstream.listen(loopback(self.reactor))
        texts.setdefault("RATE_LIMIT", "0")
        texts.setdefault("LISTEN", "tcp:0:interface=127.0.0.1")
        texts["OPENAI_API_URL"] = upstream or f"http://127.0.0.1:{self.upstream_port}"
        settings = Settings.from_texts(texts)
        self.daemon = make_daemon(
            self.reactor, settings, self._note, tls=self._tls, tracer=self.tracer
        )
        self.daemon.startService()
        return self

    def _tls(self, host: str) -> Any:
        return optionsForClientTLS(
            host,
            trustRoot=self.authority.trust_root(),
            acceptableProtocols=[b"http/1.1"],
        )

    @property
    def pool(self) -> ConnectionPool:
        """The daemon's connections to upstream."""
        assert self.daemon is not None
        return self.daemon.agent.pool

    @property
    def port(self) -> int:
        assert self.daemon is not None
        return int(self.daemon.listeners.addresses[0].port)

    async def connect(self, wire: RawClient | None = None) -> RawClient:
        """A client's connection to the daemon; *wire*, if a special one is wanted."""
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.port)
        wire = await connectProtocol(endpoint, wire or RawClient(self.reactor))
        self._wires.append(wire)
        return wire

    async def ask(self, data: bytes, method: bytes = b"GET") -> Answer:
        """One request on a connection of its own."""
        wire = await self.connect()
        wire.send(data)
        answer = await wire.answer(method)
        wire.abort()
        return answer

    async def logged(self, count: int = 1) -> list[dict[str, Any]]:
        """The access log, once it holds *count* events."""
        assert self.daemon is not None
        self.daemon._access_log.flush()
        assert len(self.events) >= count, self.events
        return self.events

    def _note(self, events: list[Event], batch: Batch) -> None:
        self.events += [event.fields(batch) for event in events]

    async def stop(self) -> None:
        """End everything."""
        for wire in self._wires:
            if not wire.closed:
                wire.abort()
                await wire.wait_closed()
        if self.daemon is not None:
            await self.daemon.stopService()
        for proxy in self._proxies:
            await proxy.close()
        await self.upstream.close()
        if self._resolver is not None:
            self.reactor.installNameResolver(self._resolver)
