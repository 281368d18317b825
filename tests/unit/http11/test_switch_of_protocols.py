"""The switch of protocols on both sides, with what was received in any pieces."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost

from goproxyai.http11.connection_states import ClientState
from goproxyai.http11.errors import ProtocolViolation
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.tunnel_end import TunnelEnd
from tests.support.memory_server import MemoryServer, get
from tests.support.memory_upstream import MemoryUpstream

HANDSHAKE = get(b"/v1/realtime", b"Connection: Upgrade", b"Upgrade: websocket")
HEAD = b"HTTP/1.1 101 Switching Protocols\r\n"
SWITCHED = HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
CUTS = st.lists(st.integers(1, 400), max_size=12)


class Listener:
    """A :class:`.TunnelListener` and an :class:`.ExchangeListener`.

    :ivar data: what was received.
    """

    def __init__(self) -> None:
        self.data = b""
        self.events: list[str] = []

    def received(self, data: bytes) -> None:
        self.data += data

    def input_ended(self) -> None:
        self.events.append("fin")

    def output_blocked(self) -> None:
        self.events.append("blocked")

    def output_writable(self) -> None:
        self.events.append("writable")

    def lost(self, orderly: bool) -> None:
        self.events.append("closed" if orderly else "reset")

    def client_gone(self) -> None:
        self.events.append("gone")

    def request_failed(self, problem: Any) -> None:
        self.events.append(problem.code)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut *data* at the offsets in *cuts*."""
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def switched(server: MemoryServer, exchange: Exchange) -> tuple[Listener, TunnelEnd]:
    listener = Listener()
    end = exchange.switch_protocols(HEAD, listener)
    end.start(listener)
    return listener, end


@given(st.binary(max_size=300), CUTS, CUTS)
def test_bytes_after_the_clients_handshake_reach_the_tunnel(
    frames: bytes, cuts: list[int], more: list[int]
) -> None:
    server = MemoryServer()
    waiting = b""
    for piece in pieces(HANDSHAKE + frames, cuts):
        if server.transport.reading:
            server.connection.dataReceived(piece)
        else:
            waiting += piece  # in the kernel
    (exchange,) = server.exchanges
    listener, _ = switched(server, exchange)
    for piece in pieces(waiting + frames, more):
        server.send(piece)
    assert listener.data == frames + frames
    assert len(server.exchanges) == 1
    assert server.received() == HEAD + b"\r\n"
    server.disconnect()
    assert listener.events[0] == "closed"


@given(st.binary(max_size=300), CUTS, st.booleans())
def test_bytes_after_the_101_reach_the_tunnel(
    frames: bytes, cuts: list[int], interim: bool
) -> None:
    upstream = MemoryUpstream().send()
    upstream.asks_for_websocket = True
    answer = b"HTTP/1.1 103 Early Hints\r\n\r\n" * interim + SWITCHED + frames
    waiting = b""
    for piece in pieces(answer, cuts):
        if upstream.transport.reading:
            upstream.receive(piece)
        else:
            waiting += piece
    assert upstream.connection.state is ClientState.TUNNEL
    assert [response.code for response in upstream.responses] == [101]
    assert upstream.end is not None
    listener = Listener()
    upstream.end.start(listener)
    if waiting:
        upstream.receive(waiting)
    assert listener.data == frames
    upstream.lose(ConnectionLost())
    assert listener.events == ["reset"]
    assert upstream.failures == []


def test_first_of_pipelined_requests_is_answered_before_the_switch() -> None:
    server = MemoryServer()
    server.send(get() + HANDSHAKE + b"frame")
    (first,) = server.exchanges
    first.start_response(200, b"HTTP/1.1 200 OK\r\n", 0)
    first.finish()
    _, handshake = server.exchanges
    listener, _ = switched(server, handshake)
    assert listener.data == b"frame"


def test_switched_connection_has_no_deadline_of_http() -> None:
    server = MemoryServer()
    server.send(HANDSHAKE)
    switched(server, server.exchanges[0])
    server.advance(1000)
    assert not server.transport.aborted
    assert server.transport.open
    assert not server.connection.idle
    assert not server.connection.evictable
    server.connection.drain()
    assert server.transport.open
    server.connection.shut_down()
    assert server.transport.aborted


def test_fin_of_the_client_is_told_and_reading_ends() -> None:
    server = MemoryServer()
    server.send(HANDSHAKE)
    server.connection.readConnectionLost()  # without a tunnel, Twisted does not call it
    listener, end = switched(server, server.exchanges[0])
    server.connection.readConnectionLost()
    server.connection.writeConnectionLost()
    assert listener.events == ["fin"]
    end.finish()
    assert server.transport.half_closed


def test_blocked_client_is_told_to_the_tunnel() -> None:
    server = MemoryServer()
    server.send(HANDSHAKE)
    listener, _ = switched(server, server.exchanges[0])
    server.block()
    server.unblock()
    assert listener.events == ["blocked", "writable"]


def test_ended_tunnel_leaves_its_bytes_in_the_exchange() -> None:
    server = MemoryServer()
    server.send(HANDSHAKE)
    (exchange,) = server.exchanges
    _, end = switched(server, exchange)
    assert (exchange.status, exchange.response_started, exchange.over) == (101, True, False)
    exchange.tunnel_ended(5, 7)
    assert (exchange.body.received, exchange.body_bytes_sent, exchange.over) == (5, 7, True)
    end.abort()
    server.disconnect()


def test_fin_of_the_upstream_is_told() -> None:
    upstream = MemoryUpstream().send()
    upstream.asks_for_websocket = True
    upstream.connection.readConnectionLost()
    upstream.receive(SWITCHED)
    listener = Listener()
    assert upstream.end is not None
    upstream.end.start(listener)
    upstream.connection.readConnectionLost()
    upstream.connection.writeConnectionLost()
    assert listener.events == ["fin"]


def test_101_has_no_deadline_afterwards_and_the_connection_is_never_idle() -> None:
    upstream = MemoryUpstream(head=2.0, idle=2.0).send()
    upstream.asks_for_websocket = True
    upstream.receive(SWITCHED)
    assert upstream.end is not None
    upstream.end.start(Listener())
    upstream.transport.take(1000)  # the request
    upstream.advance(100)
    assert not upstream.transport.aborted
    assert upstream.idle_calls == []


INVALID = st.sampled_from(
    [
        (SWITCHED, False),
        (HEAD + b"\r\n", True),
        (HEAD + b"Upgrade: websocket\r\n\r\n", True),
        (SWITCHED.replace(b"websocket", b"h2c"), True),
        (SWITCHED.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\na"), True),
        (SWITCHED.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"), True),
    ]
)


@given(INVALID, CUTS)
def test_invalid_101_is_a_violation_however_it_is_cut(
    invalid: tuple[bytes, bool], cuts: list[int]
) -> None:
    answer, asks = invalid
    upstream = MemoryUpstream().send()
    upstream.asks_for_websocket = asks
    for piece in pieces(answer, cuts):
        if not upstream.failures:
            upstream.receive(piece)
    assert [type(failure) for failure in upstream.failures] == [ProtocolViolation]
    assert upstream.transport.aborted
    assert upstream.responses == []


def test_handshake_that_was_cancelled_gets_no_101() -> None:
    upstream = MemoryUpstream().send()
    upstream.asks_for_websocket = True
    upstream.connection.cancel()
    upstream.lose(ConnectionDone())
    assert upstream.responses == []
