"""Make the connections to clients."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from zope.interface import implementer

from goproxyai.http11.connection_limits import ConnectionLimits
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.open_connection import OpenConnection
from goproxyai.http11.repeated_head import RepeatedHeadCache
from goproxyai.http11.server_connection import ServerConnection
from goproxyai.http11.turn_scheduler import TurnScheduler
from goproxyai.limits.addresses import LOCAL_PEER, canonical_address
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.reactor.deadlines import Ticker
from goproxyai.reactor.write_batch import ImmediateWriter, Writer

DEFAULT_KEEP_ALIVE_SECONDS = 75.0
"""Idle time of a connection, unless it is set."""


@implementer(IProtocolNegotiationFactory)
class ServerFactory(Factory[ServerConnection]):
    """Makes a :class:`~.server_connection.ServerConnection` for each client.

    Is the :class:`~.server_connection.ServerContext` of all of them.

    :param writer: without one, connections write at once.
    :param connection_limits: without them every connection is admitted.
    :param memory: without one, the memory of requests in progress is not limited.
    :ivar keep_alive_seconds: after which an idle connection is closed; may change.
    """

    noisy = False

    def __init__(
        self,
        ticker: Ticker,
        dispatch: Callable[[Exchange], None],
        max_body_bytes: int,
        writer: Writer | None = None,
        connection_limits: ConnectionLimits | None = None,
        memory: RequestMemory | None = None,
    ) -> None:
        self.ticker = ticker
        self.dispatch = dispatch
        self.max_body_bytes = max_body_bytes
        self.writer: Writer = writer or ImmediateWriter()
        self.keep_alive_seconds = DEFAULT_KEEP_ALIVE_SECONDS
        self.connection_limits = connection_limits or ConnectionLimits(ticker)
        self.memory = memory or RequestMemory()
        self.turns = TurnScheduler(ticker.clock)
        self.heads = RepeatedHeadCache(self.memory)
        ticker.watched.add(self.heads)
        self.connections: set[OpenConnection] = set()

    def sibling(self, dispatch: Callable[[Exchange], None]) -> ServerFactory:
        """Return a factory for another listener, with the same limits and connections.

        :param dispatch: is called with the exchanges of that listener.
        """
        other = copy(self)
        other.dispatch = dispatch
        return other

    def acceptableProtocols(self) -> list[bytes]:
        """Return what ALPN offers on a TLS listener (RFC 7301)."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> ServerConnection:
        host = getattr(addr, "host", "") or LOCAL_PEER
        return ServerConnection(self, canonical_address(host) or host)
