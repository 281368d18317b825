"""Connections that begin with a header of the PROXY protocol, on a fake clock."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from goproxyai.http11.announced_peer import AnnouncedPeerFactory
from goproxyai.http11.connection_deadlines import HEAD_TIMEOUT_SECONDS
from goproxyai.http11.connection_limits import ConnectionLimits
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.limits.addresses import TrustedProxies
from goproxyai.reactor.deadlines import TICK_SECONDS, Ticker
from tests.support.harness import lines
from tests.support.memory_server import get
from tests.support.memory_transport import MemoryTransport

SENDER = IPv4Address("TCP", "192.0.2.9", 4)
HEADER = b"PROXY TCP4 198.51.100.7 192.0.2.1 5 443\r\n"
UNKNOWN = b"PROXY UNKNOWN\r\n"
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
UNIX_V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + bytes(216)
IPV6_V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24"
    + b"\x20\x01\x0d\xb8"
    + bytes(11)
    + b"\x07"
    + bytes(20)
)


class SwitchableTransport(MemoryTransport):
    """Passes input to its present protocol, as Twisted's transports do."""

    protocol: Any

    def receive(self, data: bytes) -> None:
        self.protocol.dataReceived(data)


@attrs.define(eq=False)
class Listener:
    """A listener in memory, whose trusted sender is 192.0.2.9."""

    trusted: str = "192.0.2.9"
    max_connections: int = 100
    max_per_client: int = 0
    clock: Clock = attrs.field(factory=Clock)
    exchanges: list[Exchange] = attrs.field(factory=list)
    limits: ConnectionLimits = attrs.field(init=False)
    factory: AnnouncedPeerFactory = attrs.field(init=False)
    context: ServerFactory = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        ticker = Ticker(self.clock)
        ticker.start()
        self.limits = ConnectionLimits(
            ticker,
            None,
            self.max_connections,
            self.max_per_client,
            TrustedProxies.parse(self.trusted),
        )
        self.context = ServerFactory(
            ticker, self.exchanges.append, 1000, connection_limits=self.limits
        )
        self.factory = AnnouncedPeerFactory(self.context, self.context, "haproxy:tcp:1")

    def connect(self, address: IAddress = SENDER) -> SwitchableTransport:
        connection = self.factory.buildProtocol(address)
        assert connection is not None
        transport = SwitchableTransport()
        transport.protocol = connection
        connection.makeConnection(transport)
        return transport

    def advance(self, seconds: float) -> None:
        self.clock.pump([TICK_SECONDS] * int(seconds / TICK_SECONDS))

    @property
    def peers(self) -> list[str]:
        """The addresses of the clients of all requests."""
        return [exchange.connection.peer for exchange in self.exchanges]

    @property
    def refused(self) -> dict[str, int]:
        return {name: count for name, count in self.limits.counts.refused.items() if count}


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (HEADER, "198.51.100.7"),
        (IPV6_V2, "2001:db8::7"),
        (UNKNOWN, "192.0.2.9"),
        (LOCAL, "192.0.2.9"),
        (UNIX_V2, "local"),
    ],
)
def test_announced_address_is_the_peer_however_the_header_is_cut(header: bytes, peer: str) -> None:
    data = header + get()
    for cut in range(len(header) + 2):
        listener = Listener()
        transport = listener.connect()
        transport.receive(data[:cut])
        transport.receive(data[cut:])
        assert listener.peers == [peer]


def test_requests_do_not_pass_another_layer() -> None:
    listener = Listener()
    transport = listener.connect()
    first = transport.protocol
    transport.receive(HEADER)
    assert transport.protocol is not first
    assert set(listener.context.connections) == {transport.protocol}


def test_sender_on_a_unix_socket_is_trusted_by_the_word() -> None:
    listener = Listener("unix")
    listener.connect(UNIXAddress(None)).receive(HEADER + get())
    assert listener.peers == ["198.51.100.7"]
    assert Listener("").factory.buildProtocol(UNIXAddress(None)) is None


def test_untrusted_sender_is_closed_and_warned_about_once() -> None:
    listener = Listener("192.0.2.8")
    with capturedLogs() as events:
        for _ in range(3):
            assert listener.factory.buildProtocol(SENDER) is None
    (line,) = lines(events)
    assert line.startswith("warn: a connection from 192.0.2.9 to haproxy:tcp:1 was closed: the ")
    assert "TRUSTED_PROXIES" in line
    assert listener.refused == {"untrusted_sender": 3}
    listener.limits.trust(TrustedProxies.parse("192.0.2.9"))
    listener.connect().receive(HEADER + get())
    assert listener.peers == ["198.51.100.7"]


@pytest.mark.parametrize("data", [get(), b"\x16\x03\x01", b"PROXY TCP4 nonsense\r\n"])
def test_connection_without_valid_header_is_reset(data: bytes) -> None:
    listener = Listener()
    with capturedLogs() as events:
        for _ in range(2):
            transport = listener.connect()
            transport.receive(data)
            assert transport.aborted
    (line,) = lines(events)
    assert "turn the PROXY protocol on" in line
    assert listener.refused == {"proxy_header": 2}
    assert listener.exchanges == []


def test_incomplete_header_is_reset_after_20_seconds() -> None:
    listener = Listener()
    transport = listener.connect()
    transport.receive(HEADER[:-1])
    listener.advance(HEAD_TIMEOUT_SECONDS - 1)
    assert not transport.aborted
    with capturedLogs():
        listener.advance(2)
    assert transport.aborted
    assert listener.refused == {"proxy_header": 1}


def test_standstill_of_the_process_moves_the_deadline() -> None:
    listener = Listener()
    transport = listener.connect()
    listener.clock.advance(60)
    transport.receive(HEADER + get())
    assert listener.peers == ["198.51.100.7"]
    assert not transport.aborted


def test_connection_is_counted_once_and_forgotten_when_it_is_lost() -> None:
    listener = Listener()
    transport = listener.connect()
    waiting = listener.connect()
    assert (listener.limits.counts.opened, len(listener.context.connections)) == (2, 2)
    transport.receive(HEADER)
    assert listener.limits.counts.opened == 2
    assert listener.limits.slots.admitted == 2
    for each in (transport, waiting):
        each.protocol.connectionLost(Failure(ConnectionDone()))
    assert (listener.limits.counts.closed, len(listener.context.connections)) == (2, 0)
    assert listener.limits.slots.admitted == 0


def test_limit_of_a_client_applies_to_the_announced_address() -> None:
    listener = Listener(max_per_client=1)
    for _ in range(2):
        listener.connect().receive(HEADER + get())
    listener.connect().receive(IPV6_V2 + get())
    problems = [each.problem and each.problem.code for each in listener.exchanges]
    assert problems == [None, "overloaded", None]


def test_silent_connection_is_evicted_for_a_new_one() -> None:
    listener = Listener(max_connections=1)
    silent = listener.connect()
    listener.advance(2)
    listener.connect().receive(HEADER + get())
    assert silent.aborted
    assert listener.exchanges[0].problem is None


def test_connection_with_a_part_of_its_header_is_not_evicted() -> None:
    listener = Listener(max_connections=1)
    busy = listener.connect()
    listener.advance(1)
    busy.receive(HEADER[:5])
    listener.advance(2)
    listener.connect().receive(HEADER + get())
    assert not busy.aborted
    assert listener.exchanges[0].problem is not None


def test_drain_leaves_a_new_connection_open() -> None:
    listener = Listener()
    transport = listener.connect()
    (waiting,) = listener.context.connections
    assert (waiting.fresh, waiting.finished) == (True, True)
    waiting.drain()
    assert not transport.aborted
    waiting.shut_down()
    assert transport.aborted
