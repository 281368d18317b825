"""``ssl:`` endpoints, whose certificates can be read again while they listen.

Twisted reads the files of ``privateKey``, ``certKey`` and ``extraCertChain`` when it parses the
endpoint string. To renew them, the string is parsed again, and the context of the listening port is
replaced. Connections that exist keep the certificate that they began with.
"""

from __future__ import annotations

from typing import Any

import attrs
from OpenSSL.SSL import Context
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLContextFactory,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from zope.interface import implementer

PREFIX = "ssl:"


@implementer(IOpenSSLContextFactory)
@attrs.define(eq=False)
class RenewableContext:
    """Passes on the context of *current*, which may be replaced."""

    current: IOpenSSLContextFactory

    def getContext(self) -> Context:
        context: Context = self.current.getContext()
        return context


class _ParsingReactor:
    """Has the method that an ``ssl:`` endpoint calls to listen, and returns the context."""

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: IOpenSSLContextFactory, **_: Any
    ) -> IOpenSSLContextFactory:
        return contextFactory


class _ListeningReactor:
    """Listens with a context that can be renewed.

    :ivar context: that of the port that listens.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.context: RenewableContext | None = None

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: IOpenSSLContextFactory,
        **options: Any,
    ) -> IListeningPort:
        contextFactory.getContext()  # raises at the start, not in the first connection
        self.context = RenewableContext(contextFactory)
        listening: IListeningPort = self._reactor.listenSSL(port, factory, self.context, **options)
        return listening


@implementer(IStreamServerEndpoint)
class TLSEndpoint:
    """An ``ssl:`` endpoint.

    :raises Exception: where *description* is invalid, or a file cannot be read.
    """

    def __init__(self, reactor: Any, description: str) -> None:
        self._description = description
        self._reactor = _ListeningReactor(reactor)
        self._endpoint: IStreamServerEndpoint = serverFromString(self._reactor, description)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return self._endpoint.listen(protocolFactory)

    def renew(self) -> None:
        """Read the files again, for later connections.

        :raises Exception: where a file cannot be read; the previous certificate stays in use.
        """
        context = self._reactor.context
        if context is None:  # not listening
            return
        endpoint = serverFromString(_ParsingReactor(), self._description)
        parsed: list[IOpenSSLContextFactory] = []
        endpoint.listen(Factory()).addCallback(parsed.append)  # fires at once
        parsed[0].getContext()
        context.current = parsed[0]
