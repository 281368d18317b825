"""An HTTP egress proxy: CONNECT tunnels, and absolute-form requests for plain ``http`` origins.

1. Names come from a map; a host that is neither in it nor an IP address cannot be reached. Nothing
   ever asks a real resolver.
2. Bytes behind a CONNECT wait until the tunnel stands, then go first.
3. Both sides of a joined pair pause each other; the end of one is the end of the other, in the
   manner of the first: orderly or by reset.
4. A forwarded request's head is rewritten and its body framed anew; what the origin says is relayed
   as it is, so a forwarded request counts as answered once its head is on its way.
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
from tests.support.serving import FakeConnection, FakeServer, Script, place
from tests.support.steps import Answer, AnswerBeforeBody, Close, Stage, RawClient

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@attrs.define(eq=False)
class Tunnel:
    """A CONNECT that was granted.

    :ivar outgoing: the address and port that the far side sees.
    :ivar open: both sides are still there.
    """

    number: int
    request: Request
    outgoing: tuple[str, int]
    open: bool = True

    @property
    def target(self) -> str:
        return self.request.path


class UnknownHostError(Exception):
    """A host that is neither in the proxy's map nor an IP address."""


class FakeProxy(FakeServer):
    """An egress proxy on this machine.

    :param names: where an authority (``host:port``) really lives.
    :param credentials: user and password that every request must bear, if any.
    :ivar tunnels: every tunnel that stood, in order.
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

    def own_script(self, request: Request) -> Script:
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

    async def dial(self, authority: str, far: FarSide) -> None:
        """Connect *far* to where *authority* lives; :class:`UnknownHostError` if nobody knows."""
        host, _, port = authority.rpartition(":")
        host, number = self.names.get(authority, (host.strip("[]"), int(port)))
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            raise UnknownHostError(host) from None
        kind: Any = {4: TCP4ClientEndpoint, 6: TCP6ClientEndpoint}[version]
        endpoint = kind(self.reactor, host, number, timeout=5)
        await endpoint.connect(Factory.forProtocol(lambda: far))


def refusal(status: int, *headers: Field) -> Answer:
    """The proxy's own answer, with which the connection ends."""
    fields = [*headers, (b"Connection", b"close")]
    return [response(b"The proxy says no.\n", status, fields, b"text/plain"), Close()]


@attrs.define(eq=False)
class ProxyStage(Stage):
    """A stage with a connection that can lead elsewhere."""

    connection: ProxyConnection


@attrs.frozen
class Splice:
    """Dial the CONNECT's target, write *granted*, and become a tunnel.

    A target that cannot be reached is a 502, or a reset where the 200 was scripted before this.
    """

    granted: bytes = b""

    async def perform(self, stage: Stage) -> None:
        assert isinstance(stage, ProxyStage)
        try:
            far = await stage.connection.dial(stage.request.path)
        except (ConnectError, UnknownHostError):
            if self.granted:
                stage.wire.write(response(b"", 502, [(b"Connection", b"close")]))
                stage.wire.loseConnection()
            else:
                stage.wire.abortConnection()
            return
        if self.granted:
            stage.wire.write(self.granted)
        stage.connection.become_tunnel(stage.request, far)


class Forward:
    """Send an absolute-form request on to its origin."""

    async def perform(self, stage: Stage) -> None:
        assert isinstance(stage, ProxyStage)
        try:
            await stage.connection.forward(stage.request)
        except (ConnectError, UnknownHostError):
            stage.wire.write(response(b"", 502, [(b"Connection", b"close")]))
            stage.wire.loseConnection()


class FarSide(Protocol):
    """The connection from the proxy to a target."""

    wire: RawClient
    authority = ""

    def __init__(self, near: ProxyConnection) -> None:
        self._near = near

    def connectionMade(self) -> None:
        self.wire = self.transport  # type: ignore[assignment]  # every stream transport has these
        # A target that speaks first has to wait until the pair is joined.
        self.wire.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self._near.wire.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._near.far_lost(self, reason)

    def outgoing(self) -> tuple[str, int]:
        assert self.transport is not None
        return place(self.transport.getHost())


class ProxyConnection(FakeConnection):
    """One client's connection to a :class:`FakeProxy`."""

    def __init__(self, server: FakeProxy, address: IAddress | None) -> None:
        super().__init__(server, address)
        self._proxy = server
        self._connect: Request | None = None
        self._early = b""
        self._far: FarSide | None = None
        self._tunnel: Tunnel | None = None
        self._forwarded: Request | None = None

    # What Twisted calls.

    def dataReceived(self, data: bytes) -> None:
        if self._tunnel is not None and self._far is not None:
            self._far.wire.write(data)
        elif self._connect is not None:
            self._early += data
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._far is not None:
            self._far.wire.unregisterProducer()
            _end(self._far.wire, reason)
        self._tunnel_ended()

    # What the parser calls.

    def open_request(
        self, method: bytes, target: bytes, version: str, headers: list[Field]
    ) -> Request:
        request = super().open_request(method, target, version, headers)
        if method == b"CONNECT":
            self._connect = request
        return request

    def upgraded(self, rest: bytes) -> None:
        self._early += rest

    def body_came(self, request: Request, data: bytes) -> None:
        if request is self._forwarded and self._far is not None:
            self._far.wire.write(framed(request, data))

    def request_complete(self, request: Request) -> None:
        if request is self._forwarded and self._far is not None:
            self._far.wire.write(framed(request, b""))
        super().request_complete(request)

    # What the steps call.

    def stage(self, request: Request) -> Stage:
        return ProxyStage(
            self.wire, self._proxy.reactor, request, self._proxy.requests.changed, self
        )

    async def dial(self, authority: str) -> FarSide:
        """A paused connection to *authority*; this side is not read meanwhile."""
        far = FarSide(self)
        far.authority = authority
        self.wire.pauseProducing()
        try:
            await self._proxy.dial(authority, far)
        finally:
            self.wire.resumeProducing()
        return far

    def become_tunnel(self, request: Request, far: FarSide) -> None:
        """From here on bytes pass both ways, unseen."""
        tunnel = Tunnel(len(self._proxy.tunnels) + 1, request, far.outgoing())
        self._proxy.tunnels.append(tunnel)
        self._tunnel = tunnel
        self._join(far)
        early, self._early = self._early, b""
        if early:
            far.wire.write(early)

    async def forward(self, request: Request) -> None:
        """Write *request* to its origin, as far as it is here; the rest follows as it comes."""
        parts = urlsplit(request.target.decode("latin-1"))
        authority = f"{parts.hostname}:{parts.port or 80}"
        if self._far is not None and self._far.authority != authority:
            self._part(self._far)
        if self._far is None:
            self._join(await self.dial(authority))
        assert self._far is not None
        self._forwarded = request
        self._far.wire.write(origin_head(request))
        if request.body:
            self._far.wire.write(framed(request, request.body))
        if request.complete:
            self._far.wire.write(framed(request, b""))

    def last_answered(self) -> None:
        # A tunnel or an origin ends this connection itself.
        if self._far is None:
            super().last_answered()

    def far_lost(self, far: FarSide, reason: Failure) -> None:
        if far is not self._far:
            return
        self._far = None
        if not self._closing:
            self.wire.unregisterProducer()
            _end(self.wire, reason)
        self._tunnel_ended()

    def _join(self, far: FarSide) -> None:
        self._far = far
        far.wire.registerProducer(self.wire, True)  # type: ignore[arg-type]  # a transport is one
        self.wire.registerProducer(far.wire, True)  # type: ignore[arg-type]
        far.wire.resumeProducing()

    def _part(self, far: FarSide) -> None:
        self._far = None
        self.wire.unregisterProducer()
        far.wire.unregisterProducer()
        far.wire.loseConnection()

    def _tunnel_ended(self) -> None:
        if self._tunnel is not None and self._tunnel.open:
            self._tunnel.open = False
            self._proxy.requests.changed()


def _end(wire: RawClient, reason: Failure) -> None:
    """End *wire* in the manner in which its other half ended."""
    if isinstance(reason.value, ConnectionDone):
        wire.loseConnection()
    else:
        wire.abortConnection()
