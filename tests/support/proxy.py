"""A fake egress proxy: CONNECT tunnels, and absolute-form requests to plain ``http`` origins.

1. A map resolves the names; a host that is neither in the map nor an IP address is unreachable.
   The proxy never uses a real resolver.
2. Bytes after a CONNECT request are buffered, and are sent first when the tunnel is established.
3. The two connections of a tunnel apply backpressure to each other. When one ends, the other ends
   in the same way: closed or reset.
4. The proxy rewrites the head of a forwarded request and frames its body again. It relays the
   origin's bytes unchanged, so a forwarded request counts as answered when its head is sent.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.support.answers import framed, origin_head, response
from tests.support.requests import Field, Request
from tests.support.serving import FakeConnection, FakeServer, Script, host_and_port
from tests.support.steps import Answer, AnswerBeforeBody, Close, ScriptContext, StreamTransport

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@attrs.define(eq=False)
class Tunnel:
    """An established CONNECT tunnel.

    :ivar outgoing: the proxy's address and port on the connection to the target.
    :ivar open: both connections are open.
    """

    number: int
    request: Request
    outgoing: tuple[str, int]
    open: bool = True

    @property
    def target(self) -> str:
        return self.request.path


class UnknownHostError(Exception):
    """The host is neither in the proxy's map nor an IP address."""


class FakeProxy(FakeServer):
    """A fake egress proxy.

    :param names: the address and port of each authority (``host:port``).
    :param credentials: the user and password that every request must have, if any.
    :ivar tunnels: all tunnels that were established, in order.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        names: Mapping[str, tuple[str, int]] | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(reactor)
        self.names = dict(names or {})
        self.credentials = credentials
        self.tunnels: list[Tunnel] = []

    def buildProtocol(self, addr: IAddress | None) -> FakeConnection:
        return ProxyConnection(self, addr)

    def default_script(self, request: Request) -> Script:
        return Script(request.path, self._answer(request))

    def _answer(self, request: Request) -> Answer:
        if not self._authorized(request):
            return refusal(407, (b"Proxy-Authenticate", b'Basic realm="fake"'))
        if request.method == b"CONNECT":
            return [Splice(ESTABLISHED)]
        if request.target.startswith(b"http://"):
            return [AnswerBeforeBody(), Forward()]
        return refusal(400)

    def _authorized(self, request: Request) -> bool:
        if self.credentials is None:
            return True
        token = base64.b64encode(":".join(self.credentials).encode())
        return request.header(b"proxy-authorization") == b"Basic " + token

    async def dial(self, authority: str, target: TargetConnection) -> None:
        """Connect *target* to *authority*; raises :class:`UnknownHostError`."""
        host, _, port = authority.rpartition(":")
        host, number = self.names.get(authority, (host.strip("[]"), int(port)))
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            raise UnknownHostError(host) from None
        kind: Any = {4: TCP4ClientEndpoint, 6: TCP6ClientEndpoint}[version]
        endpoint = kind(self.reactor, host, number, timeout=5)
        await endpoint.connect(Factory.forProtocol(lambda: target))


def refusal(status: int, *headers: Field) -> Answer:
    """The proxy's error answer, after which it closes the connection."""
    fields = [*headers, (b"Connection", b"close")]
    return [response(b"The proxy refuses the request.\n", status, fields, b"text/plain"), Close()]


@attrs.define(eq=False)
class ProxyScriptContext(ScriptContext):
    """The context of a step that opens connections to targets."""

    connection: ProxyConnection


@attrs.frozen
class Splice:
    """Connect to the target of the CONNECT request, write *granted* and become a tunnel.

    If the target is unreachable, the answer is a 502, or a reset if *granted* is empty because a
    previous step has written the 200.
    """

    granted: bytes = b""

    async def perform(self, context: ScriptContext) -> None:
        assert isinstance(context, ProxyScriptContext)
        try:
            target = await context.connection.dial(context.request.path)
        except (ConnectError, UnknownHostError):
            if self.granted:
                context.transport.write(response(b"", 502, [(b"Connection", b"close")]))
                context.transport.loseConnection()
            else:
                context.transport.abortConnection()
            return
        if self.granted:
            context.transport.write(self.granted)
        context.connection.become_tunnel(context.request, target)


class Forward:
    """Forward an absolute-form request to its origin."""

    async def perform(self, context: ScriptContext) -> None:
        assert isinstance(context, ProxyScriptContext)
        try:
            await context.connection.forward(context.request)
        except (ConnectError, UnknownHostError):
            context.transport.write(response(b"", 502, [(b"Connection", b"close")]))
            context.transport.loseConnection()


class TargetConnection(Protocol):
    """The connection from the proxy to a target."""

    transport: StreamTransport  # type: ignore[assignment]  # narrower than Protocol's
    authority = ""

    def __init__(self, client_side: ProxyConnection) -> None:
        self._client_side = client_side

    def connectionMade(self) -> None:
        # The target may send first, before the two connections are joined.
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self._client_side.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client_side.target_lost(self, reason)

    def outgoing(self) -> tuple[str, int]:
        return host_and_port(self.transport.getHost())


class ProxyConnection(FakeConnection):
    """One client's connection to a :class:`FakeProxy`."""

    def __init__(self, server: FakeProxy, address: IAddress | None) -> None:
        super().__init__(server, address)
        self._proxy = server
        self._connect: Request | None = None
        self._buffered = b""
        self._target: TargetConnection | None = None
        self._tunnel: Tunnel | None = None
        self._forwarded: Request | None = None

    # What Twisted calls.

    def dataReceived(self, data: bytes) -> None:
        if self._tunnel is not None and self._target is not None:
            self._target.transport.write(data)
        elif self._connect is not None:
            self._buffered += data
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._target is not None:
            self._target.transport.unregisterProducer()
            _end_like(self._target.transport, reason)
        self._mark_tunnel_closed()

    # What the parser calls.

    def open_request(
        self, method: bytes, target: bytes, version: str, headers: list[Field]
    ) -> Request:
        request = super().open_request(method, target, version, headers)
        if method == b"CONNECT":
            self._connect = request
        return request

    def upgraded(self, rest: bytes) -> None:
        self._buffered += rest

    def body_received(self, request: Request, data: bytes) -> None:
        if request is self._forwarded and self._target is not None:
            self._target.transport.write(framed(request, data))

    def request_complete(self, request: Request) -> None:
        if request is self._forwarded and self._target is not None:
            self._target.transport.write(framed(request, b""))
        super().request_complete(request)

    # What the steps call.

    def script_context(self, request: Request) -> ScriptContext:
        return ProxyScriptContext(
            self.transport, self._proxy.reactor, request, self._proxy.requests.changed, self
        )

    async def dial(self, authority: str) -> TargetConnection:
        """A paused connection to *authority*; the client's connection is paused meanwhile."""
        target = TargetConnection(self)
        target.authority = authority
        self.transport.pauseProducing()
        try:
            await self._proxy.dial(authority, target)
        finally:
            self.transport.resumeProducing()
        return target

    def become_tunnel(self, request: Request, target: TargetConnection) -> None:
        """Relay bytes in both directions from now on."""
        tunnel = Tunnel(len(self._proxy.tunnels) + 1, request, target.outgoing())
        self._proxy.tunnels.append(tunnel)
        self._tunnel = tunnel
        self._connect_both(target)
        buffered, self._buffered = self._buffered, b""
        if buffered:
            target.transport.write(buffered)

    async def forward(self, request: Request) -> None:
        """Write the received part of *request* to its origin; the rest follows when received."""
        parts = urlsplit(request.target.decode("latin-1"))
        authority = f"{parts.hostname}:{parts.port or 80}"
        if self._target is not None and self._target.authority != authority:
            self._disconnect(self._target)
        if self._target is None:
            self._connect_both(await self.dial(authority))
        assert self._target is not None
        self._forwarded = request
        self._target.transport.write(origin_head(request))
        if request.body:
            self._target.transport.write(framed(request, request.body))
        if request.complete:
            self._target.transport.write(framed(request, b""))

    def last_answered(self) -> None:
        # A tunnel or an origin closes this connection itself.
        if self._target is None:
            super().last_answered()

    def target_lost(self, target: TargetConnection, reason: Failure) -> None:
        if target is not self._target:
            return
        self._target = None
        if not self._closing:
            self.transport.unregisterProducer()
            _end_like(self.transport, reason)
        self._mark_tunnel_closed()

    def _connect_both(self, target: TargetConnection) -> None:
        self._target = target
        # Twisted's transports are push producers, which StreamTransport does not declare.
        target.transport.registerProducer(self.transport, True)  # type: ignore[arg-type]
        self.transport.registerProducer(target.transport, True)  # type: ignore[arg-type]
        target.transport.resumeProducing()

    def _disconnect(self, target: TargetConnection) -> None:
        self._target = None
        self.transport.unregisterProducer()
        target.transport.unregisterProducer()
        target.transport.loseConnection()

    def _mark_tunnel_closed(self) -> None:
        if self._tunnel is not None and self._tunnel.open:
            self._tunnel.open = False
            self._proxy.requests.changed()


def _end_like(transport: StreamTransport, reason: Failure) -> None:
    """Close or reset *transport*, as *reason* says the other connection ended."""
    if isinstance(reason.value, ConnectionDone):
        transport.loseConnection()
    else:
        transport.abortConnection()
