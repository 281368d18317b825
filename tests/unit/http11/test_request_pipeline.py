"""The share of a connection in a reactor turn, and what its requests hold of the budget."""

from __future__ import annotations

import gc

import pytest

from goproxyai.errors import ProxyError
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_pipeline import TURN_SECONDS
from goproxyai.http11.turn_scheduler import LARGE_READS_BYTES
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
)

KIB = 1024


def answer_slowly(server: MemoryServer) -> None:
    """Let each request take two thirds of a connection's share."""

    def answer(exchange: Exchange) -> None:
        server.exchanges.append(exchange)
        server.clock.rightNow += TURN_SECONDS * 2 / 3
        respond(exchange)

    server.factory.dispatch = answer


def large_get(number: int) -> bytes:
    """Return a request whose head takes 40 KiB, and that no other request repeats."""
    return get(b"/v1/models", *[b"X-%d-%d: %b" % (number, each, b"x" * 400) for each in range(100)])


# The share of a turn.


def test_requests_beyond_the_share_of_a_turn_wait_for_the_next() -> None:
    server = MemoryServer()
    answer_slowly(server)
    server.send(get() * 5)
    assert len(server.exchanges) == 2
    assert not server.transport.reading
    server.clock.advance(0)
    assert len(server.exchanges) == 5
    assert server.transport.reading
    assert server.received().count(b"HTTP/1.1 200") == 5


def test_other_connection_is_served_between_two_turns() -> None:
    server = MemoryServer()
    other, _ = server.connect()
    answer_slowly(server)
    server.send(get(b"/1") * 5)
    other.dataReceived(get(b"/other"))
    assert [each.target for each in server.exchanges] == [b"/1", b"/1", b"/other"]
    server.disconnect()


def test_large_reads_of_many_connections_are_spread_over_turns() -> None:
    server = MemoryServer()
    others = [server.connect()[0] for _ in range(11)]
    for number, each in enumerate([server.connection, *others]):
        each.dataReceived(large_get(number))
    parsed = LARGE_READS_BYTES // len(large_get(0))
    assert len(server.exchanges) == parsed == 6
    small, _ = server.connect()
    small.dataReceived(get(b"/health/live"))
    assert server.exchanges[parsed].target == b"/health/live"
    server.clock.advance(0)
    assert len(server.exchanges) == 13


def test_large_read_that_waits_is_counted_and_pauses_its_connection() -> None:
    server = MemoryServer()
    others = [server.connect()[0] for _ in range(6)]
    for number, each in enumerate(others):
        each.dataReceived(large_get(number))
    held = server.factory.memory.used
    server.connection.dataReceived(large_get(7))
    assert not server.transport.reading
    assert server.factory.memory.used == held + len(large_get(7))
    server.disconnect()
    assert server.factory.memory.used == held
    server.clock.advance(0)
    assert len(server.exchanges) == 6


def test_lost_connection_drops_the_requests_that_wait() -> None:
    server = MemoryServer()
    answer_slowly(server)
    server.send(get() * 5)
    server.disconnect()
    server.clock.advance(1)
    assert len(server.exchanges) == 2


def test_closing_response_drops_the_requests_that_wait() -> None:
    server = MemoryServer()
    answer_slowly(server)
    server.send(get(b"/1") + get(b"/2", b"Connection: close") + get(b"/3"))
    server.clock.advance(1)
    assert [each.target for each in server.exchanges] == [b"/1", b"/2"]
    assert not server.transport.open


def test_chunks_of_one_byte_are_fed_together() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post()).exchanges
    consumer = BodyConsumer(exchange.body)
    results = results_of(exchange.body.startProducing(consumer))  # type: ignore[union-attr]
    server.send(chunks(*[b"x"] * 10_000) + b"0\r\n\r\n")
    assert consumer.writes == [b"x" * 10_000]
    assert results == [None]


@pytest.mark.parametrize("size", [1, 3, 7, 100, 10_000])
def test_pipelined_requests_with_chunked_bodies_are_complete(size: int) -> None:
    body = b"\r\n\r\n" * 50 + b"0\r\n\r\n"
    server = MemoryServer()
    bodies: list[list[bytes | None]] = []

    def handle(exchange: Exchange) -> None:
        bodies.append(collect(exchange))
        respond(exchange)

    server.factory.dispatch = handle
    data = (post() + chunks(body, b"end") + b"0\r\nTrailer: x\r\n\r\n") * 3 + get()
    for at in range(0, len(data), size):
        server.connection.dataReceived(data[at : at + size])
    assert server.received().count(b"HTTP/1.1 200") >= 1
    if size == 10_000:  # otherwise the response precedes the body, and closes the connection
        assert bodies == [[body + b"end"]] * 3 + [[b""]]


# The budget.


def test_incomplete_head_is_counted_until_it_is_complete() -> None:
    server = MemoryServer()
    server.send(large_get(1)[:-2])
    assert server.memory.used > 40 * KIB
    server.send(b"\r\n")
    respond(server.exchanges[0])
    gc.collect()
    assert server.memory.used == 0


def test_unparsed_requests_take_the_memory_of_their_bytes() -> None:
    server = MemoryServer()
    requests = get(b"/2") * 1000
    server.send(get(b"/1") + requests)
    assert len(requests) <= server.memory.used <= len(requests) + 2 * KIB
    assert len(server.exchanges) == 1
    server.disconnect()
    assert server.memory.used == 0


def test_body_is_counted_until_it_is_released() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post(length=100 * KIB) + b"x" * KIB).exchanges
    collect(exchange)
    server.send(b"x" * 99 * KIB)
    assert server.memory.used == 100 * KIB
    exchange.release_body()
    assert server.memory.used == 0


def test_unsent_response_is_counted() -> None:
    server = MemoryServer()
    server.transport.stalled = True
    (exchange,) = server.send(get()).exchanges
    respond(exchange, b"x" * 100 * KIB)
    server.advance(0.25)
    assert server.memory.used > 100 * KIB
    server.transport.take(200 * KIB)
    server.advance(0.25)
    assert server.memory.used == 0


def test_lost_connection_holds_nothing() -> None:
    server = MemoryServer()
    server.send(large_get(1)[:-2])
    server.disconnect()
    assert server.memory.used == 0


def test_lost_connection_holds_nothing_of_its_unsent_response() -> None:
    server = MemoryServer()
    server.transport.stalled = True
    (exchange,) = server.send(get()).exchanges
    respond(exchange, b"x" * 10 * KIB)
    server.disconnect()
    server.connection.memory_changed()  # a single flight goes on after its leader has left
    assert server.memory.used == 0


def test_collected_body_is_streamed_when_memory_is_tight() -> None:
    server = MemoryServer(memory=100 * KIB)
    (exchange,) = server.send(post(length=200 * KIB) + b"x" * KIB).exchanges
    collected = collect(exchange)
    server.send(b"x" * 70 * KIB)
    assert collected == []
    server.send(b"x" * 10 * KIB)
    assert collected == [None]
    assert not server.transport.reading


def test_small_body_is_collected_when_memory_is_tight() -> None:
    server = MemoryServer(memory=80 * KIB)
    (exchange,) = server.send(post(length=63 * KIB) + b"x" * KIB).exchanges
    collected = collect(exchange, 64 * KIB)
    server.send(b"x" * 55 * KIB).send(b"x" * 6 * KIB)
    assert server.memory.used > 64 * KIB  # the buffer of a body that grows exceeds its content
    assert server.memory.is_tight
    server.send(b"x" * KIB)
    assert collected == [b"x" * 63 * KIB]


def test_head_beyond_the_budget_is_answered_with_503() -> None:
    server = MemoryServer(memory=60 * KIB)
    (problem,) = [each.problem for each in server.send(large_get(1)[:-2]).exchanges]
    assert isinstance(problem, ProxyError)
    assert (problem.code, problem.headers) == ("overloaded", ((b"Retry-After", b"1"),))
    respond(server.exchanges[0])
    assert server.memory.used == 0


def test_requests_beyond_the_budget_are_dropped_after_the_present_one() -> None:
    server = MemoryServer(memory=10 * KIB)
    server.send(get(b"/1") + get(b"/2") * 1000)
    assert server.memory.used < 10 * KIB
    respond(server.exchanges[0])
    assert [each.problem is None for each in server.exchanges] == [True, False]
    assert server.exchanges[1].target == b""  # not that of the previous request


def test_slow_reader_is_broken_off_for_another_request() -> None:
    server = MemoryServer(memory=200 * KIB)
    server.transport.stalled = True
    (exchange,) = server.send(get()).exchanges
    listener = RecordingListener(exchange)
    exchange.start_response(200, b"HTTP/1.1 200 OK\r\n", None)
    exchange.write(b"x" * 150 * KIB)
    server.block()
    other, transport = server.connect()
    other.dataReceived(large_get(1)[:-2])
    assert listener.events == ["overloaded"]
    assert server.transport.aborted
    assert not transport.aborted
    assert server.memory.broken_off == 1


def test_write_to_a_slow_reader_is_completed_before_the_reader_is_broken_off() -> None:
    server = MemoryServer(memory=100 * KIB)
    server.transport.stalled = True
    (exchange,) = server.send(get()).exchanges
    listener = RecordingListener(exchange)
    exchange.start_response(200, b"HTTP/1.1 200 OK\r\n", None)
    exchange.write(b"x" * 150 * KIB)
    server.block()
    assert not exchange.over
    server.clock.advance(0)
    assert listener.events == ["overloaded"]
    assert server.transport.aborted


def test_large_heads_are_not_remembered_while_memory_is_tight() -> None:
    server = MemoryServer(memory=100 * KIB)
    head = get(b"/v1/models", *[b"X-%d: %b" % (each, b"x" * 40) for each in range(90)])
    for number in (b"/a", b"/b", b"/c", b"/d"):
        other, _ = server.connect()
        other.dataReceived(head.replace(b"/v1/models", number))
        respond(server.exchanges[-1])
    assert 1 < len(server.factory.heads) < 4
    assert server.memory.is_tight
