"""Pipelined requests, and a client that does not read the responses."""

from __future__ import annotations

from tests.support.memory_server import MemoryServer, collect, get, post, respond

OK = b"HTTP/1.1 200 OK\r\n"


def test_pipelined_requests_are_dispatched_one_at_a_time() -> None:
    server = MemoryServer()
    server.send(get(b"/1") + get(b"/2") + get(b"/3"))
    for number in (1, 2, 3):
        assert server.transport.reading is (number == 3)
        assert [one.target for one in server.exchanges] == [
            b"/%d" % i for i in range(1, number + 1)
        ]
        respond(server.exchanges[-1], b"%d" % number)
    assert server.transport.reading
    respond(server.send(get(b"/4")).exchanges[3])
    assert server.transport.open


def test_responses_have_the_order_of_the_requests() -> None:
    server = MemoryServer()
    server.send(get(b"/1") + get(b"/2"))
    first = server.exchanges[0]
    first.start_response(200, OK, None)
    first.write(b"a")
    assert len(server.exchanges) == 1
    first.finish()
    respond(server.exchanges[1], b"b")
    assert server.received() == (
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        b"HTTP/1.1 200 X\r\nContent-Length: 1\r\n\r\nb"
    )


def test_synchronous_responses_do_not_nest() -> None:
    server = MemoryServer()
    server.factory.dispatch = respond
    server.send(get() * 900)
    assert server.received().count(b"HTTP/1.1 200") == 900
    assert server.transport.reading


def test_body_of_a_pipelined_request_is_read_in_its_turn() -> None:
    server = MemoryServer()
    server.send(get(b"/1") + post(length=200_000) + b"x" * 30_000)
    assert not server.transport.reading
    respond(server.exchanges[0])
    collected = collect(server.exchanges[1])
    assert server.transport.reading
    server.send(b"x" * 170_000)
    assert collected == [b"x" * 200_000]


def test_blocked_output_stops_dispatch_and_reading() -> None:
    server = MemoryServer()
    server.send(get(b"/1") + get(b"/2") + get(b"/3"))
    server.block()
    respond(server.exchanges[0])
    assert [exchange.target for exchange in server.exchanges] == [b"/1"]
    assert not server.transport.reading
    server.unblock()
    assert [exchange.target for exchange in server.exchanges] == [b"/1", b"/2"]
    respond(server.exchanges[1])
    respond(server.exchanges[2])
    assert server.transport.reading


def test_blocked_output_pauses_reading_of_an_idle_connection() -> None:
    server = MemoryServer()
    respond(server.send(get()).exchanges[0])
    server.block()
    assert not server.transport.reading
    server.unblock()
    assert server.transport.reading


def test_bytes_after_the_last_request_are_ignored() -> None:
    server = MemoryServer()
    server.send(post(b"Connection: close", length=2))
    (exchange,) = server.exchanges
    exchange.body.collect(10, lambda _: respond(exchange))
    server.send(b"ok" + get(b"/2") + b"junk\r\n\r\n")
    assert server.exchanges == [exchange]
    assert server.received().count(b"HTTP/1.1 ") == 1


def test_request_after_connection_close_is_ignored() -> None:
    server = MemoryServer()
    server.send(get(b"/1", b"Connection: close") + get(b"/2"))
    (exchange,) = server.exchanges
    respond(exchange)
    assert b"Connection: close\r\n" in server.received()
    assert len(server.exchanges) == 1
    assert not server.transport.open


def test_response_that_closes_drops_pipelined_requests() -> None:
    server = MemoryServer()
    server.send(get(b"/1") + get(b"/2"))
    server.exchanges[0].start_response(200, OK, 0, close=True)
    server.exchanges[0].finish()
    assert server.received() == OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    assert len(server.exchanges) == 1
    assert not server.transport.open
