"""The bytes around a message, how they are written, and the ticker that keeps the deadlines."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Server as Socket
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogEvent

from goproxyai.http11.framing import LAST_CHUNK, MAX_HEADER_FIELDS, chunk, headers_too_large
from goproxyai.messages.headers import lines
from goproxyai.reactor.deadlines import TICK, Ticker
from goproxyai.reactor.socket_write import (
    can_half_close,
    hung_up,
    parked,
    set_no_delay,
    write_through,
)

PATIENCE_MS = 5000

# Framing.


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_chunks_decode_to_what_they_were_made_of(pieces: list[bytes]) -> None:
    raw = b"".join(map(chunk, pieces)) + LAST_CHUNK
    decoded = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        decoded += raw[:length]
        assert raw[length : length + 2] == b"\r\n"
        raw = raw[length + 2 :]
        if not length:
            break
    assert decoded == b"".join(pieces)
    assert raw == b""


def test_no_data_makes_no_chunk_which_would_end_the_body() -> None:
    assert chunk(b"") == b""
    assert chunk(b"a" * 26) == b"1a\r\n" + b"a" * 26 + b"\r\n"


def test_header_lines_keep_order_case_repeats_and_odd_bytes() -> None:
    headers = [(b"X-b", b"1"), (b"x-A", b""), (b"X-b", b"\xff,  2")]
    assert lines(headers) == b"X-b: 1\r\nx-A: \r\nX-b: \xff,  2\r\n"
    assert lines([]) == b""


def test_a_header_that_is_too_large_is_431() -> None:
    problem = headers_too_large()
    assert (problem.status, problem.code) == (431, "headers_too_large")
    assert str(MAX_HEADER_FIELDS) in problem.message


# Writing.


class Producer:
    """Somebody who fills the socket, and writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class Quiet(Protocol):
    """Does nothing with what comes, and remembers its end."""

    reason: Any = None

    def connectionLost(self, reason: Any = None) -> None:
        self.reason = reason


@attrs.define(eq=False)
class Pair:
    """A TCP connection over loopback: our transport, under a reactor turned by hand; and a peer.

    :ivar took: what each call of the kernel took; for an int in *takes*, that many bytes at most,
        for an exception, nothing.
    """

    reactor: MemoryReactorClock
    ours: Any
    peer: socket.socket
    protocol: Quiet
    kernel: socket.socket
    took: list[int] = attrs.field(factory=list)
    takes: list[int | Exception] = attrs.field(factory=list)

    def send(self, data: bytes) -> int:
        """The kernel's."""
        limit = self.takes.pop(0) if self.takes else len(data)
        if isinstance(limit, Exception):
            raise limit
        sent = self.kernel.send(bytes(data)[:limit]) if limit else 0
        self.took.append(sent)
        return sent

    @property
    def watched(self) -> bool:
        """Whether the reactor is asked to say when the socket takes more."""
        return self.ours in self.reactor.getWriters()

    def drain(self) -> None:
        """Let the reactor write until nothing is parked."""
        while self.watched:
            self.ours.doWrite()

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self.peer.recv(count - len(data))
        return data

    def nothing_more(self) -> bool:
        self.peer.setblocking(False)
        try:
            return self.peer.recv(1) == b""
        except BlockingIOError:
            return True


class Scripted:
    """The socket of a pair, whose kernel takes what the pair says."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.send = pair.send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pair.kernel, name)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        accepted, address = listening.accept()
    accepted.setblocking(False)
    peer.settimeout(PATIENCE_MS / 1000)
    reactor, protocol = MemoryReactorClock(), Quiet()
    ours = Socket(accepted, protocol, address, None, 1, reactor)
    protocol.makeConnection(ours)
    one = Pair(reactor, ours, peer, protocol, accepted)
    ours.socket = Scripted(one)
    yield one
    peer.close()
    accepted.close()


def test_what_the_kernel_takes_at_once_is_not_parked(pair: Pair) -> None:
    write_through(pair.ours, b"hello")
    assert pair.took == [5]
    assert not pair.watched
    assert parked(pair.ours) == 0
    assert pair.read(5) == b"hello"


def test_nothing_is_written_as_nothing(pair: Pair) -> None:
    write_through(pair.ours, b"")
    write_through(pair.ours, b"a")
    assert pair.read(1) == b"a"
    assert not pair.watched


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_only_what_the_kernel_does_not_take_is_parked(pair: Pair, taken: int) -> None:
    pair.takes = [taken]
    write_through(pair.ours, b"hello")
    assert parked(pair.ours) == 5 - taken
    assert pair.watched
    pair.drain()
    assert parked(pair.ours) == 0
    assert pair.read(5) == b"hello"
    assert pair.nothing_more()


def test_what_is_written_behind_parked_bytes_stays_behind_them(pair: Pair) -> None:
    pair.takes = [2]
    write_through(pair.ours, b"hello")
    write_through(pair.ours, b" you")
    pair.ours.write(b" all")
    assert pair.took == [2]
    assert parked(pair.ours) == 11
    pair.drain()
    write_through(pair.ours, b"!")
    assert pair.read(14) == b"hello you all!"
    assert not pair.watched


def test_bytes_that_were_parked_by_others_come_first(pair: Pair) -> None:
    pair.ours.write(b"one")
    write_through(pair.ours, b"two")
    assert pair.took == []
    pair.takes = [1, 0, 3]
    pair.ours.doWrite()
    assert parked(pair.ours) == 5
    write_through(pair.ours, b"three")
    pair.drain()
    assert pair.read(11) == b"onetwothree"


def test_more_than_a_socket_holds_arrives_whole(pair: Pair) -> None:
    data = bytes(range(256)) * 4000
    pair.ours.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    write_through(pair.ours, data)
    assert 0 < parked(pair.ours) < len(data)
    came = b""
    while len(came) < len(data):
        writers = [pair.ours] if pair.watched else []
        readable, writable, _ = select.select([pair.peer], writers, [], PATIENCE_MS / 1000)
        assert readable or writable
        if writable:
            pair.ours.doWrite()
        if readable:
            came += pair.peer.recv(1 << 20)
    assert came == data
    assert parked(pair.ours) == 0


def test_random_writes_through_a_kernel_that_takes_what_it_likes_keep_their_order(
    pair: Pair,
) -> None:
    @given(
        st.lists(st.tuples(st.binary(max_size=20), st.booleans()), max_size=12),
        st.lists(st.integers(0, 12), max_size=20),
    )
    def check(writes: list[tuple[bytes, bool]], takes: list[int]) -> None:
        pair.takes = list(takes)
        for data, turn in writes:
            write_through(pair.ours, data)
            if turn and pair.watched:
                pair.ours.doWrite()
        pair.takes = []
        pair.drain()
        expected = b"".join(data for data, _ in writes)
        assert pair.read(len(expected)) == expected
        assert parked(pair.ours) == 0

    check()


def test_a_broken_connection_is_left_for_the_reactor_to_report(pair: Pair) -> None:
    error = ConnectionResetError(errno.ECONNRESET, "planted")
    pair.takes = [error, error]
    write_through(pair.ours, b"hello")
    assert pair.protocol.reason is None
    assert pair.watched
    assert pair.ours.doWrite() is CONNECTION_LOST


def test_a_peer_that_reset_the_connection_is_no_exception(pair: Pair) -> None:
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    pair.peer.close()
    pair.ours.socket = pair.kernel
    write_through(pair.ours, b"hello")
    write_through(pair.ours, b"hello")
    assert pair.watched
    assert isinstance(pair.ours.doWrite(), Exception)
    assert pair.protocol.reason is None


def test_nothing_goes_to_the_kernel_behind_the_end_of_what_we_say(pair: Pair) -> None:
    pair.takes = [2]
    write_through(pair.ours, b"hello")
    pair.ours.loseWriteConnection()
    pair.drain()
    write_through(pair.ours, b"more")
    assert pair.took == [2, 3]
    assert pair.read(5) == b"hello"
    assert pair.peer.recv(1) == b""


def test_a_connection_that_is_closing_takes_nothing_past_what_is_parked(pair: Pair) -> None:
    pair.takes = [2]
    write_through(pair.ours, b"hello")
    pair.ours.loseConnection()
    write_through(pair.ours, b" you")
    assert pair.took == [2]
    pair.ours.connected = 0
    write_through(pair.ours, b"late")
    assert pair.took == [2]
    assert parked(pair.ours) == 7


def test_a_producer_is_paused_once_too_much_is_parked_and_resumed_once_nothing_is(
    pair: Pair,
) -> None:
    producer = Producer()
    pair.ours.registerProducer(producer, True)
    pair.takes = [1000]
    write_through(pair.ours, b"x" * 2000)
    assert producer.told == []
    write_through(pair.ours, b"x" * pair.ours.bufferSize)
    assert producer.told == ["pause"]
    pair.takes = [1000]
    pair.ours.doWrite()
    write_through(pair.ours, b"x")
    assert set(producer.told) == {"pause"}
    pair.drain()
    assert producer.told[-1] == "resume"
    assert pair.read(pair.ours.bufferSize + 2001) == b"x" * (pair.ours.bufferSize + 2001)
    pair.ours.unregisterProducer()


def test_a_producer_is_not_told_of_what_the_kernel_takes(pair: Pair) -> None:
    producer = Producer()
    pair.ours.registerProducer(producer, True)
    for _ in range(10):
        write_through(pair.ours, b"x" * 10_000)
        pair.read(10_000)
    assert producer.told == []
    pair.ours.unregisterProducer()


def test_what_is_no_socket_is_written_to_as_usual() -> None:
    transport = StringTransport()
    write_through(transport, b"hello")
    assert transport.value() == b"hello"
    assert parked(transport) == 0
    assert not hung_up(transport)
    assert not can_half_close(transport)
    set_no_delay(transport)


class Laid:
    """A layer over a transport, as TLS is laid: with bytes of its own that wait."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self._tlsConnection = "tls"
        self._appSendBuffer: list[bytes] = []
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


def test_what_waits_in_every_layer_is_counted(pair: Pair) -> None:
    pair.takes = [2]
    write_through(pair.ours, b"hello")
    layer = Laid(pair.ours)
    layer._appSendBuffer += [b"abc", b"d"]
    twice = Laid(layer)
    assert parked(pair.ours) == 3
    assert parked(layer) >= 7
    assert parked(twice) >= 7


def test_a_layer_is_never_bypassed(pair: Pair) -> None:
    layer = Laid(pair.ours)
    write_through(layer, b"secret")
    assert layer.written == [b"secret"]
    assert pair.took == []
    assert not can_half_close(layer)
    assert can_half_close(pair.ours)


def test_frames_leave_as_they_come(pair: Pair) -> None:
    set_no_delay(pair.ours)
    assert pair.ours.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# Who has hung up.


def arrived(pair: Pair) -> None:
    """Wait until something, or the end, has come to our side."""
    poller = select.poll()
    poller.register(pair.ours.fileno(), select.POLLIN)
    assert poller.poll(PATIENCE_MS)


def test_a_peer_that_is_there_has_not_hung_up_whether_it_is_read_or_not(pair: Pair) -> None:
    assert not hung_up(pair.ours)
    pair.ours.pauseProducing()
    assert not hung_up(pair.ours)
    pair.peer.sendall(b"hello")
    arrived(pair)
    assert not hung_up(pair.ours)
    assert pair.ours.socket.recv(10) == b"hello"


def test_a_peer_that_closed_has_hung_up_even_while_it_is_not_read(pair: Pair) -> None:
    pair.ours.pauseProducing()
    pair.peer.close()
    arrived(pair)
    assert hung_up(pair.ours)
    assert hung_up(Laid(pair.ours))
    assert pair.protocol.reason is None


def test_a_peer_that_closed_behind_unread_bytes_has_hung_up(pair: Pair) -> None:
    pair.ours.pauseProducing()
    pair.peer.sendall(b"hello")
    pair.peer.shutdown(socket.SHUT_WR)
    poller = select.poll()
    poller.register(pair.ours.fileno(), select.POLLRDHUP)
    assert poller.poll(PATIENCE_MS)
    assert hung_up(pair.ours)


def test_a_peer_that_reset_the_connection_has_hung_up(pair: Pair) -> None:
    pair.ours.pauseProducing()
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    pair.peer.close()
    arrived(pair)
    assert hung_up(pair.ours)


def test_a_connection_that_is_gone_is_not_asked(pair: Pair) -> None:
    pair.ours.socket.close()
    assert not hung_up(pair.ours)


# The ticker.


@attrs.define(eq=False)
class Watched:
    """Writes down when it was ticked; may raise, and may take others away."""

    ticks: list[float] = attrs.field(factory=list)
    error: Exception | None = None
    ticker: Ticker | None = None

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        if self.ticker is not None:
            self.ticker.watched.clear()
        if self.error is not None:
            raise self.error


def test_everything_that_is_watched_is_ticked_four_times_a_second() -> None:
    clock = Clock()
    ticker, one, other = Ticker(clock), Watched(), Watched()
    ticker.watched |= {one, other}
    ticker.start()
    assert one.ticks == []
    clock.pump([TICK] * 8)
    assert TICK == 0.25
    assert one.ticks == other.ticks == [TICK * i for i in range(1, 9)]
    ticker.watched.discard(other)
    clock.advance(TICK)
    assert (len(one.ticks), len(other.ticks)) == (9, 8)
    ticker.stop()


def test_the_tickers_clock_is_that_of_its_last_tick() -> None:
    clock = Clock()
    clock.advance(1000)
    ticker = Ticker(clock)
    assert ticker.now == 1000
    clock.advance(5)
    ticker.start()
    assert ticker.now == 1005
    clock.advance(TICK / 2)
    assert ticker.now == 1005
    clock.advance(TICK / 2)
    assert ticker.now == 1005 + TICK
    ticker.stop()


def test_a_long_stall_is_one_tick() -> None:
    clock, one = Clock(), Watched()
    ticker = Ticker(clock)
    ticker.watched.add(one)
    ticker.start()
    clock.advance(100)
    assert one.ticks == [100]
    ticker.stop()


def test_a_ticker_that_was_stopped_leaves_nothing_behind_and_may_be_stopped_again() -> None:
    clock, one = Clock(), Watched()
    ticker = Ticker(clock)
    ticker.watched.add(one)
    ticker.stop()
    ticker.start()
    ticker.stop()
    ticker.stop()
    clock.pump([TICK] * 4)
    assert one.ticks == []
    assert clock.getDelayedCalls() == []


def test_what_is_watched_may_change_in_a_tick() -> None:
    clock, ones = Clock(), [Watched() for _ in range(5)]
    ticker = Ticker(clock)
    for one in ones:
        one.ticker = ticker
    ticker.watched.update(ones)
    ticker.start()
    clock.pump([TICK] * 3)
    assert {one.ticks[0] for one in ones if one.ticks} == {TICK}
    assert ticker.watched == set()
    ticker.stop()


def test_one_that_fails_in_its_tick_is_logged_and_does_not_stop_the_others(
    failures: list[LogEvent],
) -> None:
    clock, ones = Clock(), [Watched() for _ in range(5)]
    ones[2].error = RuntimeError("a defect")
    ticker = Ticker(clock)
    ticker.watched.update(ones)
    ticker.start()
    clock.pump([TICK] * 3)
    assert [len(one.ticks) for one in ones] == [3] * 5
    assert [event["log_failure"].value for event in failures] == [ones[2].error] * 3
    failures.clear()
    ticker.stop()
