"""An exchange: the framing of its response, its end, and backpressure."""

from __future__ import annotations

import pytest

from goproxyai.errors import ProxyError
from goproxyai.messages.headers import index_fields
from tests.support.memory_server import (
    MemoryServer,
    RecordingListener,
    get,
    post,
    respond,
)  # fmt: skip
from tests.support.memory_transport import RecordingProducer

OK = b"HTTP/1.1 200 OK\r\n"


def test_response_with_length_is_sent_in_one_write() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    writes: list[bytes] = []
    server.transport.write = writes.append  # type: ignore[method-assign]
    respond(exchange, b"hello")
    assert writes == [b"HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\nhello"]
    assert (exchange.status, exchange.body_bytes_sent) == (200, 5)


def test_response_without_length_is_chunked() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    exchange.start_response(200, OK, None)
    assert server.received() == b""
    exchange.flush()
    assert server.received() == OK + b"Transfer-Encoding: chunked\r\n\r\n"
    exchange.flush()
    exchange.write(b"")
    assert server.received() == b""
    exchange.write(b"a" * 17)
    assert server.received() == b"11\r\n" + b"a" * 17 + b"\r\n"
    exchange.write(b"b", True)
    assert server.received() == b"1\r\nb\r\n0\r\n\r\n"
    assert exchange.body_bytes_sent == 18
    assert server.transport.open


@pytest.mark.parametrize("line", [b"X-A: b", b"Connection: keep-alive"])
def test_response_without_length_closes_http_1_0(line: bytes) -> None:
    server = MemoryServer()
    (exchange,) = server.send(get(b"/", line, version=b"1.0")).exchanges
    exchange.start_response(200, OK, None)
    exchange.write(b"hello")
    exchange.write(b" you", True)
    assert server.received() == OK + b"Connection: close\r\n\r\nhello you"
    assert not server.transport.open


@pytest.mark.parametrize(
    ("method", "status", "length", "framing"),
    [
        (b"HEAD", 200, 5, b"Content-Length: 5\r\n"),
        (b"HEAD", 200, None, b""),
        (b"GET", 204, 0, b""),
        (b"GET", 204, None, b""),
        (b"GET", 304, None, b""),
        (b"GET", 304, 5, b"Content-Length: 5\r\n"),
    ],
)
def test_response_to_head_and_204_and_304_has_no_body(
    method: bytes, status: int, length: int | None, framing: bytes
) -> None:
    server = MemoryServer()
    (exchange,) = server.send(get().replace(b"GET", method, 1)).exchanges
    exchange.start_response(status, b"HTTP/1.1 %d X\r\n" % status, length)
    exchange.write(b"hello")
    exchange.finish()
    assert server.received() == b"HTTP/1.1 %d X\r\n%b\r\n" % (status, framing)
    assert exchange.body_bytes_sent == 0
    assert server.transport.open


def test_content_length_in_the_head_is_not_repeated() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    exchange.start_response(200, OK + b"content-length: 2\r\n", 2, has_length=True)
    exchange.write(b"ok", True)
    assert server.received() == OK + b"content-length: 2\r\n\r\nok"


def test_interim_response_is_sent_only_before_the_response() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    exchange.send_interim(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n")
    assert server.received() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    exchange.start_response(200, OK, 0)
    exchange.send_interim(b"HTTP/1.1 103 Early Hints\r\n")
    assert server.received() == b""
    exchange.finish()
    assert server.received() == OK + b"Content-Length: 0\r\n\r\n"


def test_exchange_ends_once() -> None:
    server = MemoryServer()
    server.send(get(b"/1") + get(b"/2"))
    first = server.exchanges[0]
    listener = RecordingListener(first)
    respond(first)
    server.received()
    first.finish()
    first.write(b"more", True)
    first.flush()
    first.send_interim(b"HTTP/1.1 103 X\r\n")
    first.abort()
    first.fail(ProxyError("bad_request", "late"))
    first.connection_lost()
    assert listener.events == []
    assert server.received() == b""
    assert server.transport.open
    assert len(server.exchanges) == 2


def test_lost_connection_is_reported_to_the_active_exchange() -> None:
    server = MemoryServer()
    server.send(get(b"/1") + get(b"/2") + get(b"/3"))
    listeners = [RecordingListener(server.exchanges[0])]
    respond(server.exchanges[0])
    listeners.append(RecordingListener(server.exchanges[1]))
    server.disconnect()
    assert [listener.events for listener in listeners] == [[], ["client_gone"]]
    assert len(server.exchanges) == 2
    respond(server.exchanges[1])
    assert listeners[1].events == ["client_gone"]
    assert server.factory.connections == set()
    assert server.factory.ticker.watched == {server.factory.heads}


def test_aborted_response_resets_the_connection() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    listener = RecordingListener(exchange)
    exchange.start_response(200, OK, None)
    exchange.write(b"half")
    exchange.abort()
    assert server.transport.aborted
    assert not server.received().endswith(b"0\r\n\r\n")
    server.disconnect()
    assert listener.events == []


def test_failed_request_aborts_a_started_response() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post()).exchanges
    listener = RecordingListener(exchange)
    exchange.body.discard()
    exchange.start_response(200, OK, None)
    exchange.write(b"half")
    server.send(b"zz\r\n")
    assert listener.events == ["bad_request"]
    assert server.transport.aborted


def test_failed_request_without_listener_resets_the_connection() -> None:
    server = MemoryServer()
    server.send(post()).send(b"zz\r\n")
    assert server.transport.aborted


def test_slow_reader_pauses_the_producer() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    producer = RecordingProducer()
    exchange.start_response(200, OK, None)
    exchange.register_producer(producer)
    server.block()
    server.unblock()
    assert producer.calls == ["pause", "resume"]
    exchange.finish()
    server.block()
    server.unblock()
    assert producer.calls == ["pause", "resume"]


def test_producer_registered_after_the_client_stalls_is_paused() -> None:
    server = MemoryServer()
    (exchange,) = server.send(get()).exchanges
    server.block()
    producer = RecordingProducer()
    exchange.register_producer(producer)
    assert producer.calls == ["pause"]
    exchange.unregister_producer()
    server.unblock()
    assert producer.calls == ["pause"]


def test_exchange_has_the_request_its_peer_and_its_time() -> None:
    server = MemoryServer()
    server.clock.advance(5)
    raw = get(b"/v1/a?b", b"X-One: 1", b"x-one:  2", b"Accept: \xff")
    (exchange,) = server.send(raw).exchanges
    assert (exchange.method, exchange.target, exchange.version) == (b"GET", b"/v1/a?b", "1.1")
    assert exchange.headers == [
        (b"Host", b"a"), (b"X-One", b"1"), (b"x-one", b"2"), (b"Accept", b"\xff"),
    ]  # fmt: skip
    assert index_fields(exchange.headers)[0] == {
        b"host": b"a",
        b"x-one": b"1, 2",
        b"accept": b"\xff",
    }
    assert (exchange.connection.peer, exchange.started_at) == ("192.0.2.7", 5.0)
    assert exchange.body.complete


def test_first_request_of_a_connection_is_marked() -> None:
    server = MemoryServer()
    assert server.connection.fresh
    for _ in range(3):
        respond(server.send(get()).exchanges[-1])
    assert [exchange.is_first for exchange in server.exchanges] == [True, False, False]
    assert not server.connection.fresh
