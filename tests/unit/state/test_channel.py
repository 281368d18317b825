"""One end of a socket pair, over an in-memory transport."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import StringTransport

from goproxyai.state.channel import Channel, OneProtocolFactory
from goproxyai.state.messages import (
    Ask,
    Clear,
    Drain,
    FrameReader,
    Message,
    Written,
    frame,
)
from tests.support.harness import lines

CLEAR_ALL = Clear(None, 0)


class Peer:
    def __init__(self) -> None:
        self.received: list[Message] = []
        self.lost = 0

    def message_received(self, message: Message) -> None:
        if isinstance(message, Drain):
            raise RuntimeError("a bug")
        self.received.append(message)

    def peer_lost(self) -> None:
        self.lost += 1


class Pair:
    def __init__(self) -> None:
        self.peer = Peer()
        self.channel = Channel(self.peer)
        self.transport = StringTransport()
        assert OneProtocolFactory(self.channel).buildProtocol(None) is self.channel
        self.channel.makeConnection(self.transport)

    def sent(self) -> list[Message]:
        data = self.transport.value()
        self.transport.clear()
        return FrameReader().feed(data)


def test_messages_pass_both_ways() -> None:
    pair = Pair()
    pair.channel.send(Ask("a", 1))
    assert pair.sent() == [Ask("a", 1)]
    pair.channel.dataReceived(frame(Written(b"o")) + frame(CLEAR_ALL))
    assert pair.peer.received == [Written(b"o"), CLEAR_ALL]


def test_peer_that_does_not_read_gets_no_late_messages_and_clears_afterwards() -> None:
    pair = Pair()
    pair.channel.pauseProducing()
    for message in (Ask("a", 1), Written(b"o"), Drain()):
        pair.channel.send(message)
    assert pair.sent() == [Drain()]
    pair.channel.resumeProducing()
    assert pair.sent() == [CLEAR_ALL]
    pair.channel.resumeProducing()
    assert pair.sent() == []


def test_nothing_is_sent_before_the_connection_and_after_it() -> None:
    peer = Peer()
    channel = Channel(peer)
    channel.send(Drain())
    channel.close()
    pair = Pair()
    pair.channel.close()
    pair.channel.connectionLost()
    pair.channel.send(Drain())
    pair.channel.stopProducing()
    assert pair.sent() == []
    assert pair.peer.lost == 1


def test_invalid_bytes_break_the_connection() -> None:
    from twisted.logger import capturedLogs

    pair = Pair()
    with capturedLogs() as events:
        pair.channel.dataReceived(b"\xff\xff\xff\xff")
    assert pair.transport.disconnected
    assert "a frame of" in lines(events)[0]


def test_payload_that_is_no_message_breaks_the_connection() -> None:
    from twisted.logger import capturedLogs

    pair = Pair()
    with capturedLogs() as events:
        pair.channel.dataReceived(b"\0\0\0\x01\xc1")
    assert pair.transport.disconnected
    assert "an invalid message" in lines(events)[0]


def test_defect_in_a_handler_does_not_end_the_connection(failures: list[Any]) -> None:
    pair = Pair()
    pair.channel.dataReceived(frame(Drain()) + frame(CLEAR_ALL))
    assert pair.peer.received == [CLEAR_ALL]
    assert len(failures) == 1
    failures.clear()
