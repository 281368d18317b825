"""Peers of a WebSocket tunnel that send exact bytes and may close one direction."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from zope.interface import implementer

from goproxyai.reactor.tls_transport import TLSFactory
from tests.support.authority import Identity
from tests.support.harness import ProxyHarness
from tests.support.prompt import PROMPT_SECONDS
from tests.support.raw_client import RawClient, request
from tests.support.records import RecordList

ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HANDSHAKE_FIELDS = [
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Protocol", "realtime"),
    ("Sec-WebSocket-Extensions", "permessage-deflate"),
]
HANDSHAKE = request("/v1/realtime?model=m", headers=HANDSHAKE_FIELDS)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\nSec-WebSocket-Protocol: realtime\r\n\r\n"
)
END_OF_HEAD = b"\r\n\r\n"


@implementer(IHalfCloseableProtocol)
class TunnelPeer(RawClient):
    """A client, or one connection of an upstream.

    :ivar input_ended: a FIN was received.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.input_ended = False

    def readConnectionLost(self) -> None:
        self.input_ended = True
        self._changes.changed()

    def writeConnectionLost(self) -> None:
        """Do nothing: the test has sent the FIN."""

    @property
    def reset(self) -> bool:
        """Whether the peer has reset the connection."""
        return self.reason is not None and self.reason.check(ConnectionLost) is not None

    def finish(self) -> None:
        """Send a FIN after all writes, and read on."""
        transport: Any = self.transport
        transport.loseWriteConnection()

    def close(self) -> None:
        """Close both directions after all writes."""
        self.transport.loseConnection()

    async def receives(self, data: bytes) -> None:
        """Wait until everything that was received is *data*, and forget it."""
        await self.until(lambda: self.received_size >= len(data), timeout=60.0)
        assert self.received == data
        self.received = b""

    async def head(self) -> bytes:
        """Wait for a complete head, return it, and forget it."""
        await self.until(lambda: END_OF_HEAD in self.received)
        head, _, self.received = self.received.partition(END_OF_HEAD)
        return head + END_OF_HEAD

    async def ends(self) -> None:
        """Wait for the FIN or the loss of the connection."""
        await self.until(lambda: self.input_ended or self.closed, timeout=PROMPT_SECONDS)


TunnelEnds = tuple[TunnelPeer, TunnelPeer]
"""The client and the upstream of a tunnel."""


class TunnelUpstream(Factory[TunnelPeer]):
    """A server whose connections the test answers.

    :ivar peers: all connections, in order.
    """

    noisy = False

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._ports: list[IListeningPort] = []
        self.peers: RecordList[TunnelPeer] = RecordList(reactor)

    def buildProtocol(self, addr: IAddress | None) -> TunnelPeer:
        peer = TunnelPeer(self._reactor)
        self.peers.add(peer)
        return peer

    async def listen(self, endpoint: Any) -> int:
        """Listen on *endpoint* and return the port."""
        port = await endpoint.listen(self)
        self._ports.append(port)
        return int(port.getHost().port)

    async def peer(self, number: int = 1) -> TunnelPeer:
        """Wait for connection *number*."""
        await self.peers.wait_until(lambda: len(self.peers) >= number)
        return self.peers[number - 1]

    async def close(self) -> None:
        """Stop listening, and reset the connections."""
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        for peer in self.peers:
            if peer.transport is not None and not peer.closed:
                peer.abort()
                await peer.wait_closed()


@attrs.define(eq=False)
class TunnelStand:
    """A daemon between clients and a :class:`TunnelUpstream`.

    :ivar tls_listener: of the daemon, which clients use if there is one.
    """

    harness: ProxyHarness
    upstream: TunnelUpstream
    port: int = 0
    tls_listener: IListeningPort | None = None

    async def start(self, identity: Identity | None = None, **texts: str) -> TunnelStand:
        """Start both.

        :param identity: of the upstream with TLS; ``None``: without TLS.
        """
        self.port = await self.upstream.listen(self.harness.loopback(identity))
        scheme, host = ("http", "127.0.0.1") if identity is None else ("https", "api.openai.test")
        self.harness.names(api_openai_test="127.0.0.1")
        await self.harness.start(f"{scheme}://{host}:{self.port}", **texts)
        return self

    async def listen_with_tls(self) -> None:
        """Make the daemon listen with TLS as well, for the clients that connect from now on."""
        harness = self.harness
        assert harness.daemon is not None
        options = harness.authority.good().options()
        factory = TLSFactory(options, False, harness.daemon.listeners.factory)
        self.tls_listener = await harness.loopback().listen(factory)

    async def connect(self) -> TunnelPeer:
        """A new connection to the daemon."""
        harness = self.harness
        client = TunnelPeer(harness.reactor)
        if self.tls_listener is None:
            await harness.connect(client)
            return client
        options = optionsForClientTLS("localhost", harness.authority.trust_root())
        port = self.tls_listener.getHost().port  # type: ignore[attr-defined]
        endpoint = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port)
        await connectProtocol(wrapClientTLS(options, endpoint), client)
        harness.clients.append(client)
        return client

    async def close(self) -> None:
        """Close what :meth:`listen_with_tls` and the upstream listen on."""
        if self.tls_listener is not None:
            await maybeDeferred(self.tls_listener.stopListening)
        await self.upstream.close()

    async def shake_hands(self, early: bytes = b"") -> tuple[TunnelPeer, TunnelPeer]:
        """Send a handshake; return the client and the upstream, which has not answered.

        :param early: is sent right after the handshake.
        """
        number = len(self.upstream.peers) + 1
        client = await self.connect()
        client.send(HANDSHAKE + early)
        upstream = await self.upstream.peer(number)
        await upstream.head()
        return client, upstream

    async def open(self) -> tuple[TunnelPeer, TunnelPeer]:
        """Open a tunnel; return its client and its upstream."""
        client, upstream = await self.shake_hands()
        upstream.send(SWITCHED)
        await client.head()
        return client, upstream
