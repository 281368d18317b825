"""A Redis server in memory that answers as a test says, under a fake clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hiredis import Reader
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.state.redis.connection import RedisConnection
from tests.support.memory_transport import MemoryTransport

Command = list[bytes]

SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"


def usual_answer(command: Command) -> bytes | None:
    """Return what a server without data answers."""
    if command[0] == b"SUBSCRIBE":
        return SUBSCRIBED
    if command[0] == b"PING":
        return b"+PONG\r\n"
    return b"+OK\r\n"


def published(payload: bytes) -> bytes:
    """Return the bytes of a message."""
    return b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$%d\r\n%b\r\n" % (len(payload), payload)


class _Transport(MemoryTransport):
    def __init__(self, server: MemoryRedis, protocol: RedisConnection) -> None:
        super().__init__()
        self._server = server
        self._protocol = protocol
        self._reader = Reader()

    def write(self, data: bytes) -> None:
        self._reader.feed(data)
        while True:
            command = self._reader.gets()
            if command is False:
                return
            self._server.received(self._protocol, command)


@implementer(IStreamClientEndpoint)
class MemoryRedis:
    """The server, and its endpoint. Replies arrive when the clock is advanced.

    :ivar answer: returns the reply to a command, ``None`` for none.
    :ivar error: of the attempts to connect.
    :ivar commands: that have been received.
    :ivar connections: all that were made, the oldest first.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.answer: Callable[[Command], bytes | None] = usual_answer
        self.error: Exception | None = None
        self.commands: list[Command] = []
        self.connections: list[RedisConnection] = []

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        if self.error is not None:
            return fail(self.error)
        protocol: Any = protocolFactory.buildProtocol(None)  # type: ignore[arg-type]
        protocol.makeConnection(_Transport(self, protocol))
        self.connections.append(protocol)
        return succeed(protocol)

    def received(self, protocol: RedisConnection, command: Command) -> None:
        self.commands.append(command)
        reply = self.answer(command)
        if reply is not None:
            self._clock.callLater(0, protocol.dataReceived, reply)

    def settle(self) -> None:
        """Deliver the replies, and those to what is sent then."""
        for _ in range(5):
            self._clock.advance(0)

    def lose(self) -> None:
        """Close all connections."""
        for each in self.connections:
            each.connectionLost(Failure(ConnectionDone()))

    def named(self, name: bytes) -> list[Command]:
        """Return the received commands of this name."""
        return [each for each in self.commands if each[0] == name]
