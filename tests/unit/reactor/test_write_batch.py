"""Batched writes: order, limits, errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent

from goproxyai.reactor.lean_loop import end_of_turn_scheduler
from goproxyai.reactor.write_batch import (
    MAX_BATCH_BYTES,
    MIN_UNBATCHED_BYTES,
    ImmediateWriter,
    WriteBatcher,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def batcher(clock: Clock) -> WriteBatcher:
    return WriteBatcher(end_of_turn_scheduler(clock))


def test_first_write_of_a_turn_is_sent_at_once(batcher: WriteBatcher) -> None:
    transport = StringTransport()
    batcher.write(transport, b"alone")
    assert transport.value() == b"alone"


def test_later_writes_of_a_turn_are_sent_at_its_end(batcher: WriteBatcher, clock: Clock) -> None:
    first, second = StringTransport(), StringTransport()
    batcher.write(first, b"a")
    batcher.write(second, b"b")
    batcher.write(first, b"c")
    assert (first.value(), second.value()) == (b"a", b"")
    clock.advance(0)
    assert (first.value(), second.value()) == (b"ac", b"b")
    assert clock.getDelayedCalls() == []


def test_next_turn_sends_its_first_write_at_once(batcher: WriteBatcher, clock: Clock) -> None:
    transport = StringTransport()
    batcher.write(transport, b"a")
    clock.advance(0)
    batcher.write(transport, b"b")
    assert transport.value() == b"ab"


def test_large_write_flushes_the_batch(batcher: WriteBatcher) -> None:
    transport, other = StringTransport(), StringTransport()
    large = b"d" * MIN_UNBATCHED_BYTES
    batcher.write(transport, b"a")
    batcher.write(transport, b"b")
    batcher.write(other, b"c")
    batcher.write(transport, large)
    assert transport.value() == b"ab" + large
    assert other.value() == b"c"


def test_batch_is_bounded(batcher: WriteBatcher) -> None:
    transport = StringTransport()
    piece = b"x" * (MIN_UNBATCHED_BYTES - 1)
    written = 0
    for _ in range(200):
        batcher.write(transport, piece)
        written += len(piece)
        assert written - len(transport.value()) < MAX_BATCH_BYTES + MIN_UNBATCHED_BYTES


def test_flush_sends_the_batch(batcher: WriteBatcher, clock: Clock) -> None:
    transport = StringTransport()
    batcher.write(transport, b"a")
    batcher.write(transport, b"b")
    batcher.flush()
    assert transport.value() == b"ab"
    clock.advance(0)
    assert transport.value() == b"ab"


def test_error_of_one_transport_does_not_stop_the_others(
    batcher: WriteBatcher, clock: Clock, failures: list[LogEvent]
) -> None:
    class BrokenTransport(StringTransport):
        def write(self, data: bytes) -> None:
            raise RuntimeError("planted")

    good = StringTransport()
    batcher.write(good, b"a")
    batcher.write(BrokenTransport(), b"b")
    batcher.write(good, b"c")
    clock.advance(0)
    assert good.value() == b"ac"
    assert [event["log_format"] for event in failures] == ["unhandled error in a write"]
    failures.clear()


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=40), st.booleans())))
def test_each_transport_gets_its_bytes_in_order(writes: list[tuple[int, bytes, bool]]) -> None:
    clock = Clock()
    batcher = WriteBatcher(end_of_turn_scheduler(clock))
    transports = [StringTransport() for _ in range(3)]
    expected = [b"", b"", b""]
    for index, data, turn in writes:
        batcher.write(transports[index], data)
        expected[index] += data
        if turn:
            clock.advance(0)
    clock.advance(0)
    assert [transport.value() for transport in transports] == expected


def test_immediate_writer_has_no_batch() -> None:
    transport = StringTransport()
    writer = ImmediateWriter()
    writer.write(transport, b"a")
    writer.write(transport, b"b")
    assert transport.value() == b"ab"
    writer.flush()
