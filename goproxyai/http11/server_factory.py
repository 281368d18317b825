"""Make the connections to clients."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from zope.interface import implementer

from goproxyai.http11.connection_limits import ConnectionLimits
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.repeated_head import RepeatedHeadCache
from goproxyai.http11.server_connection import ServerConnection
from goproxyai.http11.turn_scheduler import TurnScheduler
from goproxyai.limits.addresses import canonical_address
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.reactor.deadlines import Ticker
from goproxyai.reactor.write_batch import ImmediateWriter, Writer

LOCAL_PEER = "local"
"""Address of a client that has none, such as one over a Unix socket."""


@implementer(IProtocolNegotiationFactory)
class ServerFactory(Factory[ServerConnection]):
    """Makes a :class:`~.server_connection.ServerConnection` for each client.

    Is the :class:`~.server_connection.ServerContext` of all of them.

    :param writer: without one, connections write at once.
    :param connection_limits: without them every connection is admitted.
    :param memory: without one, the memory of requests in progress is not limited.
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
        self.connection_limits = connection_limits or ConnectionLimits(ticker)
        self.memory = memory or RequestMemory()
        self.turns = TurnScheduler(ticker.clock)
        self.heads = RepeatedHeadCache(self.memory)
        self.connections: set[ServerConnection] = set()

    def acceptableProtocols(self) -> list[bytes]:
        """Return what ALPN offers on a TLS listener (RFC 7301)."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> ServerConnection:
        host = getattr(addr, "host", "") or LOCAL_PEER
        return ServerConnection(self, canonical_address(host) or host)
