"""Connection limits: which connections are one client's, and when a connection is idle."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock

from goproxyai.http11.connection_limits import ConnectionLimits
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.limits.addresses import TrustedProxies
from goproxyai.reactor.deadlines import TICK_SECONDS, Ticker
from tests.support.memory_server import MemoryServer, get, respond
from tests.support.memory_transport import MemoryTransport


def admitted(*addresses: IAddress) -> list[bool]:
    """Connect from *addresses*, one connection a client; return which are admitted."""
    ticker, trusted = Ticker(Clock()), TrustedProxies.parse("192.0.2.0/24")
    limits = ConnectionLimits(ticker, max_per_client=1, trusted=trusted)
    exchanges: list[Exchange] = []
    factory = ServerFactory(ticker, exchanges.append, 1000, connection_limits=limits)
    for address in addresses:
        connection = factory.buildProtocol(address)
        connection.makeConnection(MemoryTransport())
        connection.dataReceived(get())
    return [exchange.problem is None for exchange in exchanges]


def test_ipv6_client_is_its_64_bit_prefix() -> None:
    texts = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "2001:db8:0:0:ffff::", "2001:db9::1")
    addresses = [IPv6Address("TCP", text, 9) for text in texts]
    assert admitted(*addresses) == [True, False, True, False, True]


def test_ipv4_client_is_the_same_in_ipv6_form() -> None:
    mapped, plain = IPv6Address("TCP", "::ffff:198.51.100.7", 9), "198.51.100.7"
    assert admitted(mapped, IPv4Address("TCP", plain, 9)) == [True, False]


def test_trusted_peer_has_no_limit_of_its_own() -> None:
    mapped, plain = IPv6Address("TCP", "::ffff:192.0.2.7", 9), IPv4Address("TCP", "192.0.2.7", 9)
    assert admitted(mapped, plain) == [True, True]


def test_client_without_address_has_no_limit_of_its_own() -> None:
    assert admitted(UNIXAddress(b"/run/x.sock"), UNIXAddress(b"/run/x.sock")) == [True, True]


def test_connection_with_unsent_bytes_is_not_idle() -> None:
    server = MemoryServer()
    slots = server.factory.connection_limits.slots
    server.transport.stalled = True
    server.send(get())
    respond(server.exchanges[0])
    for taken, idle in ((10, False), (10_000, False), (0, True)):
        server.clock.advance(TICK_SECONDS)
        assert bool(slots.idle) is idle
        server.transport.take(taken)
