"""A client's connection, its exchanges and their bodies: in memory, under a clock."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from goproxyai.errors import ProxyError
from goproxyai.http11.errors import ClientGone
from goproxyai.http11.exchange import Exchange
from goproxyai.http11.request_body import MAX_UNREAD_BODY_BYTES
from goproxyai.http11.server_factory import ServerFactory
from goproxyai.messages.headers import index_fields
from goproxyai.reactor.deadlines import TICK_SECONDS, Ticker

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


class Line(StringTransport):
    """A socket in memory whose other end may stop taking bytes.

    :ivar dataBuffer: what was written but not taken.
    """

    offset = 0
    aborted = False
    half_closed = False

    def __init__(self) -> None:
        super().__init__()
        self.dataBuffer = b""
        self.stalled = False

    def write(self, data: bytes) -> None:
        assert not self.disconnecting
        assert not self.half_closed
        if self.stalled:
            self.dataBuffer += data
        else:
            super().write(data)

    def take(self, count: int) -> None:
        """The other end reads some of what waits for it."""
        taken, self.dataBuffer = self.dataBuffer[:count], self.dataBuffer[count:]
        self.io.write(taken)

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    @property
    def reading(self) -> bool:
        return self.producerState == "producing"

    @property
    def open(self) -> bool:
        return not (self.disconnecting or self.half_closed)


class Server:
    """A connection, and the exchanges that came by it.

    :ivar exchanges: those that were dispatched, in order; nobody answers them but the test.
    """

    def __init__(self, most_body: int = 1 << 20) -> None:
        self.clock = Clock()
        ticker = Ticker(self.clock)
        ticker.start()
        self.exchanges: list[Exchange] = []
        self.factory = ServerFactory(ticker, self.exchanges.append, most_body)
        self.line = Line()
        self.connection = self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4))
        self.connection.makeConnection(self.line)

    def send(self, data: bytes) -> Server:
        """The client sends; only what the connection wants to read arrives."""
        assert self.line.reading
        self.connection.dataReceived(data)
        return self

    def wait(self, seconds: float) -> None:
        self.clock.pump([TICK_SECONDS] * int(seconds / TICK_SECONDS))

    def lose(self) -> None:
        """The client leaves."""
        self.connection.connectionLost(Failure(ConnectionDone()))

    def received(self) -> bytes:
        """What the client got since it was last asked."""
        data = self.line.value()
        self.line.clear()
        return bytes(data)


class Worker:
    """Listens to an exchange, and writes down what it hears."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.heard: list[str] = []
        exchange.listener = self

    def client_gone(self) -> None:
        self.heard.append("gone")

    def request_failed(self, problem: ProxyError) -> None:
        self.heard.append(problem.code)
        if self.exchange.response_started:
            self.exchange.abort()
        else:
            answer(self.exchange, b"", problem.status)


class Taker:
    """Takes a streamed request body.

    :param most: bytes after which it pauses whoever produces.
    """

    def __init__(self, body: object, most: int = 1 << 30) -> None:
        self.body = body
        self.most = most
        self.taken = b""

    def write(self, data: bytes) -> None:
        self.taken += data
        if len(self.taken) >= self.most:
            self.body.pauseProducing()


class Source:
    """Makes an answer's body, and writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")


def answer(exchange: Exchange, body: bytes = b"ok", status: int = 200) -> None:
    exchange.start_response(status, b"HTTP/1.1 %d X\r\n" % status, len(body))
    exchange.write(body, True)


def get(target: bytes = b"/v1/models", *lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"GET %b HTTP/%b" % (target, version), b"Host: a", *lines, b"", b""])


def post(*lines: bytes, length: int | None = None, version: bytes = b"1.1") -> bytes:
    """The head of a POST, chunked unless a length is given."""
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"\r\n".join(
        [b"POST /v1/files HTTP/%b" % version, b"Host: a", framing, *lines, b"", b""]
    )


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def outcome(done: Deferred[None]) -> list[object]:
    """Gets the result, once there is one."""
    results: list[object] = []
    done.addBoth(results.append)
    return results


def collected(exchange: Exchange, limit: int = 1 << 20) -> list[bytes | None]:
    got: list[bytes | None] = []
    exchange.body.collect(limit, got.append)
    return got


# Deadlines.


def test_a_new_connection_that_says_nothing_is_closed_after_twenty_seconds() -> None:
    server = Server()
    server.wait(19.5)
    assert server.line.open
    server.wait(1)
    assert server.line.disconnecting
    assert server.received() == b""


def test_a_head_has_twenty_seconds_from_its_first_byte_however_it_drips() -> None:
    server = Server()
    answer(server.send(get()).exchanges[0])
    server.wait(50)
    for byte in b"GET /v1/models HTTP/":
        assert server.line.open
        server.send(bytes([byte]))
        server.wait(1)
    server.wait(0.5)
    _, refused = server.exchanges
    assert refused.problem is not None
    assert (refused.problem.code, refused.problem.status) == ("bad_request", 400)
    answer(refused, status=400)
    assert not server.line.open


def test_a_head_that_is_complete_in_time_is_served() -> None:
    server = Server()
    server.wait(15)
    raw = get()
    server.send(raw[:-1])
    server.wait(19.5)
    server.send(raw[-1:])
    server.wait(600)
    (exchange,) = server.exchanges
    assert exchange.problem is None
    assert server.line.open


def test_an_unused_connection_is_closed_75_seconds_after_its_last_answer() -> None:
    server = Server()
    server.send(get())
    server.wait(200)
    answer(server.exchanges[0])
    server.wait(74.5)
    assert server.line.open
    server.wait(1)
    assert server.line.disconnecting
    assert server.received().endswith(b"ok")


def test_empty_lines_do_not_keep_an_unused_connection() -> None:
    server = Server()
    answer(server.send(get()).exchanges[0])
    for _ in range(76):
        if server.line.open:
            server.send(b"\r\n")
            server.wait(1)
    assert server.line.disconnecting


def test_a_body_that_stops_is_refused_after_thirty_seconds() -> None:
    server = Server()
    (exchange,) = server.send(post(length=100_000)).exchanges
    worker = Worker(exchange)
    got = collected(exchange)
    server.wait(29.5)
    assert worker.heard == []
    server.wait(1)
    assert worker.heard == ["bad_request"]
    assert got == []
    assert server.received().startswith(b"HTTP/1.1 400 ")
    assert server.line.half_closed


@pytest.mark.parametrize(("rate", "kept"), [(500, True), (1000, True), (400, False), (1, False)])
def test_a_body_must_keep_up_500_bytes_a_second(rate: int, kept: bool) -> None:
    server = Server()
    (exchange,) = server.send(post(length=1_000_000)).exchanges
    worker = Worker(exchange)
    exchange.body.discard()
    for _ in range(300):
        if not worker.heard:
            server.send(b"x" * rate)
            server.wait(1)
    assert (worker.heard == []) is kept


def test_a_body_is_not_held_against_the_client_while_we_do_not_read() -> None:
    server = Server()
    (exchange,) = server.send(post(length=1_000_000)).exchanges
    worker = Worker(exchange)
    taker = Taker(exchange.body, 100)
    exchange.body.startProducing(taker).addErrback(lambda _: None)
    server.send(b"x" * 100)
    assert not server.line.reading
    server.wait(500)
    assert worker.heard == []
    taker.most = 1 << 30
    exchange.body.resumeProducing()
    assert server.line.reading
    server.wait(29.5)
    assert worker.heard == []
    server.wait(1.5)
    assert worker.heard == ["bad_request"]


def test_a_body_that_waits_for_our_100_is_not_held_against_the_client() -> None:
    server = Server()
    (exchange,) = server.send(post(b"Expect: 100-continue", length=5)).exchanges
    worker = Worker(exchange)
    server.wait(100)
    assert worker.heard == []
    got = collected(exchange)
    assert server.received() == CONTINUE
    server.wait(29.5)
    assert worker.heard == []
    server.send(b"hello")
    assert got == [b"hello"]


def test_the_next_head_is_not_held_against_the_client_while_we_do_not_read() -> None:
    server = Server()
    server.send(get(b"/1") + get(b"/2") + get(b"/3")[:-1])
    answer(server.exchanges[0])
    server.wait(100)
    assert not server.line.reading
    answer(server.exchanges[1])
    assert server.line.reading
    server.wait(1)
    server.send(b"\n")
    assert server.exchanges[2].problem is None
    assert server.exchanges[2].target == b"/3"


def begun(server: Server, length: int) -> Exchange:
    """An answer that its reader does not take."""
    (exchange,) = server.send(get()).exchanges
    server.line.stalled = True
    exchange.start_response(200, OK, length)
    exchange.write(b"x" * 100)
    return exchange


def test_a_reader_that_takes_nothing_for_sixty_seconds_is_broken_off() -> None:
    server = Server()
    begun(server, 1000)
    server.wait(59.5)
    assert not server.line.aborted
    server.wait(1.5)
    assert server.line.aborted


def test_a_reader_that_takes_a_little_is_kept() -> None:
    server = Server()
    begun(server, 1000)
    for _ in range(20):
        server.wait(50)
        server.line.take(1)
    assert server.line.open


def test_a_reader_that_takes_less_than_we_write_is_kept() -> None:
    server = Server()
    exchange = begun(server, 1_000_000)
    for _ in range(1000):
        exchange.write(b"x" * 10)
        server.line.take(1)
        server.wait(1)
    assert server.line.open


def test_a_reader_that_takes_nothing_is_not_kept_by_what_we_write() -> None:
    server = Server()
    exchange = begun(server, 1_000_000)
    for _ in range(50):
        exchange.write(b"x" * 10)
        server.wait(1)
    server.wait(11)
    assert server.line.aborted


def test_a_reader_that_takes_everything_may_wait_for_the_rest() -> None:
    server = Server()
    begun(server, 1000)
    server.line.take(10_000)
    server.wait(600)
    assert server.line.open


def test_a_refused_client_may_finish_for_two_seconds_and_is_then_broken_off() -> None:
    server = Server()
    (exchange,) = server.send(b"GET / HTTP/1.1\r\n\r\n").exchanges
    answer(exchange, status=400)
    assert server.line.half_closed
    assert server.line.reading
    server.wait(1.5)
    server.send(get() * 10)
    assert not server.line.disconnecting
    server.wait(1)
    assert server.line.aborted
    assert len(server.exchanges) == 1


def test_a_slow_reader_gets_the_whole_answer_before_its_connection_ends() -> None:
    server = Server()
    (exchange,) = server.send(post(length=100)).exchanges
    server.line.stalled = True
    answer(exchange, b"x" * 50)
    assert server.line.half_closed
    while server.line.dataBuffer:
        server.wait(10)
        assert not server.line.aborted
        server.line.take(10)
    server.wait(3)
    assert server.received().endswith(b"\r\n\r\n" + b"x" * 50)
    assert server.line.aborted


def test_a_peer_that_does_not_let_go_of_a_closed_connection_is_broken_off() -> None:
    server = Server()
    (exchange,) = server.send(get(b"/", b"Connection: close")).exchanges
    answer(exchange)
    assert server.line.half_closed
    assert not server.line.aborted
    server.wait(3)
    assert server.line.aborted


def test_a_closed_connection_whose_reading_was_paused_is_broken_off_too() -> None:
    server = Server()
    server.send(get(b"/1") + get(b"/2"))
    assert not server.line.reading
    server.exchanges[0].start_response(200, OK, 0, close=True)
    server.exchanges[0].finish()
    assert server.line.reading
    assert server.line.half_closed
    server.wait(3)
    assert server.line.aborted


# Pipelining.


def test_pipelined_requests_are_worked_on_one_at_a_time_and_not_read_meanwhile() -> None:
    server = Server()
    server.send(get(b"/1") + get(b"/2") + get(b"/3"))
    for number in (1, 2, 3):
        assert not server.line.reading
        assert [one.target for one in server.exchanges] == [
            b"/%d" % i for i in range(1, number + 1)
        ]
        answer(server.exchanges[-1], b"%d" % number)
    assert server.line.reading
    answer(server.send(get(b"/4")).exchanges[3])
    assert server.line.open


def test_answers_leave_in_the_order_of_the_requests() -> None:
    server = Server()
    server.send(get(b"/1") + get(b"/2"))
    first = server.exchanges[0]
    first.start_response(200, OK, None)
    first.write(b"a")
    assert len(server.exchanges) == 1
    first.finish()
    answer(server.exchanges[1], b"b")
    assert server.received() == (
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        b"HTTP/1.1 200 X\r\nContent-Length: 1\r\n\r\nb"
    )


def test_answers_given_at_once_do_not_nest() -> None:
    server = Server()
    server.factory.dispatch = answer
    server.send(get() * 900)
    assert server.received().count(b"HTTP/1.1 200") == 900
    assert server.line.reading


def test_a_pipelined_body_waits_for_its_turn_and_then_comes() -> None:
    server = Server()
    server.send(get(b"/1") + post(length=200_000) + b"x" * 30_000)
    assert not server.line.reading
    answer(server.exchanges[0])
    got = collected(server.exchanges[1])
    assert server.line.reading
    server.send(b"x" * 170_000)
    assert got == [b"x" * 200_000]


def test_a_client_that_asks_to_close_gets_no_answer_to_what_it_sends_behind() -> None:
    server = Server()
    server.send(get(b"/1", b"Connection: close") + get(b"/2"))
    (exchange,) = server.exchanges
    answer(exchange)
    assert b"Connection: close\r\n" in server.received()
    assert len(server.exchanges) == 1
    assert not server.line.open


def test_an_answer_that_closes_leaves_the_pipelined_rest_unanswered() -> None:
    server = Server()
    server.send(get(b"/1") + get(b"/2"))
    server.exchanges[0].start_response(200, OK, 0, close=True)
    server.exchanges[0].finish()
    assert server.received() == OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    assert len(server.exchanges) == 1
    assert not server.line.open


# The request's body.


def test_an_unclaimed_body_is_read_up_to_64_kibibytes() -> None:
    server = Server()
    (exchange,) = server.send(post(length=1_000_000)).exchanges
    server.send(b"x" * MAX_UNREAD_BODY_BYTES)
    assert MAX_UNREAD_BODY_BYTES == 64 * 1024
    assert server.line.reading
    server.send(b"y")
    assert not server.line.reading
    got = collected(exchange)
    assert server.line.reading
    server.send(b"z" * (1_000_000 - MAX_UNREAD_BODY_BYTES - 1))
    assert got == [
        b"x" * MAX_UNREAD_BODY_BYTES + b"y" + b"z" * (1_000_000 - MAX_UNREAD_BODY_BYTES - 1)
    ]


@pytest.mark.parametrize(
    "pieces", [[b"12345678"], [b"1234", b"5678"], [*map(bytes, zip(b"12345678"))]]
)
@pytest.mark.parametrize("length", [8, None], ids=["Content-Length", "chunked"])
def test_a_body_within_the_limit_is_collected_whole(
    pieces: list[bytes], length: int | None
) -> None:
    server = Server()
    (exchange,) = server.send(post(length=length)).exchanges
    got = collected(exchange, 8)
    for piece in pieces:
        assert got == []
        server.send(piece if length else chunks(piece))
    if length is None:
        server.send(b"0\r\n\r\n")
    assert got == [b"12345678"]
    assert exchange.body.complete


def test_a_body_that_came_with_its_head_is_there_at_once() -> None:
    server = Server()
    (exchange,) = server.send(post(length=5) + b"hello").exchanges
    assert exchange.body.complete
    assert exchange.body.whole() == b"hello"
    assert collected(exchange) == [b"hello"]


@pytest.mark.parametrize("early", [True, False], ids=["before", "while"])
def test_a_body_beyond_the_limit_can_still_be_streamed_from_its_start(early: bool) -> None:
    server = Server()
    (exchange,) = server.send(post(length=12)).exchanges
    if early:
        server.send(b"123456789")
        got = collected(exchange, 8)
    else:
        got = collected(exchange, 8)
        server.send(b"1234")
        assert got == []
        server.send(b"56789")
        assert not server.line.reading
    assert got == [None]
    taker = Taker(exchange.body)
    result = outcome(exchange.body.startProducing(taker))
    assert server.line.reading
    server.send(b"abc")
    assert taker.taken == b"123456789abc"
    assert result == [None]


def test_a_streamed_body_stops_and_goes_on_with_who_takes_it() -> None:
    server = Server()
    (exchange,) = server.send(post() + chunks(b"one")).exchanges
    taker = Taker(exchange.body, 3)
    result = outcome(exchange.body.startProducing(taker))
    assert taker.taken == b"one"
    assert not server.line.reading
    taker.most = 7
    exchange.body.resumeProducing()
    assert server.line.reading
    server.send(chunks(b"two", b"three", b"four") + b"0\r\n\r\n")
    assert taker.taken == b"onetwothree"
    assert result == []
    taker.most = 1 << 30
    exchange.body.resumeProducing()
    assert taker.taken == b"onetwothreefour"
    assert result == [None]


def test_what_is_streamed_in_a_pause_is_bounded() -> None:
    server = Server()
    (exchange,) = server.send(post(length=1_000_000)).exchanges
    taker = Taker(exchange.body, 1)
    exchange.body.startProducing(taker).addErrback(lambda _: None)
    server.send(b"x" * 1000)
    assert not server.line.reading
    assert taker.taken == b"x" * 1000


def test_a_body_that_nobody_wants_any_more_is_thrown_away() -> None:
    server = Server()
    (exchange,) = server.send(post(length=1_000_000)).exchanges
    server.send(b"x" * (MAX_UNREAD_BODY_BYTES + 1))
    assert not server.line.reading
    exchange.body.discard()
    assert server.line.reading
    server.send(b"x" * (1_000_000 - MAX_UNREAD_BODY_BYTES - 1))
    assert exchange.body.complete
    assert exchange.body.received == 1_000_000
    assert exchange.body.whole() == b""
    answer(exchange)
    server.send(get(b"/2"))
    assert server.exchanges[1].target == b"/2"


def test_a_taker_that_stops_cancels_the_stream_and_the_rest_is_thrown_away() -> None:
    server = Server()
    (exchange,) = server.send(post(length=10)).exchanges
    taker = Taker(exchange.body)
    result = outcome(exchange.body.startProducing(taker))
    server.send(b"12345")
    exchange.body.stopProducing()
    server.send(b"67890")
    assert taker.taken == b"12345"
    (failure,) = result
    assert isinstance(failure, Failure)
    assert failure.check(CancelledError)


@given(
    st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=6),
    st.lists(st.integers(0, 500), max_size=6),
    st.sampled_from(["collect", "stream", "overflow"]),
)
def test_a_chunked_body_comes_through_whole_however_it_is_claimed_and_split(
    pieces: list[bytes], cuts: list[int], how: str
) -> None:
    server, whole = Server(), b"".join(pieces)
    raw = post() + chunks(*pieces) + b"0\r\n\r\n"
    edges = [0, *sorted({cut % len(raw) for cut in cuts} - {0}), len(raw)]
    got: list[bytes | None] = []
    for start, end in pairwise(edges):
        server.connection.dataReceived(raw[start:end])
        if server.exchanges and not got:
            got.append(b"")
            body = server.exchanges[0].body
            taker = Taker(body)
            if how == "collect":
                body.collect(len(whole), got.append)
            elif how == "stream":
                body.startProducing(taker)
            else:
                body.collect(
                    len(whole) - 1,
                    lambda b, body=body, taker=taker: (
                        body.startProducing(taker) if b is None else taker.write(b)
                    ),
                )
    assert (got[-1] if how == "collect" else taker.taken) == whole


# 100-continue.


def test_a_client_is_told_to_continue_once_and_only_when_its_body_is_wanted() -> None:
    server = Server()
    (exchange,) = server.send(post(b"Expect: 100-Continue", length=10)).exchanges
    server.wait(5)
    assert server.received() == b""
    taker = Taker(exchange.body, 5)
    exchange.body.startProducing(taker)
    assert server.received() == CONTINUE
    server.send(b"12345")
    taker.most = 20
    exchange.body.resumeProducing()
    server.send(b"67890")
    assert server.received() == b""
    assert taker.taken == b"1234567890"


def test_a_client_is_not_told_to_continue_once_it_is_answered() -> None:
    server = Server()
    (exchange,) = server.send(post(b"Expect: 100-continue", length=10)).exchanges
    answer(exchange, b"no", 403)
    came = server.received()
    assert came == b"HTTP/1.1 403 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    server.send(b"1234567890" + get())
    server.wait(3)
    assert server.received() == b""
    assert len(server.exchanges) == 1


def test_a_client_that_did_not_wait_is_not_told_to_continue() -> None:
    server = Server()
    (exchange,) = server.send(post(b"Expect: 100-continue", length=5) + b"hello").exchanges
    assert collected(exchange) == [b"hello"]
    assert server.received() == b""


def test_an_http_1_0_client_is_never_told_to_continue() -> None:
    server = Server()
    raw = post(b"Expect: 100-continue", length=5, version=b"1.0")
    (exchange,) = server.send(raw).exchanges
    collected(exchange)
    exchange.send_interim(b"HTTP/1.1 103 Early Hints\r\n")
    assert server.received() == b""


# The answer's framing.


def test_an_answer_of_known_length_leaves_in_one_piece() -> None:
    server = Server()
    (exchange,) = server.send(get()).exchanges
    writes: list[bytes] = []
    server.line.write = writes.append  # type: ignore[method-assign]
    answer(exchange, b"hello")
    assert writes == [b"HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\nhello"]
    assert (exchange.status, exchange.body_bytes_sent) == (200, 5)


def test_an_answer_of_unknown_length_is_chunked_and_empty_writes_do_not_end_it() -> None:
    server = Server()
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
    assert server.line.open


@pytest.mark.parametrize("line", [b"X-A: b", b"Connection: keep-alive"])
def test_an_http_1_0_client_gets_no_chunks_and_the_end_of_the_connection(line: bytes) -> None:
    server = Server()
    (exchange,) = server.send(get(b"/", line, version=b"1.0")).exchanges
    exchange.start_response(200, OK, None)
    exchange.write(b"hello")
    exchange.write(b" you", True)
    assert server.received() == OK + b"Connection: close\r\n\r\nhello you"
    assert server.line.half_closed


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
def test_some_answers_have_no_body_whatever_is_written(
    method: bytes, status: int, length: int | None, framing: bytes
) -> None:
    server = Server()
    (exchange,) = server.send(get().replace(b"GET", method, 1)).exchanges
    exchange.start_response(status, b"HTTP/1.1 %d X\r\n" % status, length)
    exchange.write(b"hello")
    exchange.finish()
    assert server.received() == b"HTTP/1.1 %d X\r\n%b\r\n" % (status, framing)
    assert exchange.body_bytes_sent == 0
    assert server.line.open


def test_a_length_that_stands_in_the_head_is_not_said_twice() -> None:
    server = Server()
    (exchange,) = server.send(get()).exchanges
    exchange.start_response(200, OK + b"content-length: 2\r\n", 2, has_length=True)
    exchange.write(b"ok", True)
    assert server.received() == OK + b"content-length: 2\r\n\r\nok"


def test_interim_answers_pass_until_the_answer_begins() -> None:
    server = Server()
    (exchange,) = server.send(get()).exchanges
    exchange.send_interim(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n")
    assert server.received() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    exchange.start_response(200, OK, 0)
    exchange.send_interim(b"HTTP/1.1 103 Early Hints\r\n")
    assert server.received() == b""
    exchange.finish()
    assert server.received() == OK + b"Content-Length: 0\r\n\r\n"


# Upgrades are declined.

UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
CHUNKED_HELLO = chunks(b"hel", b"lo") + b"0\r\nX-Trailer: a\r\n\r\n"


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
def test_a_request_for_an_upgrade_is_served_as_http_1_1_and_so_is_what_follows(
    raw: bytes, body: bytes, step: int
) -> None:
    server = Server()
    asked: list[tuple[bytes, bytes | None]] = []

    def serve(exchange: Exchange) -> None:
        def tell(whole: bytes | None) -> None:
            asked.append((exchange.target, whole))
            answer(exchange)

        exchange.body.collect(100, tell)

    server.factory.dispatch = serve
    stream = raw + get(b"/next")
    for start in range(0, len(stream), step):
        server.send(stream[start : start + step])
    assert [whole for _, whole in asked] == [body, b""]
    assert asked[1][0] == b"/next"
    assert server.received().count(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok") == 2
    assert server.line.open


def test_any_number_of_pipelined_requests_for_an_upgrade_is_served() -> None:
    server = Server()
    server.factory.dispatch = answer
    server.send(get(b"/up", b"Connection: upgrade", b"Upgrade: x") * 900)
    assert server.received().count(b"HTTP/1.1 200 X") == 900
    assert server.line.open


def test_a_body_that_is_too_large_is_refused_with_an_upgrade_too() -> None:
    server = Server(most_body=10)
    server.send(post(*UPGRADE, length=11) + get(b"/smuggled"))
    (exchange,) = server.exchanges
    assert exchange.problem is not None
    assert exchange.problem.status == 413
    answer(exchange, status=413)
    assert len(server.exchanges) == 1
    assert not server.line.open


# An answer before the request has ended.


@pytest.mark.parametrize("length", [100_000, None], ids=["Content-Length", "chunked"])
def test_an_answer_before_the_body_has_ended_closes_and_the_rest_is_no_request(
    length: int | None,
) -> None:
    server = Server()
    (exchange,) = server.send(post(length=length)).exchanges
    answer(exchange, b"no", 401)
    assert server.received() == b"HTTP/1.1 401 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    assert server.line.half_closed
    for _ in range(3):
        server.send(get(b"/smuggled") * 100)
    assert len(server.exchanges) == 1
    server.wait(3)
    assert server.line.aborted
    assert server.received() == b""


# A connection remembers the header of its last request.


def test_a_header_that_comes_again_means_the_same_but_for_the_length_of_the_body() -> None:
    server = Server()
    for body in (b"one", b"three", b"", b"three"):
        (exchange,) = server.send(post(b"X-A: b", length=len(body)) + body).exchanges
        assert exchange.headers == [
            (b"Host", b"a"), (b"Content-Length", b"%d" % len(body)), (b"X-A", b"b"),
        ]  # fmt: skip
        assert collected(exchange) == [body]
        answer(server.exchanges.pop())


@pytest.mark.parametrize(
    "second",
    [
        b"GET / HTTP/1.1\r\nX-A: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\nX-A: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\nX-A: b\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: b\r\nX-A: b\r\n\r\n",
        b"GET http://b/ HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
        b"GET /../ HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: b\r\n\r\n",
    ],
)
def test_a_header_is_judged_again_when_it_changes(second: bytes) -> None:
    server = Server()
    answer(server.send(get(b"/", b"X-A: b")).exchanges[0])
    problem = server.send(second).exchanges[1].problem
    assert problem is not None
    assert problem.code == "bad_request"


def test_a_header_that_was_fine_in_http_1_1_is_judged_again_in_http_1_0() -> None:
    server = Server()
    server.send(post(b"Connection: keep-alive") + b"0\r\n\r\n")
    answer(server.exchanges[0])
    server.send(post(b"Connection: keep-alive", version=b"1.0"))
    assert server.exchanges[1].problem is not None


# Floods.


def body_problem(server: Server, exchange: Exchange, more: Callable[[], bytes]) -> int:
    """How many bytes are taken before the request fails."""
    worker = Worker(exchange)
    exchange.body.discard()
    taken = 0
    while not worker.heard:
        piece = more()
        taken += len(piece)
        assert taken < 10_000_000
        server.send(piece)
    assert len(worker.heard) == 1
    return taken


@pytest.mark.parametrize(
    ("start", "more"),
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
        "an extension without an end",
        "a quoted extension without an end",
        "a trailer without an end",
        "trailers without an end",
        "a trailer's name without an end",
        "zeros without an end",
        "an extension for each byte",
        "a large extension for each byte",
    ],
)
def test_chunk_framing_without_end_is_bounded(start: bytes, more: bytes) -> None:
    server = Server()
    (exchange,) = server.send(post()).exchanges
    if start:
        server.send(start)
    assert body_problem(server, exchange, lambda: more) < 200_000


def test_many_tiny_chunks_are_no_flood() -> None:
    server = Server()
    (exchange,) = server.send(post()).exchanges
    got = collected(exchange)
    for _ in range(200):
        server.send(chunks(*[b"x"] * 500))
    server.send(b"0\r\nX-Checksum: abc\r\n\r\n")
    assert got == [b"x" * 100_000]


@pytest.mark.parametrize("cut", [1, 100, 30_000, 60_000])
def test_a_head_over_64_kibibytes_is_refused_however_it_is_split(cut: int) -> None:
    server = Server()
    raw = get(b"/", *[b"X-%d: %b" % (i, b"a" * 1000) for i in range(70)])
    server.send(raw[:cut]).send(raw[cut:])
    (exchange,) = server.exchanges
    assert exchange.problem is not None
    assert exchange.problem.code == "headers_too_large"


def test_a_chunked_body_over_the_limit_fails_and_nothing_more_is_read() -> None:
    server = Server(most_body=1000)
    (exchange,) = server.send(post()).exchanges
    assert body_problem(server, exchange, lambda: chunks(b"x" * 100)) < 1200
    assert server.received().startswith(b"HTTP/1.1 413 ")
    assert server.line.half_closed


def test_a_body_that_goes_wrong_before_its_turn_is_refused_in_its_turn() -> None:
    server = Server()
    server.send(get(b"/1") + post() + b"zz\r\n")
    answer(server.exchanges[0])
    exchange = server.exchanges[1]
    assert exchange.problem is not None
    assert exchange.problem.code == "bad_request"
    answer(exchange, status=400)
    assert not server.line.open


# The end of an exchange.


def test_an_exchange_ends_exactly_once() -> None:
    server = Server()
    server.send(get(b"/1") + get(b"/2"))
    first = server.exchanges[0]
    worker = Worker(first)
    answer(first)
    server.received()
    first.finish()
    first.write(b"more", True)
    first.flush()
    first.send_interim(b"HTTP/1.1 103 X\r\n")
    first.abort()
    first.fail(ProxyError("bad_request", "late"))
    first.connection_lost()
    assert worker.heard == []
    assert server.received() == b""
    assert server.line.open
    assert len(server.exchanges) == 2


def test_a_client_that_leaves_is_told_to_who_works_for_it_and_to_nobody_else() -> None:
    server = Server()
    server.send(get(b"/1") + get(b"/2") + get(b"/3"))
    workers = [Worker(server.exchanges[0])]
    answer(server.exchanges[0])
    workers.append(Worker(server.exchanges[1]))
    server.lose()
    assert [worker.heard for worker in workers] == [[], ["gone"]]
    assert len(server.exchanges) == 2
    answer(server.exchanges[1])
    assert workers[1].heard == ["gone"]
    assert server.factory.connections == set()
    assert server.factory.ticker.watched == set()


def test_a_client_that_leaves_in_its_body_ends_the_stream_of_it() -> None:
    server = Server()
    (exchange,) = server.send(post(length=10)).exchanges
    worker = Worker(exchange)
    result = outcome(exchange.body.startProducing(Taker(exchange.body)))
    server.send(b"12345")
    server.lose()
    assert worker.heard == ["gone"]
    (failure,) = result
    assert isinstance(failure, Failure)
    assert failure.check(ClientGone)
    assert not exchange.body.complete


def test_a_client_that_leaves_while_its_body_is_collected_is_not_waited_for() -> None:
    server = Server()
    (exchange,) = server.send(post(length=10)).exchanges
    worker = Worker(exchange)
    got = collected(exchange)
    server.lose()
    assert (worker.heard, got) == (["gone"], [])


def test_an_answer_that_cannot_be_completed_breaks_the_connection_off() -> None:
    server = Server()
    (exchange,) = server.send(get()).exchanges
    worker = Worker(exchange)
    exchange.start_response(200, OK, None)
    exchange.write(b"half")
    exchange.abort()
    assert server.line.aborted
    assert not server.received().endswith(b"0\r\n\r\n")
    server.lose()
    assert worker.heard == []


def test_a_request_that_goes_wrong_under_its_answer_breaks_it_off() -> None:
    server = Server()
    (exchange,) = server.send(post()).exchanges
    worker = Worker(exchange)
    exchange.body.discard()
    exchange.start_response(200, OK, None)
    exchange.write(b"half")
    server.send(b"zz\r\n")
    assert worker.heard == ["bad_request"]
    assert server.line.aborted


def test_a_request_that_goes_wrong_while_nobody_listens_breaks_the_connection_off() -> None:
    server = Server()
    server.send(post()).send(b"zz\r\n")
    assert server.line.aborted


# Backpressure of the answer.


def test_who_makes_the_answer_pauses_while_the_client_does_not_read() -> None:
    server = Server()
    (exchange,) = server.send(get()).exchanges
    source = Source()
    exchange.start_response(200, OK, None)
    exchange.register_producer(source)
    server.line.producer.pauseProducing()
    server.line.producer.resumeProducing()
    assert source.told == ["pause", "resume"]
    exchange.finish()
    server.line.producer.pauseProducing()
    server.line.producer.resumeProducing()
    assert source.told == ["pause", "resume"]


def test_who_comes_to_make_the_answer_of_a_client_that_does_not_read_is_paused_at_once() -> None:
    server = Server()
    (exchange,) = server.send(get()).exchanges
    server.line.producer.pauseProducing()
    source = Source()
    exchange.register_producer(source)
    assert source.told == ["pause"]
    exchange.unregister_producer()
    server.line.producer.resumeProducing()
    assert source.told == ["pause"]


# What an exchange knows; and the daemon's end.


def test_an_exchange_knows_what_was_asked_by_whom_and_when() -> None:
    server = Server()
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


def test_the_end_of_the_daemon_closes_what_is_idle_and_breaks_off_what_is_not() -> None:
    fresh, used, busy = Server(), Server(), Server()
    answer(used.send(get()).exchanges[0])
    worker = Worker(busy.send(get()).exchanges[0])
    for server in (fresh, used, busy):
        server.connection.shut_down()
    assert (fresh.line.disconnecting, fresh.line.aborted) == (True, False)
    assert (used.line.disconnecting, used.line.aborted) == (True, False)
    assert busy.line.aborted
    busy.lose()
    assert worker.heard == ["gone"]


def test_what_is_idle_as_it_drains_is_half_closed_at_once_and_what_still_comes_is_dropped() -> None:
    server = Server()
    answer(server.send(get()).exchanges[0])
    server.connection.drain(True)
    assert (server.line.half_closed, server.line.aborted) == (True, False)
    server.send(get())
    assert len(server.exchanges) == 1


def test_a_connection_that_has_brought_nothing_yet_is_waited_for_as_it_drains() -> None:
    server, silent = Server(), Server()
    for one in (server, silent):
        one.connection.drain(True)
        assert one.line.open
        assert one.connection.fresh
    (exchange,) = server.send(get()).exchanges
    assert exchange.is_first
    silent.connection.drain(False)
    assert silent.line.half_closed


def test_only_the_first_request_of_a_connection_is_its_first() -> None:
    server = Server()
    for _ in range(3):
        answer(server.send(get()).exchanges[-1])
    assert [exchange.is_first for exchange in server.exchanges] == [True, False, False]
    assert not server.connection.fresh


def test_an_answer_that_begins_once_it_drains_is_the_last_and_says_so() -> None:
    server = Server()
    (exchange,) = server.send(get()).exchanges
    server.connection.drain(True)
    answer(exchange)
    assert b"Connection: close\r\n" in server.received()
    assert server.line.half_closed


def test_an_answer_that_had_begun_as_it_drains_is_the_last_too() -> None:
    server = Server()
    (exchange,) = server.send(get()).exchanges
    exchange.start_response(200, OK, 2)
    exchange.write(b"a")
    server.connection.drain(True)
    assert server.line.open
    exchange.write(b"b", last=True)
    assert server.received().endswith(b"\r\n\r\nab")
    assert server.line.half_closed


def test_what_waits_behind_an_answer_as_it_drains_is_dispatched() -> None:
    server = Server()
    (first,) = server.send(get() + get()).exchanges
    server.connection.drain(True)
    answer(first)
    assert b"Connection" not in server.received()
    assert len(server.exchanges) == 2
    answer(server.exchanges[1])
    assert server.line.half_closed


def test_a_head_that_is_half_here_as_it_drains_is_read_on() -> None:
    server = Server()
    answer(server.send(get()).exchanges[0])
    server.send(get()[:-2])
    server.connection.drain(False)
    assert server.line.open
    answer(server.send(b"\r\n").exchanges[1])
    assert server.line.half_closed
