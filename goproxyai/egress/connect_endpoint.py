"""A tunnel: an endpoint that reaches its target through an HTTP proxy (RFC 9110 §9.3.6).

The bytes are :mod:`goproxyai.messages.connect`'s; here they meet a transport. The proxy's credentials
go into the CONNECT request and nowhere else. Cancelling the connection attempt closes the socket.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.messages.connect import ConnectMalformed, ConnectParser


class ConnectProtocol(Protocol):
    """Speaks CONNECT, then hands the transport over to *inner* and steps aside.

    :ivar done: fires with *inner* once the tunnel stands.
    """

    transport: Any  # ITransport does not tell half of what a transport can do

    def __init__(self, tunnel: ConnectParser, inner: IProtocol) -> None:
        self.done: Deferred[IProtocol] = Deferred(self._cancel)
        self._tunnel = tunnel
        self._inner = inner
        self._through = False

    def connectionMade(self) -> None:
        """Ask the proxy for the tunnel."""
        self.transport.write(self._tunnel.request_bytes())

    def dataReceived(self, data: bytes) -> None:
        """The proxy's answer; afterwards, what comes through."""
        if self._through:
            self._inner.dataReceived(data)
            return
        try:
            rest = self._tunnel.receive(data)
        except Exception as refused:  # Tunnel's two exceptions, and no surprise may hang us
            self._end(Failure(refused))
            return
        if rest is None:
            return
        self._through = True
        self._inner.makeConnection(self.transport)
        self.done.callback(self._inner)
        if rest:
            self._inner.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Before the tunnel stands, the attempt failed; afterwards, it is *inner*'s to know."""
        if self._through:
            self._inner.connectionLost(reason)
        elif not self.done.called:
            if reason.check(ConnectionClosed) is not None:
                reason = Failure(ConnectMalformed("it closed the connection unanswered"))
            self.done.errback(reason)  # else TLS with the proxy failed

    def _end(self, reason: Failure) -> None:
        self.transport.abortConnection()
        if not self.done.called:
            self.done.errback(reason)

    def _cancel(self, done: Deferred[IProtocol]) -> None:
        if self.transport is not None:
            self.transport.abortConnection()


class _ConnectFactory(Factory[ConnectProtocol]):
    noisy = False

    def __init__(self, tunnel: ConnectParser, inner: IProtocolFactory) -> None:
        self.tunnel = tunnel
        self.inner = inner

    def buildProtocol(self, addr: IAddress | None) -> ConnectProtocol | None:
        inner = self.inner.buildProtocol(addr)  # type: ignore[arg-type]  # as it came
        return None if inner is None else ConnectProtocol(self.tunnel, inner)


@implementer(IStreamClientEndpoint)
@attrs.frozen
class ConnectEndpoint:
    """Reaches *authority* through the proxy behind *proxy*.

    :ivar authority: ``host:port``, an IPv6 host in brackets.
    :ivar headers: for the CONNECT request, such as ``Proxy-Authorization``.
    """

    proxy: IStreamClientEndpoint
    authority: bytes
    headers: tuple[tuple[bytes, bytes], ...] = attrs.field(default=(), repr=False)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """As ``IStreamClientEndpoint`` has it.

        Fails with :class:`~goproxyai.messages.connect.ConnectRefused` or ``TunnelBroken``, or as the
        proxy's endpoint does.
        """
        tunnel = ConnectParser(self.authority, list(self.headers))
        connecting: Deferred[Any] = self.proxy.connect(_ConnectFactory(tunnel, protocolFactory))
        return connecting.addCallback(lambda protocol: protocol.done)
