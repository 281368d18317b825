"""How connections to clients are closed: after a response, while draining, at shutdown."""

from __future__ import annotations

import pytest
from twisted.internet.address import UNIXAddress

from goproxyai.http11.connection_deadlines import LINGER_SECONDS, READER_STALL_SECONDS
from goproxyai.http11.server_connection import FIRST_FLIGHT_BYTES
from tests.support.memory_server import MemoryServer, RecordingListener, get, post, respond
from tests.support.memory_transport import MemoryTransport

OK = b"HTTP/1.1 200 OK\r\n"


def test_refused_connection_lingers_2_seconds() -> None:
    server = MemoryServer()
    (exchange,) = server.send(b"GET / HTTP/1.1\r\n\r\n").exchanges
    respond(exchange, status=400)
    assert server.transport.half_closed
    assert server.transport.reading
    server.advance(1.5)
    server.send(get() * 10)
    assert not server.transport.disconnecting
    server.advance(1)
    assert server.transport.disconnecting
    assert len(server.exchanges) == 1


def test_lingering_connection_waits_for_unsent_bytes() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=100)).exchanges
    server.transport.stalled = True
    respond(exchange, b"x" * 50)
    assert server.transport.half_closed
    while server.transport.dataBuffer:
        server.advance(10)
        assert not server.transport.aborted
        server.transport.take(10)
    server.advance(3)
    assert server.received().endswith(b"\r\n\r\n" + b"x" * 50)
    assert server.transport.disconnecting
    assert not server.transport.aborted


def test_lingering_connection_waits_for_bytes_in_the_kernel() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=100)).exchanges
    with server.transport.unread_by_peer() as client:
        respond(exchange)
        server.advance(READER_STALL_SECONDS - 5)
        assert not server.transport.disconnecting
        client.recv(1024)
        server.advance(LINGER_SECONDS - 0.5)
        assert not server.transport.disconnecting
        server.advance(LINGER_SECONDS)
        assert server.transport.disconnecting
        assert not server.transport.aborted


def test_lingering_connection_is_reset_if_the_client_does_not_read() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=100)).exchanges
    with server.transport.unread_by_peer():
        respond(exchange)
        server.advance(READER_STALL_SECONDS + 1)
        assert server.transport.aborted


def test_open_connection_lets_the_client_read_later() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    with server.transport.unread_by_peer():
        respond(exchange)
        server.advance(READER_STALL_SECONDS + 1)
        assert server.transport.open


def test_connection_is_finished_when_the_client_has_the_response() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    with server.transport.unread_by_peer() as client:
        respond(exchange)
        assert (server.connection.idle, server.connection.finished) == (True, False)
        client.recv(1024)
        assert server.connection.finished


def test_slow_client_is_not_reset_while_it_reads_from_the_kernel() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    server.transport.stalled = True
    with server.transport.unread_by_peer() as client:
        respond(exchange)
        server.advance(READER_STALL_SECONDS - 5)
        client.recv(1024)
        server.advance(READER_STALL_SECONDS - 5)
        assert not server.transport.aborted
        server.advance(10)
        assert server.transport.aborted


@pytest.mark.parametrize(
    "request_bytes", [get(b"/", b"Connection: close"), get(b"/", version=b"1.0")]
)
def test_connection_is_closed_at_once_if_the_client_has_announced_the_close(
    request_bytes: bytes,
) -> None:
    server = MemoryServer()
    (exchange,) = server.send(request_bytes).exchanges
    respond(exchange)
    assert server.transport.disconnecting
    assert not server.transport.half_closed


@pytest.mark.parametrize(
    "request_bytes",
    [
        get(b"/", b"Connection: keep-alive", version=b"1.0"),
        get(b"/", b"Connection: close") + b"more",
        get(b"/..", b"Connection: close"),
    ],
)
def test_connection_is_closed_slowly_if_the_client_may_be_sending(request_bytes: bytes) -> None:
    server = MemoryServer()
    exchange = server.send(request_bytes).exchanges[0]
    respond(exchange)
    assert server.transport.half_closed


def test_connection_is_closed_slowly_after_a_response_that_may_be_under_way() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get(b"/", b"Connection: close")).exchanges
    respond(exchange, b"x" * FIRST_FLIGHT_BYTES)
    assert server.transport.half_closed


@pytest.mark.parametrize("responds_at_once", [True, False])
@pytest.mark.parametrize("split_at", [0, 1], ids=["with the head", "with the rest of the body"])
def test_connection_is_closed_slowly_if_a_line_end_follows_a_known_last_request(
    split_at: int, responds_at_once: bool
) -> None:
    server = MemoryServer()
    request = post(b"Connection: close", length=4) + b"body"
    respond(server.send(request).exchanges.pop())
    connection, transport = server.connect()
    if responds_at_once:
        server.factory.dispatch = lambda exchange: exchange.body.collect(
            4, lambda _: respond(exchange)
        )
    split_at = len(request) - 2 if split_at else 0
    for piece in (request[:split_at], request[split_at:] + b"\r\n"):
        if piece:
            connection.dataReceived(piece)
    for exchange in server.exchanges:
        respond(exchange)
    assert transport.half_closed


def test_connection_is_closed_without_a_reset_if_the_client_stays() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get(b"/")).exchanges
    exchange.start_response(200, OK, 0, close=True)
    exchange.finish()
    assert server.transport.half_closed
    assert not server.transport.disconnecting
    server.advance(3)
    assert server.transport.disconnecting
    assert not server.transport.aborted


def test_close_resumes_paused_reading() -> None:
    server = MemoryServer()
    server.send(get(b"/1") + get(b"/2"))
    assert not server.transport.reading
    server.exchanges[0].start_response(200, OK, 0, close=True)
    server.exchanges[0].finish()
    assert server.transport.reading
    assert server.transport.half_closed
    server.advance(3)
    assert server.transport.disconnecting


@pytest.mark.parametrize("length", [100_000, None], ids=["Content-Length", "chunked"])
def test_response_before_the_end_of_the_body_closes_the_connection(
    length: int | None,
) -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=length)).exchanges
    respond(exchange, b"no", 401)
    assert (
        server.received() == b"HTTP/1.1 401 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    )
    assert server.transport.half_closed
    for _ in range(3):
        server.send(get(b"/smuggled") * 100)
    assert len(server.exchanges) == 1
    server.advance(3)
    assert server.transport.disconnecting
    assert server.received() == b""


def test_shut_down_closes_idle_connections_and_resets_others() -> None:
    fresh, used, busy = MemoryServer(), MemoryServer(), MemoryServer()
    respond(used.send(get()).exchanges[0])
    listener = RecordingListener(busy.send(get()).exchanges[0])
    for server in (fresh, used, busy):
        server.connection.shut_down()
    assert (fresh.transport.disconnecting, fresh.transport.aborted) == (True, False)
    assert (used.transport.disconnecting, used.transport.aborted) == (True, False)
    assert busy.transport.aborted
    busy.disconnect()
    assert listener.events == ["client_gone"]


def test_drain_leaves_idle_and_new_connections_open() -> None:
    used, new = MemoryServer(), MemoryServer()
    respond(used.send(get()).exchanges[0])
    for one in (used, new):
        one.connection.drain()
        assert one.transport.open
        assert one.connection.idle
        assert len(one.send(get(b"/later")).exchanges[-1:]) == 1


def test_response_started_while_draining_announces_the_close() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    server.connection.drain()
    respond(exchange)
    assert b"Connection: close\r\n" in server.received()
    assert server.transport.half_closed


def test_response_started_before_draining_leaves_the_connection_open() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    exchange.start_response(200, OK, 2)
    exchange.write(b"a")
    server.connection.drain()
    exchange.write(b"b", last=True)
    assert server.received().endswith(b"\r\n\r\nab")
    assert server.transport.open


def test_pipelined_requests_are_dispatched_while_draining() -> None:
    server = MemoryServer()
    (first,) = server.send(get() + get()).exchanges
    server.connection.drain()
    respond(first)
    assert b"Connection" not in server.received()
    assert len(server.exchanges) == 2


def test_peer_of_a_unix_socket_is_local() -> None:
    server = MemoryServer()
    connection = server.factory.buildProtocol(UNIXAddress(b"/run/x.sock"))
    connection.makeConnection(MemoryTransport())
    connection.dataReceived(get())
    assert server.exchanges[0].connection.peer == "local"
