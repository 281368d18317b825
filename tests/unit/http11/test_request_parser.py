"""The parser of requests: its limits, and how it declines upgrades."""

from __future__ import annotations

import tracemalloc

import pytest

from goproxyai.http11.connection_deadlines import HEAD_TIMEOUT_SECONDS
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.framing import MAX_HEADER_FIELDS
from goproxyai.reactor.deadlines import TICK_SECONDS
from tests.support.memory_server import (
    MemoryServer,
    RecordingListener,
    chunks,
    collect,
    get,
    post,
    respond,
)  # fmt: skip

UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
CHUNKED_HELLO = chunks(b"hel", b"lo") + b"0\r\nX-Trailer: a\r\n\r\n"


def send_until_refused(server: MemoryServer, exchange: Exchange, data: bytes) -> int:
    """Send *data* again and again; return the number of bytes until the request fails."""
    listener = RecordingListener(exchange)
    exchange.body.discard()
    sent = 0
    while not listener.events:
        sent += len(data)
        assert sent < 10_000_000
        server.send(data)
    assert len(listener.events) == 1
    return sent


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (get(b"/up", *UPGRADE), b""),
        (get(b"/up", b"Connection: upgrade", b"Upgrade: websocket"), b""),
        (post(*UPGRADE, length=0), b""),
        (post(*UPGRADE, length=5) + b"hello", b"hello"),
        (post(*UPGRADE) + CHUNKED_HELLO, b"hello"),
    ],
    ids=["GET", "websocket", "empty", "Content-Length", "chunked"],
)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_upgrade_is_declined_and_the_request_served(raw: bytes, body: bytes, step: int) -> None:
    server = MemoryServer()
    served: list[tuple[bytes, bytes | None]] = []

    def dispatch(exchange: Exchange) -> None:
        def respond_to(body: bytes | None) -> None:
            served.append((exchange.target, body))
            respond(exchange)

        exchange.body.collect(100, respond_to)

    server.factory.dispatch = dispatch
    stream = raw + get(b"/next")
    for start in range(0, len(stream), step):
        server.send(stream[start : start + step])
    assert served == [(served[0][0], body), (b"/next", b"")]
    assert server.received().count(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok") == 2
    assert server.transport.open


def test_pipelined_upgrades_are_declined() -> None:
    server = MemoryServer()
    server.factory.dispatch = respond
    server.send(get(b"/up", b"Connection: upgrade", b"Upgrade: x") * 900)
    assert server.received().count(b"HTTP/1.1 200 X") == 900
    assert server.transport.open


def test_body_over_the_limit_is_refused_with_an_upgrade() -> None:
    server = MemoryServer(max_body_bytes=10)
    server.send(post(*UPGRADE, length=11) + get(b"/smuggled"))
    (exchange,) = server.exchanges
    assert exchange.problem is not None
    assert exchange.problem.status == 413
    respond(exchange, status=413)
    assert len(server.exchanges) == 1
    assert not server.transport.open


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        (b"5;", b"a" * 1000),
        (b'5;a="', b"a" * 1000),
        (b"0\r\nX-A: ", b"a" * 1000),
        (b"0\r\n", b"X-A: b\r\n"),
        (b"0\r\nX-", b"a" * 1000),
        (b"0000", b"0"),
        (b"", b"1;" + b"a" * 1000 + b"\r\nx\r\n"),
        (b"", b"1;" + b"a" * 60_000 + b"\r\nx\r\n"),
    ],
    ids=[
        "extension",
        "quoted extension",
        "trailer value",
        "trailers",
        "trailer name",
        "zeros",
        "extension for each byte",
        "large extension for each byte",
    ],
)
def test_endless_chunk_framing_is_refused(start: bytes, repeated: bytes) -> None:
    server = MemoryServer()
    (exchange,) = server.send(post()).exchanges
    if start:
        server.send(start)
    assert send_until_refused(server, exchange, repeated) < 200_000


def test_many_small_chunks_are_accepted() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post()).exchanges
    collected = collect(exchange)
    for _ in range(200):
        server.send(chunks(*[b"x"] * 500))
    server.send(b"0\r\nX-Checksum: abc\r\n\r\n")
    assert collected == [b"x" * 100_000]


@pytest.mark.parametrize("split_at", [1, 100, 30_000, 60_000])
def test_head_over_64_kib_is_refused_however_it_is_split(split_at: int) -> None:
    server = MemoryServer()
    raw = get(b"/", *[b"X-%d: %b" % (i, b"a" * 1000) for i in range(70)])
    server.send(raw[:split_at]).send(raw[split_at:])
    (exchange,) = server.exchanges
    assert exchange.problem is not None
    assert exchange.problem.code == "headers_too_large"


def test_head_with_too_many_fields_is_refused_before_its_end() -> None:
    server = MemoryServer()
    server.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * (MAX_HEADER_FIELDS - 1))
    assert server.exchanges == []
    server.send(b"a:\r\nb")  # llhttp reports a field when the next one begins
    (exchange,) = server.exchanges
    assert exchange.problem is not None
    assert exchange.problem.code == "headers_too_large"


def test_head_over_64_kib_is_refused_before_its_end() -> None:
    server = MemoryServer()
    server.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: %b\r\nX-B: b" % (b"a" * 65_500))
    assert server.exchanges == []
    server.send(b"b" * 30 + b"\r\nX")
    (exchange,) = server.exchanges
    assert exchange.problem is not None
    assert exchange.problem.code == "headers_too_large"


def test_unfinished_field_over_64_kib_is_refused() -> None:
    server = MemoryServer()
    server.send(b"GET /%b HTTP/1.1\r\nHost: a\r\nX-A: " % (b"t" * 10_000))
    for _ in range(6):
        server.send(b"a" * 10_900)
    assert server.exchanges == []
    server.send(b"a" * 500)
    (exchange,) = server.exchanges
    assert exchange.problem is not None
    assert exchange.problem.code == "headers_too_large"


def test_trailers_take_no_memory() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post()).exchanges
    exchange.body.discard()
    server.send(chunks(*[b"x" * 1000] * 1000) + b"0\r\n")
    trailers = [b"x-%d:%d\r\n" % (number, number) * 100 for number in range(1000)]
    tracemalloc.start()
    for each in trailers:
        server.send(each)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert server.transport.open, "the trailers are within the bounds"
    assert taken < 100_000  # collected, they would take 13 MB


def test_incomplete_trailer_is_counted_until_it_is_complete() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post()).exchanges
    exchange.body.discard()
    server.send(b"0\r\nX-Trailer: " + b"x" * 30_000).send(b"x" * 20_000)
    assert 50_000 <= server.memory.used < 60_000
    server.send(b"\r\nX-Next: a")
    assert server.memory.used < 10_000
    server.send(b"\r\n\r\n")
    assert exchange.body.complete
    respond(exchange)
    assert server.memory.used == 0


def test_trailer_field_over_64_kib_is_refused_after_a_large_body() -> None:
    server = MemoryServer()
    (exchange,) = server.send(post()).exchanges
    exchange.body.discard()
    server.send(chunks(b"x" * 100_000) + b"0\r\nX-Trailer: ")
    assert send_until_refused(server, exchange, b"x" * 1000) < 70_000


def test_refused_head_takes_no_memory() -> None:
    server = MemoryServer()
    tracemalloc.start()
    server.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 60_000)
    server.advance(HEAD_TIMEOUT_SECONDS + TICK_SECONDS)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    (exchange,) = server.exchanges
    assert exchange.problem is not None
    assert taken < 30_000


def test_target_takes_no_memory_after_its_request() -> None:
    server = MemoryServer()
    connections = [server.connect() for _ in range(20)]
    tracemalloc.start()
    for number, (connection, _) in enumerate(connections):
        connection.dataReceived(get(b"/%d" % number + b"t" * 16_000))
        server.clock.advance(0)  # large reads share a turn
        respond(server.exchanges.pop())
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 160_000  # half of what the targets take


def test_chunked_body_over_the_limit_is_refused() -> None:
    server = MemoryServer(max_body_bytes=1000)
    (exchange,) = server.send(post()).exchanges
    assert send_until_refused(server, exchange, chunks(b"x" * 100)) < 1200
    assert server.received().startswith(b"HTTP/1.1 413 ")
    assert server.transport.half_closed


def test_invalid_body_of_a_pipelined_request_is_refused_in_its_turn() -> None:
    server = MemoryServer()
    server.send(get(b"/1") + post() + b"zz\r\n")
    respond(server.exchanges[0])
    exchange = server.exchanges[1]
    assert exchange.problem is not None
    assert exchange.problem.code == "bad_request"
    respond(exchange, status=400)
    assert not server.transport.open


def test_blank_lines_before_a_request_are_skipped_in_one_step() -> None:
    server = MemoryServer()
    assert server.connection._pipeline.parser.feed(b"\r\n" * 30_000) == b""
    (exchange,) = server.send(b"\r\n" * 10_000 + get(b"/1")).exchanges
    assert (exchange.target, exchange.problem) == (b"/1", None)


def test_blank_lines_in_chunks_are_parsed_in_large_steps() -> None:
    server = MemoryServer()
    server.send(post())
    parser = server.connection._pipeline.parser
    data, steps = b"1000\r\n" + b"\r\n\r\n" * 1024 + b"\r\n", 0
    while data:
        data, steps = parser.feed(data), steps + 1
    assert steps <= 9
