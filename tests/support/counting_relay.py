"""A relay in front of a Redis server that notes scripts and their replies, and may hold replies."""

from __future__ import annotations

from typing import Any

from hiredis import Reader, ReplyError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol

from goproxyai.state.redis import scripts
from goproxyai.state.redis.scripts import Script

REPLY = "reply"

_KINDS = {
    name.encode(): script.kind
    for script in vars(scripts).values()
    if isinstance(script, Script)
    for name in (script.digest, script.text)
}


class CountingRelay:
    """The relay.

    :ivar events: kinds of scripts, and :data:`REPLY` for the replies to scripts, in order.
    """

    def __init__(self, reactor: Any, redis_port: int) -> None:
        self.reactor = reactor
        self.redis_port = redis_port
        self.events: list[str] = []
        self._listening: Any = None
        self._connections: list[_FromDaemon] = []
        self._holds = False

    async def listen(self) -> int:
        """Return the port."""
        endpoint = TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1")
        factory = Factory.forProtocol(lambda: _FromDaemon(self))
        self._listening = await endpoint.listen(factory)
        return int(self._listening.getHost().port)

    async def close(self) -> None:
        await self._listening.stopListening()
        for connection in self._connections:
            connection.close()

    @property
    def round_trips(self) -> int:
        """How often a script was sent when all replies so far had arrived."""
        trips, unanswered = 0, 0
        for event in self.events:
            if event == REPLY:
                unanswered -= 1
            else:
                trips += unanswered == 0
                unanswered += 1
        return trips

    @property
    def scripts(self) -> list[str]:
        """The kinds of the scripts."""
        return [event for event in self.events if event != REPLY]

    def replied(self, kind: str, reply: object) -> None:
        """A script has its *reply*; one that the server does not know is sent again."""
        if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
            self.events.remove(kind)
        else:
            self.events.append(REPLY)

    def hold(self) -> None:
        """Pass no more replies on."""
        self._holds = True

    def connected(self, connection: _FromDaemon) -> None:
        self._connections.append(connection)

    def may_pass(self) -> bool:
        return not self._holds


class _FromDaemon(Protocol):
    """The connection of the daemon; forwards commands."""

    transport: Any

    def __init__(self, relay: CountingRelay) -> None:
        self._relay = relay
        self._reader = Reader()
        self._server: _FromServer | None = None
        self._unsent = b""
        self.kinds: list[str | None] = []  # of the commands without a reply; None: no script

    def connectionMade(self) -> None:
        self._relay.connected(self)
        endpoint = TCP4ClientEndpoint(self._relay.reactor, "127.0.0.1", self._relay.redis_port)
        connecting = connectProtocol(endpoint, _FromServer(self._relay, self))
        connecting.addCallback(self._connected)

    def _connected(self, server: _FromServer) -> None:
        self._server = server
        server.transport.write(self._unsent)

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            kind = _KINDS.get(command[1]) if command[0] in (b"EVAL", b"EVALSHA") else None
            self.kinds.append(kind)
            if kind is not None:
                self._relay.events.append(kind)
        if self._server is None:
            self._unsent += data
        else:
            self._server.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        if self._server is not None:
            self._server.transport.loseConnection()

    def close(self) -> None:
        self.transport.loseConnection()


class _FromServer(Protocol):
    """The connection to Redis; returns replies."""

    transport: Any

    def __init__(self, relay: CountingRelay, daemon: _FromDaemon) -> None:
        self._relay = relay
        self._daemon = daemon
        self._reader = Reader()

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            is_message = isinstance(reply, list) and reply[:1] in ([b"message"], [b"subscribe"])
            kind = None if is_message else self._daemon.kinds.pop(0)
            if kind is not None:
                self._relay.replied(kind, reply)
        if self._relay.may_pass():
            self._daemon.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        self._daemon.transport.loseConnection()
