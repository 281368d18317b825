"""Where connections touch: unread answers, early closes, reused and lingering connections."""

from __future__ import annotations

import socket
import tracemalloc
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.address import UNIXAddress
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from goproxyai.http11.client_connection import ClientConnection
from goproxyai.http11.connection_deadlines import CLOSE_SECONDS, Timeouts
from goproxyai.http11.connection_pool import ConnectionPool
from goproxyai.http11.errors import ProtocolViolation, UpstreamTimeout
from goproxyai.http11.request_body import RequestBody
from goproxyai.http11.response_parser import MAX_INTERIM_RESPONSES
from goproxyai.messages.headers import Headers
from goproxyai.reactor.deadlines import TICK_SECONDS, Ticker
from goproxyai.reactor.write_batch import ImmediateWriter
from goproxyai.upstream.retries import RetryCause
from tests.support.answers import response
from tests.support.harness import ProxyHarness, RawClient, eventually, request
from tests.support.memory_transport import MemoryTransport
from tests.support.serving import loopback
from tests.unit.http11.test_server_connection import Server, answer, get, post

# The client's side.


def test_nothing_is_dispatched_or_read_while_answers_are_not_taken() -> None:
    server = Server()
    server.send(get(b"/1") + get(b"/2") + get(b"/3"))
    server.line.producer.pauseProducing()
    answer(server.exchanges[0])
    assert [one.target for one in server.exchanges] == [b"/1"]
    assert not server.line.reading
    server.line.producer.resumeProducing()
    assert [one.target for one in server.exchanges] == [b"/1", b"/2"]
    answer(server.exchanges[1])
    answer(server.exchanges[2])
    assert server.line.reading


def test_an_idle_connection_whose_answers_are_not_taken_is_not_read() -> None:
    server = Server()
    answer(server.send(get()).exchanges[0])
    server.line.producer.pauseProducing()
    assert not server.line.reading
    server.line.producer.resumeProducing()
    assert server.line.reading


@pytest_twisted.ensureDeferred
async def test_a_client_that_pipelines_and_reads_nothing_is_answered_only_so_far(
    harness: ProxyHarness,
) -> None:
    await harness.start()
    harness.upstream.script("/v1/large", response(b"x" * 60_000))
    await harness.ask(request("/v1/large"))
    assert harness.daemon is not None
    counters = harness.daemon.context.counters
    wire = await harness.connect()
    wire.pause_reading()
    wire.send(request("/v1/large") * 1_000)
    seen = -1

    def settled() -> bool:
        nonlocal seen
        before, seen = seen, counters.hits
        return seen == before > 0

    await eventually(harness.reactor, settled)
    assert counters.hits < 500
    wire.resume_reading()
    for _ in range(1_000):
        assert len((await wire.answer()).body) == 60_000
    assert counters.hits == 1_000


def test_what_stands_behind_the_last_request_of_a_read_is_not_served() -> None:
    server = Server()
    server.send(post(b"Connection: close", length=2))
    (exchange,) = server.exchanges
    exchange.body.collect(10, lambda _: answer(exchange))
    server.send(b"ok" + get(b"/2") + b"junk\r\n\r\n")
    assert server.exchanges == [exchange]
    assert server.received().count(b"HTTP/1.1 ") == 1


def test_a_body_that_comes_fast_earns_no_long_silence() -> None:
    server = Server(most_body=1 << 30)
    server.send(post(length=50_000_000))
    server.exchanges[0].body.discard()
    for _ in range(400):
        server.connection.dataReceived(b"x" * 65_536)
    server.wait(29)
    assert server.line.open
    server.wait(3)
    assert not server.line.open or server.line.aborted


@attrs.define
class Connection:
    reading: bool = True

    def send(self, data: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def test_a_body_in_tiny_pieces_takes_no_more_room_than_its_bytes() -> None:
    body = RequestBody(Connection(), None, False)
    got: list[bytes | None] = []
    body.collect(1 << 20, got.append)
    tracemalloc.start()
    for _ in range(200_000):
        body.feed(b"ab")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1_000_000
    body.end()
    assert got == [b"ab" * 200_000]


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 64 + ".test", "[::1]:80"])
@pytest_twisted.ensureDeferred
async def test_an_odd_host_reaches_the_system_endpoints_all_the_same(
    harness: ProxyHarness, host: str
) -> None:
    await harness.start()
    data = f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert (await harness.ask(data)).status == 200


# The upstream's side.


class Upstream:
    """A connection to an upstream, ready to be used, under a clock."""

    def __init__(self, head: float = 2.0, silence: float = 2.0) -> None:
        self.clock = Clock()
        self.ticker = Ticker(self.clock)
        self.ticker.start()
        self.line = MemoryTransport(stalled=True)
        self.freed: list[ClientConnection] = []
        self.failures: list[Any] = []
        self.responses: list[Any] = []
        self.connection = ClientConnection(
            self.ticker,
            Timeouts(head, silence),
            False,
            self.freed.append,
            lambda lost: None,
            ImmediateWriter(),
        )
        self.connection.makeConnection(self.line)

    def send(self, body: bytes | None = None) -> None:
        head = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n"
        self.connection.send(b"GET", head, body, False, self)

    def answered(self, response: Any) -> None:
        self.responses.append(response)

    def failed(self, reason: Failure, cause: RetryCause | None = None) -> None:
        self.failures.append(reason.value)

    def interim_received(self, status: int, reason: bytes, headers: Headers) -> None:
        """What comes before an answer is not looked at here."""

    def wait(self, seconds: float) -> None:
        self.clock.pump([TICK_SECONDS] * round(seconds / TICK_SECONDS))


def test_a_deadline_does_not_come_before_its_time() -> None:
    upstream = Upstream(head=0.75)
    upstream.clock.advance(0.2)  # no tick yet: the ticker's own time is old
    upstream.send()
    upstream.line.take(1_000)
    upstream.clock.advance(0.6)
    assert upstream.failures == []
    upstream.wait(0.5)
    assert [type(one) for one in upstream.failures] == [UpstreamTimeout]


def test_a_request_that_upstream_takes_slowly_is_in_time() -> None:
    upstream = Upstream()
    upstream.send(b"x" * 100_000)
    for _ in range(20):
        upstream.line.take(5_000)
        upstream.wait(1)
    assert upstream.failures == []
    upstream.line.take(100_000)
    upstream.wait(1.75)
    assert upstream.failures == []
    upstream.wait(1)
    assert [str(one) for one in upstream.failures] == ["the response head"]


def test_a_request_that_upstream_does_not_take_is_not() -> None:
    upstream = Upstream()
    upstream.send(b"x" * 100_000)
    upstream.wait(3)
    assert [type(one) for one in upstream.failures] == [UpstreamTimeout]


def test_a_connection_that_is_to_close_is_broken_off_if_upstream_holds_on() -> None:
    upstream = Upstream()
    upstream.send()
    upstream.connection.dataReceived(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
    assert upstream.line.disconnecting
    assert not upstream.line.aborted
    upstream.wait(CLOSE_SECONDS + TICK_SECONDS)
    assert upstream.line.aborted


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 099 X\r\n\r\n",
        b"HTTP/1.1 000 X\r\n\r\n",
        b"HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 O\x7fK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_INTERIM_RESPONSES + 1),
    ],
)
def test_a_status_line_that_may_not_be_relayed_is_a_violation(head: bytes) -> None:
    upstream = Upstream()
    upstream.send()
    upstream.connection.dataReceived(head)
    assert [type(one) for one in upstream.failures] == [ProtocolViolation]


def test_a_connection_that_has_said_something_is_not_used_again() -> None:
    ours, theirs = socket.socketpair()

    with ours, theirs:
        pool, connection = ConnectionPool(), Upstream().connection
        connection.transport.fileno = ours.fileno
        for _ in range(2):
            pool.release("place", connection)
            assert pool.take("place") is connection
        pool.release("place", connection)
        theirs.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        assert pool.take("place") is None
        assert connection.transport.aborted


@pytest_twisted.ensureDeferred
async def test_a_304_gets_no_length_that_upstream_did_not_give(harness: ProxyHarness) -> None:
    await harness.start()
    harness.upstream.script("/v1/models", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n")
    answered = await harness.ask(request(headers=[("If-None-Match", "x")]))
    assert answered.status == 304
    assert answered.get("Content-Length") is None


@pytest_twisted.ensureDeferred
async def test_an_empty_chunked_body_goes_upstream_with_its_length(harness: ProxyHarness) -> None:
    await harness.start()
    await harness.ask(
        b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert harness.upstream.requests[0].header(b"content-length") == b"0"


@pytest_twisted.ensureDeferred
async def test_a_tls_listener_settles_on_http_1_1_and_serves(harness: ProxyHarness) -> None:
    await harness.start()
    assert harness.daemon is not None
    tls = harness.authority.good().options(())
    port = await loopback(harness.reactor, tls).listen(harness.daemon.listeners.factory)
    creator = optionsForClientTLS(
        "localhost",
        trustRoot=harness.authority.trust_root(),
        acceptableProtocols=[b"h2", b"http/1.1"],
    )
    tcp = TCP4ClientEndpoint(harness.reactor, "127.0.0.1", port.getHost().port)
    wire = await connectProtocol(wrapClientTLS(creator, tcp), RawClient(harness.reactor))
    for state in (b"MISS", b"HIT"):
        wire.send(request())
        answered = await wire.answer()
        assert (answered.status, answered.get("X-Cache")) == (200, state)
    assert wire.transport.negotiatedProtocol == b"http/1.1"
    wire.abort()
    await wire.wait_closed()
    await port.stopListening()


def test_the_peer_behind_a_unix_socket_is_called_local() -> None:
    server = Server()
    connection = server.factory.buildProtocol(UNIXAddress(b"/run/x.sock"))
    connection.makeConnection(StringTransport())
    connection.dataReceived(get())
    assert server.exchanges[0].connection.peer == "local"
