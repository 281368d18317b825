"""One end of a tunnel, in memory and under a fake clock."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from goproxyai.errors import ProxyError
from goproxyai.http11.connection_deadlines import LINGER_SECONDS, READER_STALL_SECONDS
from goproxyai.http11.tunnel_end import TunnelEnd
from goproxyai.limits.request_memory import UNLIMITED, Holding, RequestMemory
from goproxyai.reactor.deadlines import TICK_SECONDS, Ticker
from goproxyai.reactor.write_batch import ImmediateWriter
from tests.support.memory_transport import MemoryTLSTransport, MemoryTransport


class Stand:
    """A :class:`.TunnelEnd` and its listener.

    :ivar events: what the listener was told.
    :ivar pauses: the listener pauses reading when it receives bytes.
    """

    def __init__(self, memory: int = UNLIMITED, early: bytes = b"", tls: bool = False) -> None:
        self.clock = Clock()
        self.ticker = Ticker(self.clock)
        self.ticker.start()
        self.memory = RequestMemory(memory)
        self.ticker.watched.add(self.memory)
        self.transport = MemoryTLSTransport() if tls else MemoryTransport()
        self.transport.pauseProducing()
        self.events: list[Any] = []
        self.pauses = False
        self.end = TunnelEnd(
            self.transport, ImmediateWriter(), self.ticker, Holding(self.memory), early
        )

    def start(self) -> Stand:
        self.end.start(self)
        return self

    def advance(self, seconds: float) -> None:
        self.clock.pump([TICK_SECONDS] * round(seconds / TICK_SECONDS))

    def block(self, unsent: int = 100_000) -> None:
        """Let the peer stop reading with *unsent* bytes in the transport."""
        self.transport.stalled = True
        self.end.write(bytes(unsent))
        self.end.pauseProducing()

    def received(self, data: bytes) -> None:
        self.events.append(data)
        if self.pauses:
            self.end.pause_reading()

    def input_ended(self) -> None:
        self.events.append("fin")

    def output_blocked(self) -> None:
        self.events.append("blocked")

    def output_writable(self) -> None:
        self.events.append("writable")

    def failed(self, problem: ProxyError) -> None:
        self.events.append(problem.code)

    def lost(self, orderly: bool) -> None:
        self.events.append("closed" if orderly else "reset")


def test_nothing_is_read_before_the_start() -> None:
    stand = Stand(early=b"early")
    assert not stand.transport.reading
    stand.end.receive(b"dropped")
    assert stand.events == []
    stand.start()
    assert (stand.events, stand.transport.reading) == ([b"early"], True)


def test_listener_may_pause_reading_at_the_early_bytes() -> None:
    stand = Stand(early=b"early")
    stand.pauses = True
    stand.start()
    stand.end.pause_reading()
    assert not stand.transport.reading
    stand.end.resume_reading()
    assert stand.transport.reading


def test_finish_half_closes_and_drops_later_writes() -> None:
    stand = Stand().start()
    stand.end.write(b"last")
    stand.end.finish()
    stand.end.finish()
    stand.end.write(b"late")
    assert (stand.transport.value(), stand.transport.half_closed) == (b"last", True)
    stand.end.receive(b"answer")
    assert stand.events == [b"answer"]


def test_fin_is_told_once_and_reading_is_never_resumed() -> None:
    stand = Stand().start()
    stand.end.pause_reading()
    stand.end.end_input()
    stand.end.end_input()
    stand.end.resume_reading()
    assert (stand.events, stand.transport.reading) == (["fin"], False)


def test_close_after_both_fins_closes_the_transport() -> None:
    stand = Stand().start()
    stand.end.end_input()
    stand.end.close()
    assert stand.transport.disconnecting


def test_close_discards_input_until_the_fin() -> None:
    stand = Stand().start()
    stand.end.pause_reading()
    stand.end.close()
    assert (stand.transport.reading, stand.transport.disconnecting) == (True, False)
    stand.end.receive(b"discarded")
    stand.end.end_input()
    assert (stand.events, stand.transport.disconnecting) == ([], True)


@pytest.mark.parametrize("tls", [False, True])
def test_connection_ends_if_the_peer_does_not_close(tls: bool) -> None:
    stand = Stand(tls=tls).start()
    stand.end.close()
    assert stand.transport.disconnecting is tls
    stand.advance(LINGER_SECONDS - TICK_SECONDS)
    assert (stand.transport.disconnecting, stand.transport.aborted) == (tls, False)
    stand.advance(2 * TICK_SECONDS)
    assert (stand.transport.disconnecting, stand.transport.aborted) == (True, tls)


@pytest.mark.parametrize("tls", [False, True])
def test_connection_stays_while_the_peer_reads_from_the_kernel(tls: bool) -> None:
    stand = Stand(tls=tls).start()
    stand.end.finish()
    with stand.transport.unread_by_peer() as peer:
        assert stand.end.is_delivering
        stand.end.close()
        stand.advance(READER_STALL_SECONDS - 5)
        assert (stand.transport.disconnecting, stand.transport.aborted) == (tls, False)
        peer.recv(1024)
        assert not stand.end.is_delivering
        stand.advance(LINGER_SECONDS - TICK_SECONDS)
        assert (stand.transport.disconnecting, stand.transport.aborted) == (tls, False)
        stand.advance(LINGER_SECONDS)
        assert (stand.transport.disconnecting, stand.transport.aborted) == (True, tls)


def test_peer_that_reads_nothing_after_the_fin_is_reset() -> None:
    stand = Stand().start()
    stand.end.finish()
    with stand.transport.unread_by_peer():
        stand.advance(READER_STALL_SECONDS + 1)
        assert stand.transport.aborted


def test_bytes_in_the_kernel_do_not_count_before_the_fin() -> None:
    stand = Stand().start()
    with stand.transport.unread_by_peer():
        assert not stand.end.is_delivering
        stand.advance(READER_STALL_SECONDS + 1)
        assert not stand.transport.aborted


def test_peer_that_still_reads_is_not_reset_while_it_closes() -> None:
    stand = Stand().start()
    stand.block()
    stand.end.close()
    for _ in range(20):
        stand.advance(LINGER_SECONDS)
        stand.transport.take(1000)
    assert not stand.transport.aborted
    stand.transport.take(100_000)
    stand.advance(2 * LINGER_SECONDS)
    assert stand.transport.disconnecting


def test_blocked_output_is_told_and_counted() -> None:
    stand = Stand().start()
    stand.block()
    assert stand.events == ["blocked"]
    assert stand.memory.used == 100_000
    stand.transport.take(60_000)
    stand.advance(TICK_SECONDS)
    assert stand.memory.used == 40_000
    stand.transport.take(40_000)
    stand.end.resumeProducing()
    stand.advance(TICK_SECONDS)
    assert stand.events == ["blocked", "writable"]
    assert stand.memory.used == 0


def test_peer_that_takes_nothing_is_reset() -> None:
    stand = Stand().start()
    stand.block()
    stand.advance(READER_STALL_SECONDS - 1)
    stand.transport.take(1)
    stand.advance(READER_STALL_SECONDS - 1)
    assert not stand.transport.aborted
    stand.advance(2)
    assert stand.transport.aborted


def test_standstill_postpones_the_stall() -> None:
    stand = Stand().start()
    stand.block()
    stand.advance(READER_STALL_SECONDS - 1)
    stand.clock.advance(100)
    stand.advance(2 * TICK_SECONDS)
    assert not stand.transport.aborted
    stand.advance(READER_STALL_SECONDS)
    assert stand.transport.aborted


def test_slow_reader_is_broken_off_above_the_budget_once() -> None:
    stand = Stand(memory=50_000).start()
    stand.block()
    stand.advance(2 * TICK_SECONDS)
    assert stand.transport.aborted
    assert (stand.memory.broken_off, stand.memory.used) == (1, 0)


def test_break_off_after_the_loss_does_nothing() -> None:
    stand = Stand().start()
    stand.end.connection_lost(Failure(ConnectionDone()))
    stand.end.abort()
    stand.end.close()
    stand.end.resume_reading()
    assert not stand.transport.aborted


@pytest.mark.parametrize(
    ("reason", "event"),
    [(ConnectionDone(), "closed"), (ConnectionLost(), "reset"), (ConnectionAborted(), "reset")],
)
def test_loss_releases_everything(reason: Exception, event: str) -> None:
    stand = Stand().start()
    stand.block()
    stand.end.connection_lost(Failure(reason))
    assert stand.events == ["blocked", event]
    assert stand.memory.used == 0
    assert stand.end not in stand.ticker.watched
    stand.end.pauseProducing()
    stand.end.resumeProducing()
    stand.end.stopProducing()
    assert stand.events == ["blocked", event]


def test_end_aborted_here_is_a_reset_for_the_listener() -> None:
    stand = Stand().start()
    stand.end.abort()
    stand.end.abort()
    stand.end.connection_lost(Failure(ConnectionDone()))
    assert stand.events == ["reset"]
