"""Endpoints that connect through an egress proxy: by CONNECT, or by SOCKS 5.

:mod:`goproxyai.messages.connect` (RFC 9110 section 9.3.6) and :mod:`goproxyai.messages.socks5`
produce and parse the bytes; this module connects them to a transport. The proxy's credentials are
sent in the handshake only. Cancelling the connection attempt closes the socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast
from typing import Protocol as TypingProtocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed, NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.egress.name_endpoint import resolve
from goproxyai.messages.connect import ConnectParser
from goproxyai.messages.socks5 import Socks5Handshake, SocksRefused
from goproxyai.reactor.receivers import receive_directly

MAX_SOCKS_ADDRESSES: Final = 4
"""Addresses of a name that are tried through a SOCKS proxy, one after the other."""


class Handshake(TypingProtocol):
    """The messages that open one tunnel."""

    def request_bytes(self) -> bytes:
        """Return the first message."""

    def receive(self, data: bytes) -> bytes | None:
        """Return the first bytes of the tunnel, or ``None`` while it is not open."""

    def data_to_send(self) -> bytes:
        """Return what is to be sent after the last call of :meth:`receive`."""

    def closed(self) -> Exception:
        """Return the error of a connection that the proxy has closed."""


class TunnelProtocol(Protocol):
    """Performs the handshake; once the tunnel is open, everything is for the inner protocol.

    Most transports then deliver to the inner protocol directly, and this object is released.

    :param inner: makes the inner protocol.
    :param address: of the proxy.
    :ivar tunnel: fires with the inner protocol when the tunnel is open.
    """

    transport: Any  # ITransport lacks abortConnection

    def __init__(
        self, handshake: Handshake, inner: IProtocolFactory, address: IAddress | None
    ) -> None:
        self.tunnel: Deferred[IProtocol] = Deferred(self._cancel)
        self._handshake = handshake
        self._factory = inner
        self._address = address
        self._inner: IProtocol | None = None

    def connectionMade(self) -> None:
        self.transport.write(self._handshake.request_bytes())

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        try:
            rest = self._handshake.receive(data)
            more = self._handshake.data_to_send()
        except Exception as error:  # an unexpected exception must not leave the attempt pending
            self._fail(Failure(error))
            return
        if more:
            self.transport.write(more)
        if rest is not None:
            self._open(rest)

    def _open(self, rest: bytes) -> None:
        # Made late: an attempt that fails must not use up a factory for a single connection.
        inner = self._factory.buildProtocol(self._address)  # type: ignore[arg-type]  # typed without None
        if inner is None:
            self._fail(Failure(NoProtocol()))
            return
        self._inner = inner
        receive_directly(self.transport, inner, instead_of=self)
        inner.makeConnection(self.transport)
        self.tunnel.callback(inner)
        if rest:
            inner.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.tunnel.called:
            # Any reason other than a closed connection is a failed TLS handshake with the proxy.
            if reason.check(ConnectionClosed) is not None:
                reason = Failure(self._handshake.closed())
            self.tunnel.errback(reason)

    def readConnectionLost(self) -> None:
        """The peer has sent its FIN: called where the inner protocol can half-close."""
        cast("IHalfCloseableProtocol", self._inner).readConnectionLost()

    def writeConnectionLost(self) -> None:
        """The FIN to the peer is sent."""
        cast("IHalfCloseableProtocol", self._inner).writeConnectionLost()

    def _fail(self, reason: Failure) -> None:
        self.transport.abortConnection()
        if not self.tunnel.called:
            self.tunnel.errback(reason)

    def _cancel(self, tunnel: Deferred[IProtocol]) -> None:
        if self.transport is not None:
            self.transport.abortConnection()


class _TunnelFactory(Factory[TunnelProtocol]):
    noisy = False

    def __init__(self, handshake: Callable[[], Handshake], inner: IProtocolFactory) -> None:
        self.handshake = handshake
        self.inner = inner

    def buildProtocol(self, addr: IAddress | None) -> TunnelProtocol:
        return TunnelProtocol(self.handshake(), self.inner, addr)


def _open_tunnel(
    proxy: IStreamClientEndpoint, handshake: Callable[[], Handshake], inner: IProtocolFactory
) -> Deferred[Any]:
    """Connect to *proxy* and open a tunnel; fires with the protocol that *inner* makes."""
    connecting: Deferred[Any] = proxy.connect(_TunnelFactory(handshake, inner))
    return connecting.addCallback(lambda protocol: protocol.tunnel)


@implementer(IStreamClientEndpoint)
@attrs.frozen
class ConnectEndpoint:
    """Connects to *authority* through the HTTP proxy at *proxy*.

    :ivar authority: ``host:port``, an IPv6 host in brackets.
    :ivar headers: further fields of the CONNECT request, such as ``Proxy-Authorization``.
    """

    proxy: IStreamClientEndpoint
    authority: bytes
    headers: tuple[tuple[bytes, bytes], ...] = attrs.field(default=(), repr=False)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Open a tunnel (``IStreamClientEndpoint``).

        Fails with :class:`~goproxyai.messages.connect.ConnectRefused` or
        :class:`~goproxyai.messages.connect.ConnectMalformed`, or as the endpoint *proxy* does.
        """
        return _open_tunnel(
            self.proxy,
            lambda: ConnectParser(self.authority, list(self.headers)),
            protocolFactory,
        )


@implementer(IStreamClientEndpoint)
@attrs.frozen
class SocksEndpoint:
    """Connects to *host* through the SOCKS 5 proxy at *proxy*.

    :ivar reactor: its resolver is used where *resolves_here* is set.
    :ivar host: a name without a trailing dot, or an address.
    :ivar resolves_here: send addresses to the proxy, and not the name (``socks5://``).
    """

    proxy: IStreamClientEndpoint
    reactor: Any
    host: str
    port: int
    resolves_here: bool
    credentials: tuple[bytes, bytes] | None = attrs.field(default=None, repr=False)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Open a tunnel (``IStreamClientEndpoint``).

        Fails with :class:`~goproxyai.messages.socks5.SocksRefused`,
        :class:`~goproxyai.messages.socks5.SocksMalformed` or ``DNSLookupError``, or as the endpoint
        *proxy* does.
        """
        if not self.resolves_here:
            return self._connect_to(self.host, protocolFactory)
        return Deferred.fromCoroutine(self._connect_to_any(protocolFactory))

    async def _connect_to_any(self, factory: IProtocolFactory) -> Any:
        """Connect to the first address that the proxy can reach."""
        addresses = await resolve(self.reactor, self.host, self.port)
        *others, last = [each.host for each in addresses[:MAX_SOCKS_ADDRESSES]]
        for host in others:
            try:
                return await self._connect_to(host, factory)
            except SocksRefused as refused:
                if not refused.concerns_address:
                    raise
        return await self._connect_to(last, factory)

    def _connect_to(self, host: str, factory: IProtocolFactory) -> Deferred[Any]:
        return _open_tunnel(
            self.proxy, lambda: Socks5Handshake(host, self.port, self.credentials), factory
        )
