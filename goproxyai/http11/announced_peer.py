"""Listeners whose connections begin with a header of the PROXY protocol.

1. The sender of the header must be a trusted proxy. A connection from another sender is closed on
   acceptance, before anything is read.
2. A connection waits for its header for :data:`.HEAD_TIMEOUT_SECONDS`. Meanwhile it counts in the
   limits and takes part in the drain, as the connections of clients do. A connection without a
   valid header is reset.
3. The protocol that the wrapped factory makes for the announced address then replaces the protocol
   of the transport, so that requests do not pass another layer. With TLS, the wrapped factory is
   that of TLS: the header precedes the handshake.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.errors import ProxyError
from goproxyai.http11.connection_deadlines import HEAD_TIMEOUT_SECONDS
from goproxyai.http11.connection_limits import ConnectionLimits
from goproxyai.http11.open_connection import OpenConnection
from goproxyai.limits.addresses import LOCAL_PEER, canonical_address
from goproxyai.messages.proxy_protocol import (
    ProxyHeader,
    ProxyHeaderError,
    SourceKind,
    parse_proxy_header,
)
from goproxyai.reactor.deadlines import NEVER, Ticker, postponed
from goproxyai.reactor.socket_state import input_poll

_log = Logger(namespace="goproxyai")


class AnnouncedPeerContext(Protocol):
    """What the connections share with those of other listeners."""

    ticker: Ticker
    connection_limits: ConnectionLimits
    connections: set[OpenConnection]


class AnnouncedPeerFactory(Factory["AnnouncedConnection"]):
    """Makes the connections of one listener.

    :param inner: is called with the address that the header announces.
    :param description: of the endpoint, for warnings.
    """

    noisy = False

    def __init__(
        self, inner: IProtocolFactory, context: AnnouncedPeerContext, description: str
    ) -> None:
        self.inner = inner
        self.context = context
        self._description = description
        self._warned: set[str] = set()

    def doStart(self) -> None:
        super().doStart()
        self.inner.doStart()

    def doStop(self) -> None:
        super().doStop()
        self.inner.doStop()

    def buildProtocol(self, addr: IAddress | None) -> AnnouncedConnection | None:
        """Return the protocol of a new connection; ``None``, which closes it, for most senders."""
        host = getattr(addr, "host", "") or LOCAL_PEER
        sender = canonical_address(host) or host
        if self.context.connection_limits.trusts(sender):
            return AnnouncedConnection(self, addr, sender)
        self.refused(
            "untrusted_sender",
            sender,
            "the sender is not in TRUSTED_PROXIES",
            "if it is your load balancer, add "
            + ("the word unix" if sender == LOCAL_PEER else "its address"),
        )
        return None

    def refused(self, reason: str, sender: str, problem: str, advice: str) -> None:
        """Count a refused connection; log a warning for the first one with *reason*.

        :param reason: one of :data:`.REFUSALS`.
        """
        self.context.connection_limits.counts.refused[reason] += 1
        if reason in self._warned:
            return
        self._warned.add(reason)
        _log.warn(
            "a connection from {sender} to {endpoint} was closed: {problem}; {advice}. Further "
            "connections are counted and not reported",
            sender="a Unix socket" if sender == LOCAL_PEER else sender,
            endpoint=self._description,
            problem=problem,
            advice=advice,
        )


class AnnouncedConnection(TwistedProtocol):
    """A connection whose header is not complete.

    :ivar peer: the sender, which is a trusted proxy.
    """

    transport: Any  # ITransport lacks abortConnection and protocol

    def __init__(self, factory: AnnouncedPeerFactory, address: IAddress | None, peer: str) -> None:
        self.peer = peer
        self._factory = factory
        self._context = factory.context
        self._address = address
        self._received = b""
        self._reported_idle = False
        self._expires_at = factory.context.ticker.now + HEAD_TIMEOUT_SECONDS

    # Called by the transport.

    def connectionMade(self) -> None:
        context = self._context
        context.ticker.watched.add(self)
        context.connections.add(self)
        context.connection_limits.connection_made(self)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        try:
            header = parse_proxy_header(self._received)
        except ProxyHeaderError as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._hand_over(header)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._forget()
        self._context.connection_limits.connection_lost(self)

    def _hand_over(self, header: ProxyHeader) -> None:
        """Let the protocol for the announced address go on with the transport."""
        transport, rest = self.transport, self._received[header.length :]
        self._forget()
        self._context.connection_limits.connection_replaced(self)
        inner: Any = self._factory.inner.buildProtocol(self._source(header))
        transport.protocol = inner
        inner.makeConnection(transport)
        if rest:
            inner.dataReceived(rest)

    def _source(self, header: ProxyHeader) -> Any:
        if header.kind is SourceKind.SENDER:
            return self._address
        if header.kind is SourceKind.UNIX:
            return UNIXAddress(None)
        kind: Any = IPv6Address if ":" in header.address else IPv4Address
        return kind("TCP", header.address, header.port)

    def _refuse(self, problem: str) -> None:
        advice = "turn the PROXY protocol on in the load balancer, or remove haproxy: here"
        self._factory.refused("proxy_header", self.peer, problem, advice)
        self.transport.abortConnection()

    def _forget(self) -> None:
        self._context.ticker.watched.discard(self)
        self._context.connections.discard(self)

    # Called by the ticker.

    def tick(self, now: float) -> None:
        if now >= self._expires_at:
            self._expires_at = NEVER
            self._refuse(f"no complete header within {HEAD_TIMEOUT_SECONDS:.0f} seconds")
        elif not self._received and not self._reported_idle:
            self._reported_idle = True
            self._context.connection_limits.slots.mark_idle(self, now)

    def postpone(self, lost: float, now: float) -> None:
        self._expires_at = postponed(self._expires_at, lost, now)

    # Called by the daemon and the limits.

    active = None
    """No exchange is handled before the announcement."""

    @property
    def fresh(self) -> bool:
        """Whether no request has been received: always."""
        return True

    @property
    def finished(self) -> bool:
        """Whether no request is in progress: always."""
        return True

    @property
    def evictable(self) -> bool:
        """Whether nothing has been received."""
        return not self._received and not input_poll(self.transport).poll(0)

    def drain(self) -> None:
        """Do nothing: no request is handled."""

    def shut_down(self, problem: ProxyError | None = None) -> None:
        """Close the connection; no request is waiting for *problem*."""
        self.abort()

    def abort(self) -> None:
        """Reset the connection."""
        self.transport.abortConnection()
