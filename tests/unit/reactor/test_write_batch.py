"""Small writes of one reactor turn leave together, and in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent

from goproxyai.reactor.lean_loop import end_of_turn_scheduler
from goproxyai.reactor.write_batch import LARGE, MAX_BATCH_BYTES, ImmediateWriter, WriteBatcher


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(clock: Clock) -> WriteBatcher:
    return WriteBatcher(end_of_turn_scheduler(clock))


def test_the_first_write_of_a_turn_goes_out_at_once(outbox: WriteBatcher) -> None:
    transport = StringTransport()
    outbox.write(transport, b"alone")
    assert transport.value() == b"alone"


def test_those_behind_it_go_out_when_the_turn_ends(outbox: WriteBatcher, clock: Clock) -> None:
    first, second = StringTransport(), StringTransport()
    outbox.write(first, b"a")
    outbox.write(second, b"b")
    outbox.write(first, b"c")
    assert (first.value(), second.value()) == (b"a", b"")
    clock.advance(0)
    assert (first.value(), second.value()) == (b"ac", b"b")
    assert clock.getDelayedCalls() == []


def test_the_next_turn_begins_anew(outbox: WriteBatcher, clock: Clock) -> None:
    transport = StringTransport()
    outbox.write(transport, b"a")
    clock.advance(0)
    outbox.write(transport, b"b")
    assert transport.value() == b"ab"


def test_a_large_write_takes_what_waits_along(outbox: WriteBatcher) -> None:
    transport, other = StringTransport(), StringTransport()
    outbox.write(transport, b"a")
    outbox.write(transport, b"b")
    outbox.write(other, b"c")
    outbox.write(transport, b"d" * LARGE)
    assert transport.value() == b"ab" + b"d" * LARGE
    assert other.value() == b"c"


def test_no_more_waits_than_the_bound(outbox: WriteBatcher) -> None:
    transport = StringTransport()
    piece = b"x" * (LARGE - 1)
    sent = 0
    for _ in range(200):
        outbox.write(transport, piece)
        sent += len(piece)
        assert sent - len(transport.value()) < MAX_BATCH_BYTES + LARGE


def test_a_flush_writes_what_waits(outbox: WriteBatcher, clock: Clock) -> None:
    transport = StringTransport()
    outbox.write(transport, b"a")
    outbox.write(transport, b"b")
    outbox.flush()
    assert transport.value() == b"ab"
    clock.advance(0)
    assert transport.value() == b"ab"


def test_one_transport_that_fails_does_not_keep_the_others(
    outbox: WriteBatcher, clock: Clock, failures: list[LogEvent]
) -> None:
    class Broken(StringTransport):
        def write(self, data: bytes) -> None:
            raise RuntimeError("planted")

    good = StringTransport()
    outbox.write(good, b"a")
    outbox.write(Broken(), b"b")
    outbox.write(good, b"c")
    clock.advance(0)
    assert good.value() == b"ac"
    assert len(failures) == 1
    failures.clear()


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=40), st.booleans())))
def test_every_transport_gets_its_bytes_in_order(
    writes: list[tuple[int, bytes, bool]],
) -> None:
    clock = Clock()
    outbox = WriteBatcher(end_of_turn_scheduler(clock))
    transports = [StringTransport() for _ in range(3)]
    wanted = [b"", b"", b""]
    for which, data, turn in writes:
        outbox.write(transports[which], data)
        wanted[which] += data
        if turn:
            clock.advance(0)
    clock.advance(0)
    assert [transport.value() for transport in transports] == wanted


def test_the_direct_writer_keeps_nothing() -> None:
    transport = StringTransport()
    writer = ImmediateWriter()
    writer.write(transport, b"a")
    writer.write(transport, b"b")
    assert transport.value() == b"ab"
    writer.flush()
