from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from goproxyai.http11.sliced_body import SLICE_BYTES, TURN_BYTES, SlicedBody
from tests.support.memory_server import BodyConsumer, results_of

BODY = bytes(range(256)) * 1024


def test_body_is_written_in_slices() -> None:
    body = SlicedBody(BODY, Clock())
    consumer = BodyConsumer(body)
    assert results_of(body.startProducing(consumer)) == [None]
    assert consumer.data == BODY
    assert {len(piece) for piece in consumer.writes} == {SLICE_BYTES}


@given(st.integers(1, len(BODY)), st.integers(1, len(BODY)))
def test_body_is_complete_however_its_consumer_pauses(size: int, pause_after: int) -> None:
    body = SlicedBody(BODY[:size], Clock())
    consumer = BodyConsumer(body, pause_after)
    results = results_of(body.startProducing(consumer))
    while not results:
        assert len(consumer.data) < consumer.pause_after + SLICE_BYTES
        consumer.pause_after = len(consumer.data) + pause_after
        body.resumeProducing()
    assert consumer.data == BODY[:size]


def test_stopped_body_writes_nothing_more() -> None:
    body = SlicedBody(BODY, Clock())
    consumer: Any = BodyConsumer(body, 1)
    results = results_of(body.startProducing(consumer))
    body.stopProducing()
    body.resumeProducing()
    assert consumer.data == BODY[:SLICE_BYTES]
    assert results == []


def test_large_body_is_written_in_several_turns() -> None:
    clock = Clock()
    body = SlicedBody(bytes(TURN_BYTES * 2), clock)
    consumer = BodyConsumer(body)
    results = results_of(body.startProducing(consumer))
    assert len(consumer.data) == TURN_BYTES
    body.resumeProducing()
    assert len(consumer.data) == TURN_BYTES
    clock.advance(0)
    assert results == [None]
    assert len(consumer.data) == TURN_BYTES * 2


def test_body_stopped_between_two_turns_leaves_no_call() -> None:
    clock = Clock()
    body = SlicedBody(bytes(TURN_BYTES * 2), clock)
    body.startProducing(BodyConsumer(body))
    body.stopProducing()
    assert clock.getDelayedCalls() == []
