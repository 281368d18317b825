"""The deadlines of a connection to a client."""

from __future__ import annotations

import pytest

from goproxyai.http11.exchange import Exchange
from tests.support.memory_server import (
    BodyConsumer,
    MemoryServer,
    RecordingListener,
    collect,
    get,
    post,
    respond,
)  # fmt: skip

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def start_unread_response(server: MemoryServer, length: int) -> Exchange:
    """Start a response whose client does not read."""
    (exchange,) = server.send(get()).exchanges
    server.transport.stalled = True
    exchange.start_response(200, OK, length)
    exchange.write(b"x" * 100)
    return exchange


def test_silent_connection_is_closed_after_20_seconds() -> None:
    server = MemoryServer()
    server.advance(19.5)
    assert server.transport.open
    server.advance(1)
    assert server.transport.disconnecting
    assert server.received() == b""


def test_slow_head_is_refused_20_seconds_after_its_first_byte() -> None:
    server = MemoryServer()
    respond(server.send(get()).exchanges[0])
    server.advance(50)
    for byte in b"GET /v1/models HTTP/":
        assert server.transport.open
        server.send(bytes([byte]))
        server.advance(1)
    server.advance(0.5)
    _, refused = server.exchanges
    assert refused.problem is not None
    assert (refused.problem.code, refused.problem.status) == ("bad_request", 400)
    respond(refused, status=400)
    assert not server.transport.open


def test_head_completed_in_time_is_served() -> None:
    server = MemoryServer()
    server.advance(15)
    raw = get()
    server.send(raw[:-1])
    server.advance(19.5)
    server.send(raw[-1:])
    server.advance(600)
    (exchange,) = server.exchanges
    assert exchange.problem is None
    assert server.transport.open


def test_idle_connection_is_closed_after_75_seconds() -> None:
    server = MemoryServer()
    server.send(get())
    server.advance(200)
    respond(server.exchanges[0])
    server.advance(74.5)
    assert server.transport.open
    server.advance(1)
    assert server.transport.disconnecting
    assert server.received().endswith(b"ok")


def test_empty_lines_do_not_extend_the_idle_timeout() -> None:
    server = MemoryServer()
    respond(server.send(get()).exchanges[0])
    for _ in range(76):
        if server.transport.open:
            server.send(b"\r\n")
            server.advance(1)
    assert server.transport.disconnecting


def test_stalled_body_is_refused_after_30_seconds() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=100_000)).exchanges
    listener = RecordingListener(exchange)
    collected = collect(exchange)
    server.advance(29.5)
    assert listener.events == []
    server.advance(1)
    assert listener.events == ["bad_request"]
    assert collected == []
    assert server.received().startswith(b"HTTP/1.1 400 ")
    assert server.transport.half_closed


@pytest.mark.parametrize(
    ("rate", "accepted"), [(500, True), (1000, True), (400, False), (1, False)]
)
def test_body_below_500_bytes_per_second_is_refused(rate: int, accepted: bool) -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=1_000_000)).exchanges
    listener = RecordingListener(exchange)
    exchange.body.discard()
    for _ in range(300):
        if not listener.events:
            server.send(b"x" * rate)
            server.advance(1)
    assert (listener.events == []) is accepted


def test_fast_body_earns_one_grace_period_of_silence() -> None:
    server = MemoryServer(max_body_bytes=1 << 30)
    server.send(post(length=50_000_000))
    server.exchanges[0].body.discard()
    for _ in range(400):
        server.connection.dataReceived(b"x" * 65_536)
    server.advance(29)
    assert server.transport.open
    server.advance(3)
    assert not server.transport.open or server.transport.aborted


def test_paused_reading_does_not_count_against_the_body_rate() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=1_000_000)).exchanges
    listener = RecordingListener(exchange)
    consumer = BodyConsumer(exchange.body, 100)
    exchange.body.startProducing(consumer).addErrback(lambda _: None)
    server.send(b"x" * 100)
    assert not server.transport.reading
    server.advance(500)
    assert listener.events == []
    consumer.pause_after = 1 << 30
    exchange.body.resumeProducing()
    assert server.transport.reading
    server.advance(29.5)
    assert listener.events == []
    server.advance(1.5)
    assert listener.events == ["bad_request"]


def test_waiting_for_100_continue_does_not_count_against_the_body_rate() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(b"Expect: 100-continue", length=5)).exchanges
    listener = RecordingListener(exchange)
    server.advance(100)
    assert listener.events == []
    collected = collect(exchange)
    assert server.received() == CONTINUE
    server.advance(29.5)
    assert listener.events == []
    server.send(b"hello")
    assert collected == [b"hello"]


def test_paused_reading_does_not_count_against_the_head_timeout() -> None:
    server = MemoryServer()
    server.send(get(b"/1") + get(b"/2") + get(b"/3")[:-1])
    respond(server.exchanges[0])
    server.advance(100)
    assert not server.transport.reading
    respond(server.exchanges[1])
    assert server.transport.reading
    server.advance(1)
    server.send(b"\n")
    assert server.exchanges[2].problem is None
    assert server.exchanges[2].target == b"/3"


def test_stalled_reader_is_reset_after_60_seconds() -> None:
    server = MemoryServer()
    start_unread_response(server, 1000)
    server.advance(59.5)
    assert not server.transport.aborted
    server.advance(1.5)
    assert server.transport.aborted


def test_slow_reader_is_not_reset() -> None:
    server = MemoryServer()
    start_unread_response(server, 1000)
    for _ in range(20):
        server.advance(50)
        server.transport.take(1)
    assert server.transport.open


def test_reader_slower_than_the_writes_is_not_reset() -> None:
    server = MemoryServer()
    exchange = start_unread_response(server, 1_000_000)
    for _ in range(1000):
        exchange.write(b"x" * 10)
        server.transport.take(1)
        server.advance(1)
    assert server.transport.open


def test_writes_do_not_extend_the_reader_timeout() -> None:
    server = MemoryServer()
    exchange = start_unread_response(server, 1_000_000)
    for _ in range(50):
        exchange.write(b"x" * 10)
        server.advance(1)
    server.advance(11)
    assert server.transport.aborted


def test_reader_without_unsent_bytes_has_no_timeout() -> None:
    server = MemoryServer()
    start_unread_response(server, 1000)
    server.transport.take(10_000)
    server.advance(600)
    assert server.transport.open
