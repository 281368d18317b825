"""The body of a request: collected, streamed or discarded."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from goproxyai.http11.errors import ClientGone
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import (
    LARGE_BODY_BYTES,
    MAX_UNREAD_BODY_BYTES,
    RequestBody,
)
from goproxyai.http11.sliced_body import SLICE_BYTES
from tests.support.memory_server import (
    BodyConsumer,
    MemoryServer,
    RecordingListener,
    chunks,
    collect,
    get,
    post,
    respond,
    results_of,
)  # fmt: skip

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_unread_body_pauses_reading_after_64_kib() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=1_000_000)).exchanges
    server.send(b"x" * MAX_UNREAD_BODY_BYTES)
    assert MAX_UNREAD_BODY_BYTES == 64 * 1024
    assert server.transport.reading
    server.send(b"y")
    assert not server.transport.reading
    collected = collect(exchange)
    assert server.transport.reading
    server.send(b"z" * (1_000_000 - MAX_UNREAD_BODY_BYTES - 1))
    assert collected == [
        b"x" * MAX_UNREAD_BODY_BYTES + b"y" + b"z" * (1_000_000 - MAX_UNREAD_BODY_BYTES - 1)
    ]


@pytest.mark.parametrize(
    "pieces", [[b"12345678"], [b"1234", b"5678"], [*map(bytes, zip(b"12345678"))]]
)
@pytest.mark.parametrize("length", [8, None], ids=["Content-Length", "chunked"])
def test_body_within_the_limit_is_collected(pieces: list[bytes], length: int | None) -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=length)).exchanges
    collected = collect(exchange, 8)
    for piece in pieces:
        assert collected == []
        server.send(piece if length else chunks(piece))
    if length is None:
        server.send(b"0\r\n\r\n")
    assert collected == [b"12345678"]
    assert exchange.body.complete


def test_body_received_with_its_head_is_complete() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=5) + b"hello").exchanges
    assert exchange.body.complete
    assert exchange.body.whole() == b"hello"
    assert collect(exchange) == [b"hello"]


@pytest.mark.parametrize("early", [True, False], ids=["before collecting", "while collecting"])
def test_body_over_the_limit_can_be_streamed_from_its_start(early: bool) -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=12)).exchanges
    if early:
        server.send(b"123456789")
        collected = collect(exchange, 8)
    else:
        collected = collect(exchange, 8)
        server.send(b"1234")
        assert collected == []
        server.send(b"56789")
        assert not server.transport.reading
    assert collected == [None]
    consumer = BodyConsumer(exchange.body)
    result = results_of(exchange.body.startProducing(consumer))
    assert server.transport.reading
    server.send(b"abc")
    assert consumer.data == b"123456789abc"
    assert result == [None]


def test_consumer_pauses_and_resumes_a_streamed_body() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post() + chunks(b"one")).exchanges
    consumer = BodyConsumer(exchange.body, 3)
    result = results_of(exchange.body.startProducing(consumer))
    assert consumer.data == b"one"
    assert not server.transport.reading
    consumer.pause_after = 7
    exchange.body.resumeProducing()
    assert server.transport.reading
    server.send(chunks(b"two", b"three"))
    server.connection.dataReceived(chunks(b"four") + b"0\r\n\r\n")  # as TLS does when paused
    assert consumer.data == b"onetwothree"
    assert result == []
    consumer.pause_after = 1 << 30
    exchange.body.resumeProducing()
    assert consumer.data == b"onetwothreefour"
    assert result == [None]


def test_paused_consumer_pauses_reading() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=1_000_000)).exchanges
    consumer = BodyConsumer(exchange.body, 1)
    exchange.body.startProducing(consumer).addErrback(lambda _: None)
    server.send(b"x" * 1000)
    assert not server.transport.reading
    assert consumer.data == b"x" * 1000


def test_discarded_body_is_read_and_dropped() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=1_000_000)).exchanges
    server.send(b"x" * (MAX_UNREAD_BODY_BYTES + 1))
    assert not server.transport.reading
    exchange.body.discard()
    assert server.transport.reading
    server.send(b"x" * (1_000_000 - MAX_UNREAD_BODY_BYTES - 1))
    assert exchange.body.complete
    assert exchange.body.received == 1_000_000
    assert exchange.body.whole() == b""
    respond(exchange)
    server.send(get(b"/2"))
    assert server.exchanges[1].target == b"/2"


def test_stopped_stream_is_cancelled_and_the_rest_dropped() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=10)).exchanges
    consumer = BodyConsumer(exchange.body)
    result = results_of(exchange.body.startProducing(consumer))
    server.send(b"12345")
    exchange.body.stopProducing()
    server.send(b"67890")
    assert consumer.data == b"12345"
    (failure,) = result
    assert isinstance(failure, Failure)
    assert failure.check(CancelledError)


@given(
    st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=6),
    st.lists(st.integers(0, 500), max_size=6),
    st.sampled_from(["collect", "stream", "overflow"]),
)
def test_chunked_body_is_complete_however_it_is_read_and_split(
    pieces: list[bytes], offsets: list[int], how: str
) -> None:
    server, whole = MemoryServer(), b"".join(pieces)
    results: list[bytes | None] = []

    def dispatch(exchange: Exchange) -> None:
        body = exchange.body
        if how == "collect":
            body.collect(len(whole), results.append)
        elif body.complete:
            results.append(body.whole())
        elif how == "stream":
            stream(exchange)
        else:
            body.collect(len(whole) - 1, lambda _: stream(exchange))

    def stream(exchange: Exchange) -> None:
        consumer = BodyConsumer(exchange.body)
        done = exchange.body.startProducing(consumer)
        done.addCallback(lambda _: results.append(consumer.data))

    server.factory.dispatch = dispatch
    raw = post() + chunks(*pieces) + b"0\r\n\r\n"
    edges = [0, *sorted({offset % len(raw) for offset in offsets} - {0}), len(raw)]
    for start, end in pairwise(edges):
        server.connection.dataReceived(raw[start:end])
    assert results == [whole]


def test_100_continue_is_sent_once_when_the_body_is_read() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(b"Expect: 100-Continue", length=10)).exchanges
    server.advance(5)
    assert server.received() == b""
    consumer = BodyConsumer(exchange.body, 5)
    exchange.body.startProducing(consumer)
    assert server.received() == CONTINUE
    server.send(b"12345")
    consumer.pause_after = 20
    exchange.body.resumeProducing()
    server.send(b"67890")
    assert server.received() == b""
    assert consumer.data == b"1234567890"


def test_100_continue_is_not_sent_after_the_response() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(b"Expect: 100-continue", length=10)).exchanges
    respond(exchange, b"no", 403)
    response = server.received()
    assert response == b"HTTP/1.1 403 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    server.send(b"1234567890" + get())
    server.advance(3)
    assert server.received() == b""
    assert len(server.exchanges) == 1


def test_100_continue_is_not_sent_for_a_received_body() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(b"Expect: 100-continue", length=5) + b"hello").exchanges
    assert collect(exchange) == [b"hello"]
    assert server.received() == b""


def test_100_continue_is_not_sent_to_http_1_0() -> None:
    server = MemoryServer()
    raw = post(b"Expect: 100-continue", length=5, version=b"1.0")
    (exchange,) = server.send(raw).exchanges
    collect(exchange)
    exchange.send_interim(b"HTTP/1.1 103 Early Hints\r\n")
    assert server.received() == b""


def test_lost_connection_fails_a_streamed_body() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=10)).exchanges
    listener = RecordingListener(exchange)
    result = results_of(exchange.body.startProducing(BodyConsumer(exchange.body)))
    server.send(b"12345")
    server.disconnect()
    assert listener.events == ["client_gone"]
    (failure,) = result
    assert isinstance(failure, Failure)
    assert failure.check(ClientGone)
    assert not exchange.body.complete


def test_lost_connection_ends_collecting() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=10)).exchanges
    listener = RecordingListener(exchange)
    collected = collect(exchange)
    server.disconnect()
    assert (listener.events, collected) == (["client_gone"], [])


@pytest.mark.unmeasured
def test_body_in_small_pieces_takes_the_memory_of_its_bytes() -> None:
    server = MemoryServer()
    body = RequestBody(server.connection, None, False)
    collected: list[bytes | None] = []
    body.collect(1 << 20, collected.append)
    tracemalloc.start()
    for _ in range(200_000):
        body.feed(b"ab")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1_000_000
    body.end()
    assert collected == [b"ab" * 200_000]


def test_large_body_is_handed_over_in_a_turn_of_its_own() -> None:
    server = MemoryServer(max_body_bytes=1 << 22)
    (exchange,) = server.send(post(length=LARGE_BODY_BYTES)).exchanges
    collected = collect(exchange, LARGE_BODY_BYTES)
    server.send(b"x" * LARGE_BODY_BYTES)
    assert collected == []
    server.clock.advance(0)
    assert collected == [b"x" * LARGE_BODY_BYTES]


def test_large_body_is_dropped_with_its_connection() -> None:
    server = MemoryServer(max_body_bytes=1 << 22)
    (exchange,) = server.send(post(length=LARGE_BODY_BYTES)).exchanges
    collected = collect(exchange, LARGE_BODY_BYTES)
    server.send(b"x" * LARGE_BODY_BYTES)
    server.disconnect()
    server.clock.advance(0)
    assert collected == []
    assert server.memory.used == 0


def test_large_buffer_is_written_in_several_turns() -> None:
    size = 2 * LARGE_BODY_BYTES + 5
    server = MemoryServer(max_body_bytes=1 << 22)
    (exchange,) = server.send(post(length=size)).exchanges
    collected = collect(exchange, size - 2)
    server.send(b"x" * (size - 3))
    server.connection.dataReceived(b"yy")
    assert collected == [None]
    body = exchange.body
    assert isinstance(body, RequestBody)
    consumer = BodyConsumer(body)
    results = results_of(body.startProducing(consumer))
    assert len(consumer.data) == LARGE_BODY_BYTES
    assert not server.transport.reading
    server.connection.dataReceived(b"z")  # not before what is buffered
    assert len(consumer.data) == LARGE_BODY_BYTES
    server.clock.advance(0)
    assert consumer.data == b"x" * (size - 3) + b"yyz"
    assert results == [None]


def test_client_is_read_again_when_a_large_buffer_is_written() -> None:
    size = 2 * LARGE_BODY_BYTES
    server = MemoryServer(max_body_bytes=1 << 22)
    (exchange,) = server.send(post(length=size)).exchanges
    collect(exchange, size // 2)
    server.send(b"x" * (size - 100_000))
    body = exchange.body
    assert isinstance(body, RequestBody)
    consumer = BodyConsumer(body)
    results = results_of(body.startProducing(consumer))
    assert not server.transport.reading
    server.clock.advance(0)
    server.send(b"y" * 100_000)
    assert consumer.data == b"x" * (size - 100_000) + b"y" * 100_000
    assert results == [None]


def test_large_buffer_is_written_in_slices_while_the_consumer_takes_them() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=400_000)).exchanges
    collected = collect(exchange, 300_000)
    for _ in range(4):
        server.connection.dataReceived(b"x" * 100_000)
    assert collected == [None]
    body = exchange.body
    assert isinstance(body, RequestBody)
    consumer = BodyConsumer(body, 1)
    results = results_of(body.startProducing(consumer))
    assert len(consumer.data) == SLICE_BYTES
    consumer.pause_after = 1 << 30
    body.resumeProducing()
    assert consumer.data == b"x" * 400_000
    assert max(map(len, consumer.writes)) == SLICE_BYTES
    assert results == [None]


def test_continue_is_not_sent_into_a_response() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(b"Expect: 100-continue", length=4) + b"ab").exchanges
    consumer = BodyConsumer(exchange.body, pause_after=1)
    consumer.body.startProducing(consumer)
    exchange.start_response(200, b"HTTP/1.1 200 OK\r\n", 10)
    exchange.write(b"early")
    consumer.body.resumeProducing()
    assert b"100 Continue" not in server.received()
    server.send(b"cd")
    assert consumer.data == b"abcd"
