"""A connection to a client, in memory and under a fake clock.

The exchanges are handled by the test. :class:`RecordingListener`, :class:`BodyConsumer` and
:class:`RecordingProducer` play the part of the proxy.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import RequestBody
from goproxyai.http11.server_connection import ServerConnection
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.limits.request_memory import UNLIMITED, RequestMemory
from goproxyai.reactor.deadlines import TICK_SECONDS, Ticker
from tests.support.memory_transport import MemoryTransport


class MemoryServer:
    """One connection of a :class:`.ServerFactory`.

    :param memory: the budget of requests and responses in progress, in bytes.
    :ivar exchanges: those that were dispatched, in order.
    """

    def __init__(self, max_body_bytes: int = 1 << 20, memory: int = UNLIMITED) -> None:
        self.clock = Clock()
        ticker = Ticker(self.clock)
        ticker.start()
        self.exchanges: list[Exchange] = []
        self.memory = RequestMemory(memory)
        self.factory = ServerFactory(
            ticker, self.exchanges.append, max_body_bytes, memory=self.memory
        )
        self.connection, self.transport = self.connect()

    def connect(self) -> tuple[ServerConnection, MemoryTransport]:
        """Make another connection of the same factory."""
        transport = MemoryTransport()
        connection = self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4))
        connection.makeConnection(transport)
        return connection, transport

    def send(self, data: bytes) -> MemoryServer:
        """Send *data* as the client; the connection must be reading."""
        assert self.transport.reading
        self.connection.dataReceived(data)
        return self

    def received(self) -> bytes:
        """Return what the client has received since the last call."""
        data = bytes(self.transport.value())
        self.transport.clear()
        return data

    def advance(self, seconds: float) -> None:
        self.clock.pump([TICK_SECONDS] * int(seconds / TICK_SECONDS))

    def disconnect(self) -> None:
        """Close the connection as the client."""
        self.connection.connectionLost(Failure(ConnectionDone()))

    def block(self) -> None:
        """Let the transport report a full buffer."""
        cast("IPushProducer", self.transport.producer).pauseProducing()

    def unblock(self) -> None:
        """Let the transport report an empty buffer."""
        cast("IPushProducer", self.transport.producer).resumeProducing()


class RecordingListener:
    """Listens to an exchange, and responds with the error if its request fails.

    :ivar events: ``client_gone``, or the code of an error.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.events: list[str] = []
        exchange.listener = self

    def client_gone(self) -> None:
        self.events.append("client_gone")

    def request_failed(self, problem: ProxyError) -> None:
        self.events.append(problem.code)
        if self.exchange.response_started:
            self.exchange.abort()
        else:
            respond(self.exchange, b"", problem.status)


@implementer(IConsumer)
class BodyConsumer:
    """Consumes a request body.

    :param pause_after: bytes after which each write pauses the body.
    :ivar data: what was written.
    :ivar writes: the same, one item for each write.
    """

    def __init__(self, body: Any, pause_after: int = 1 << 30) -> None:
        self.body: RequestBody = body
        self.pause_after = pause_after
        self.data = b""
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.data += data
        self.writes.append(data)
        if len(self.data) >= self.pause_after:
            self.body.pauseProducing()

    def registerProducer(self, producer: object, streaming: bool) -> None:
        raise NotImplementedError

    def unregisterProducer(self) -> None:
        raise NotImplementedError


def respond(exchange: Exchange, body: bytes = b"ok", status: int = 200) -> None:
    """Send a complete response with a length."""
    exchange.start_response(status, b"HTTP/1.1 %d X\r\n" % status, len(body))
    exchange.write(body, True)


def get(target: bytes = b"/v1/models", *lines: bytes, version: bytes = b"1.1") -> bytes:
    """Return a GET request with further header lines."""
    return b"\r\n".join([b"GET %b HTTP/%b" % (target, version), b"Host: a", *lines, b"", b""])


def post(*lines: bytes, length: int | None = None, version: bytes = b"1.1") -> bytes:
    """Return the head of a POST request, chunked unless it has a length."""
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"\r\n".join(
        [b"POST /v1/files HTTP/%b" % version, b"Host: a", framing, *lines, b"", b""]
    )


def chunks(*pieces: bytes) -> bytes:
    """Return *pieces* as chunks, without the last chunk."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def collect(exchange: Exchange, limit: int = 1 << 20) -> list[bytes | None]:
    """Collect the request body; return a list that gets the result."""
    collected: list[bytes | None] = []
    exchange.body.collect(limit, collected.append)
    return collected


def results_of(deferred: Deferred[None]) -> list[object]:
    """Return a list that gets the result of *deferred*, or its failure."""
    results: list[object] = []
    deferred.addBoth(results.append)
    return results
