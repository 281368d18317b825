"""An endpoint that connects through a CONNECT tunnel of an HTTP proxy (RFC 9110 section 9.3.6).

:mod:`goproxyai.messages.connect` produces and parses the bytes; this module connects them to a
transport. The proxy's credentials are sent in the CONNECT request only. Cancelling the connection
attempt closes the socket.
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
    """Sends the CONNECT request; once the tunnel is open, passes everything to *inner*.

    :ivar tunnel: fires with *inner* when the tunnel is open.
    """

    transport: Any  # ITransport lacks abortConnection

    def __init__(self, parser: ConnectParser, inner: IProtocol) -> None:
        self.tunnel: Deferred[IProtocol] = Deferred(self._cancel)
        self._parser = parser
        self._inner = inner
        self._open = False

    def connectionMade(self) -> None:
        self.transport.write(self._parser.request_bytes())

    def dataReceived(self, data: bytes) -> None:
        if self._open:
            self._inner.dataReceived(data)
            return
        try:
            rest = self._parser.receive(data)
        except Exception as error:  # an unexpected exception must not leave the attempt pending
            self._fail(Failure(error))
            return
        if rest is None:
            return
        self._open = True
        self._inner.makeConnection(self.transport)
        self.tunnel.callback(self._inner)
        if rest:
            self._inner.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._open:
            self._inner.connectionLost(reason)
        elif not self.tunnel.called:
            # Any reason other than a closed connection is a failed TLS handshake with the proxy.
            if reason.check(ConnectionClosed) is not None:
                reason = Failure(ConnectMalformed("it closed the connection without an answer"))
            self.tunnel.errback(reason)

    def _fail(self, reason: Failure) -> None:
        self.transport.abortConnection()
        if not self.tunnel.called:
            self.tunnel.errback(reason)

    def _cancel(self, tunnel: Deferred[IProtocol]) -> None:
        if self.transport is not None:
            self.transport.abortConnection()


class _ConnectFactory(Factory[ConnectProtocol]):
    noisy = False

    def __init__(self, parser: ConnectParser, inner: IProtocolFactory) -> None:
        self.parser = parser
        self.inner = inner

    def buildProtocol(self, addr: IAddress | None) -> ConnectProtocol | None:
        inner = self.inner.buildProtocol(addr)  # type: ignore[arg-type]  # typed without None
        return None if inner is None else ConnectProtocol(self.parser, inner)


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
        parser = ConnectParser(self.authority, list(self.headers))
        connecting: Deferred[Any] = self.proxy.connect(_ConnectFactory(parser, protocolFactory))
        return connecting.addCallback(lambda protocol: protocol.tunnel)
