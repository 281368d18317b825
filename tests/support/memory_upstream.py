"""A connection to an upstream, in memory and under a fake clock."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.python.failure import Failure

from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.connection_deadlines import Timeouts
from goproxyai.http11.tunnel_end import TunnelEnd
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.messages.headers import Headers
from goproxyai.reactor.deadlines import TICK_SECONDS, Ticker
from goproxyai.reactor.write_batch import ImmediateWriter
from goproxyai.upstream.retries import RetryCause
from tests.support.memory_transport import MemoryTransport


class MemoryUpstream:
    """A :class:`.ClientConnection`, and the receiver and body sink of its responses.

    :param head: seconds until the response head. :param idle: seconds without progress in a body.
    :ivar asks_for_websocket: the requests are handshakes.
    :ivar end: the connection after a response with status 101.
    :ivar idle_calls: one entry for each time that the connection became idle.
    :ivar events: interim responses, body bytes, and how the body ended.
    """

    def __init__(self, head: float = 2.0, idle: float = 2.0, tls: bool = False) -> None:
        self.clock = Clock()
        self.ticker = Ticker(self.clock)
        self.ticker.start()
        self.transport = MemoryTransport(stalled=True)
        self.idle_calls: list[ClientConnection] = []
        self.failures: list[BaseException] = []
        self.causes: list[RetryCause | None] = []
        self.responses: list[Any] = []
        self.events: list[object] = []
        self.asks_for_websocket = False
        self.end: TunnelEnd | None = None
        self.memory = RequestMemory()
        self.connection = ClientConnection(
            self.ticker,
            Timeouts(head, idle),
            tls,
            self.idle_calls.append,
            lambda lost: None,
            ImmediateWriter(),
            self.memory,
        )
        self.connection.ready.addErrback(lambda _: None)
        self.connection.makeConnection(self.transport)

    def send(self, body: Any = None, method: bytes = b"GET") -> MemoryUpstream:
        head = b"%b /v1/models HTTP/1.1\r\nHost: a\r\n" % method
        self.connection.send(method, head, body, False, self)
        return self

    def receive(self, data: bytes) -> MemoryUpstream:
        """Receive *data* from the upstream."""
        self.connection.dataReceived(data)
        return self

    def lose(self, reason: Exception) -> None:
        self.connection.connectionLost(Failure(reason))

    def advance(self, seconds: float) -> None:
        self.clock.pump([TICK_SECONDS] * round(seconds / TICK_SECONDS))

    # ResponseReceiver

    def answered(self, response: Any) -> None:
        self.responses.append(response)
        if response.code == 101:
            self.end = response.switch_protocols()

    def failed(self, reason: Failure, cause: RetryCause | None = None) -> None:
        assert reason.value is not None
        self.failures.append(reason.value)
        self.causes.append(cause)

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        self.events.append((status, reason, headers))

    def may_switch_protocols(self) -> bool:
        return self.asks_for_websocket

    # BodySink

    def received(self, data: bytes, ended: bool) -> None:
        self.events.append((data, ended))

    def closed(self) -> None:
        self.events.append("closed")

    def broken(self, reason: Failure) -> None:
        self.events.append(type(reason.value))
