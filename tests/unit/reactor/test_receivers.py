"""The protocol that a transport delivers to, with Twisted's own endpoints and transports."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactor, StringTransport

from goproxyai.reactor import receivers
from goproxyai.reactor.receivers import receive_directly


class Receiver(Protocol):
    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class SocketTransport(StringTransport):
    protocol: Any = None


@pytest.fixture
def connected() -> tuple[SocketTransport, Receiver]:
    """A transport of Twisted's client endpoint, and the protocol."""
    reactor, protocol, transport = MemoryReactor(), Receiver(), SocketTransport()
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", 9)
    connecting: Deferred[Any] = endpoint.connect(Factory.forProtocol(lambda: protocol))
    transport.protocol = reactor.tcpClients[0][2].buildProtocol(None)
    transport.protocol.makeConnection(transport)
    assert connecting.called
    return transport, protocol


def test_wrapper_of_an_endpoint_is_skipped(connected: tuple[SocketTransport, Receiver]) -> None:
    transport, protocol = connected
    assert transport.protocol is not protocol
    receive_directly(transport, protocol)
    assert transport.protocol is protocol


def test_receiver_is_replaced_through_the_wrapper(
    connected: tuple[SocketTransport, Receiver],
) -> None:
    transport, protocol = connected
    other = Receiver()
    receive_directly(transport, other, instead_of=protocol)
    assert transport.protocol is other


def test_other_receiver_stays(connected: tuple[SocketTransport, Receiver]) -> None:
    transport, _ = connected
    wrapper = transport.protocol
    receive_directly(transport, Receiver())
    assert transport.protocol is wrapper


def test_transport_without_a_protocol_stays_as_it_is() -> None:
    transport = StringTransport()
    receive_directly(transport, Receiver())
    assert not hasattr(transport, "protocol")


def test_receiver_of_a_tls_layer_is_replaced() -> None:
    class Layer:
        wrappedProtocol: Any = None

    layer, old, new = Layer(), Receiver(), Receiver()
    layer.wrappedProtocol = old
    receive_directly(layer, new, instead_of=old)
    assert layer.wrappedProtocol is new


def test_wrapper_stays_where_twisted_has_another_one(
    connected: tuple[SocketTransport, Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, protocol = connected
    wrapper = transport.protocol
    monkeypatch.setattr(receivers, "_WRAPPER", None)
    receive_directly(transport, protocol)
    assert transport.protocol is wrapper
