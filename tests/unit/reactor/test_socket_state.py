"""Questions to a transport's socket."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.testing import StringTransport

from goproxyai.reactor.socket_state import (
    KEEP_ALIVE_IDLE_SECONDS,
    can_half_close,
    input_poll,
    peer_closed,
    set_keep_alive,
    set_no_delay,
    unacknowledged_bytes,
)
from goproxyai.reactor.socket_write import undelivered_bytes
from tests.unit.reactor.socket_pair import SocketPair, TLSLayer


def test_transport_without_a_socket_has_no_state() -> None:
    transport = StringTransport()
    assert not peer_closed(transport)
    assert input_poll(transport).poll(0) == []
    assert unacknowledged_bytes(transport) == 0
    assert not can_half_close(transport)
    set_no_delay(transport)
    set_keep_alive(transport)


def test_tls_cannot_half_close(pair: SocketPair) -> None:
    assert can_half_close(pair.transport)
    assert not can_half_close(TLSLayer(pair.transport))


def test_no_delay_is_set_on_tcp(pair: SocketPair) -> None:
    set_no_delay(pair.transport)
    assert pair.transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("layer", [lambda transport: transport, TLSLayer])
def test_keep_alive_is_set_on_tcp(pair: SocketPair, layer: Callable[[Any], Any]) -> None:
    handle = pair.transport.getHandle()
    assert not handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    set_keep_alive(layer(pair.transport))
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    assert idle == KEEP_ALIVE_IDLE_SECONDS


def test_unix_socket_has_no_keep_alive() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport: Any = StringTransport()
        transport.getHandle = lambda: ours
        set_keep_alive(transport)
        assert not ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_input_poll_reports_unread_input_and_close(pair: SocketPair) -> None:
    poller = input_poll(pair.transport)
    assert poller.poll(0) == []
    pair.peer.sendall(b"hello")
    pair.wait_for_event()
    assert poller.poll(0)
    assert pair.transport.socket.recv(10) == b"hello"
    assert poller.poll(0) == []
    pair.peer.close()
    pair.wait_for_event()
    assert poller.poll(0)


def test_open_peer_is_not_closed_with_or_without_reading(pair: SocketPair) -> None:
    assert not peer_closed(pair.transport)
    pair.transport.pauseProducing()
    assert not peer_closed(pair.transport)
    pair.peer.sendall(b"hello")
    pair.wait_for_event()
    assert not peer_closed(pair.transport)
    assert pair.transport.socket.recv(10) == b"hello"


def test_closed_peer_is_noticed_while_reading_is_paused(pair: SocketPair) -> None:
    pair.transport.pauseProducing()
    pair.peer.close()
    pair.wait_for_event()
    assert peer_closed(pair.transport)
    assert peer_closed(TLSLayer(pair.transport))
    assert pair.protocol.reason is None


def test_closed_peer_is_noticed_after_unread_bytes(pair: SocketPair) -> None:
    pair.transport.pauseProducing()
    pair.peer.sendall(b"hello")
    pair.peer.shutdown(socket.SHUT_WR)
    pair.wait_for_event(select.POLLRDHUP)
    assert peer_closed(pair.transport)


def test_reset_by_peer_is_noticed(pair: SocketPair) -> None:
    pair.transport.pauseProducing()
    pair.reset_by_peer()
    pair.wait_for_event()
    assert peer_closed(pair.transport)


def test_closed_socket_is_not_polled(pair: SocketPair) -> None:
    pair.transport.socket.close()
    assert not peer_closed(pair.transport)


@pytest.mark.parametrize("layer", [lambda transport: transport, TLSLayer])
def test_bytes_that_the_peer_has_no_room_for_are_unacknowledged(
    pair: SocketPair, layer: Callable[[Any], Any]
) -> None:
    pair.fill()
    transport = layer(pair.transport)
    waiting = unacknowledged_bytes(transport)
    assert waiting > 0
    assert undelivered_bytes(transport) == waiting
    pair.transport.write(b"ours")
    assert undelivered_bytes(transport) > waiting


def test_socket_that_counts_nothing_has_no_unacknowledged_bytes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        transport: Any = StringTransport()
        transport.fileno = listening.fileno
        assert unacknowledged_bytes(transport) == 0
