"""One end of the socket pair between the parent process and a worker.

The queue of a peer that does not read is bounded: while the transport's buffer is full, only small
messages that are rare or that answer the peer are queued. The others are left out: a report, a
question or a grant that is late is worth nothing. Where an announcement about caches was left out,
the peer is told to clear its cache when it reads again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol as ByteProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from goproxyai.state.messages import (
    Ask,
    Clear,
    FrameError,
    FrameReader,
    Granted,
    LookUp,
    Message,
    PutBack,
    Replaced,
    Report,
    Written,
    frame,
)

_log = Logger(namespace="goproxyai.state")

_LATE_IS_WORTHLESS = (Ask, Granted, PutBack, Report, LookUp)
_ANNOUNCEMENTS = (Clear, Replaced, Written)


class Peer(Protocol):
    """What gets the messages of the other end."""

    def message_received(self, message: Message) -> None: ...

    def peer_lost(self) -> None:
        """The other end is closed, or sent an invalid message."""


def buffered_write(transport: Any, data: bytes) -> None:
    """Write *data* in the next turn of the reactor."""
    transport.write(data)


@implementer(IPushProducer)
class Channel(ByteProtocol):
    """Sends and receives messages.

    :param peer: gets the messages.
    :param write: writes to a transport.
    """

    transport: Any

    def __init__(self, peer: Peer, write: Callable[[Any, bytes], None] = buffered_write) -> None:
        self._peer = peer
        self._write = write
        self._reader = FrameReader()
        self._paused = False
        self._missed = False
        self._open = False

    def connectionMade(self) -> None:
        self._open = True
        self.transport.registerProducer(self, True)

    def send(self, message: Message) -> bool:
        """Send *message*, or leave it out as the module says; return whether it was sent."""
        if not self._open:
            return False
        if self._paused:
            if isinstance(message, _LATE_IS_WORTHLESS):
                return False
            if isinstance(message, _ANNOUNCEMENTS):
                self._missed = True
                return False
        self._write(self.transport, frame(message))
        return True

    def close(self) -> None:
        """Close this end after what has been sent."""
        if self._open:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
            for message in messages:
                self._receive(message)
        except FrameError as error:
            _log.error("a process of this service sent {problem}", problem=str(error))
            self.transport.abortConnection()

    def _receive(self, message: Message) -> None:
        try:
            self._peer.message_received(message)
        except Exception:  # one message must not end the process
            _log.failure("a message was not handled")

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._open = False
        self._peer.peer_lost()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if self._missed:
            self._missed = False
            self.send(Clear(None, 0))

    def stopProducing(self) -> None:
        """Do nothing: the connection is lost."""


class OneProtocolFactory:
    """Has the one protocol of a connection that exists."""

    def __init__(self, protocol: Channel) -> None:
        self._protocol = protocol

    def buildProtocol(self, _: object) -> Channel:
        return self._protocol
