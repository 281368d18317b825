"""Messages with records over a link that the test drives."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxyai.state.messages import Done, EndClaim, Found, FrameError, Message, Part, Store, Taken
from goproxyai.state.record_queue import (
    MAX_MESSAGE_BYTES,
    MAX_QUEUED_BYTES,
    PART_BYTES,
    WINDOW_BYTES,
    RecordQueue,
    RecordReader,
)


class Link:
    """Both ends, and what is on the way between them."""

    def __init__(self) -> None:
        self.on_the_way: deque[Message] = deque()
        self.queue = RecordQueue(self.on_the_way.append)
        self.acknowledged: deque[Taken] = deque()
        self.reader = RecordReader(self.acknowledged.append)  # type: ignore[arg-type]
        self.received: list[Message] = []

    @property
    def bytes_on_the_way(self) -> int:
        sizes = {Part: lambda each: len(each.data), Found: lambda each: len(each.record)}
        return sum(sizes[type(each)](each) for each in self.on_the_way)

    def read(self) -> None:
        message = self.on_the_way.popleft()
        assert isinstance(message, (Found, Part))
        complete = self.reader.add(message)
        if complete is not None:
            self.received.append(complete)

    def acknowledge(self) -> None:
        while self.acknowledged:
            self.queue.taken(self.acknowledged.popleft().size)

    def read_all(self) -> None:
        while self.on_the_way:
            self.read()
            self.acknowledge()


sizes = st.integers(0, 3 * PART_BYTES) | st.sampled_from(
    [PART_BYTES - 200, PART_BYTES - 199, PART_BYTES, 2 * PART_BYTES, 5 * PART_BYTES]
)


@given(st.lists(sizes, max_size=12), st.data())
def test_records_arrive_in_order_and_the_window_is_kept(
    lengths: list[int], data: st.DataObject
) -> None:
    link = Link()
    sent = [Found(number, bytes(length)) for number, length in enumerate(lengths)]
    for message in sent:
        assert link.queue.add(message)
        assert link.bytes_on_the_way <= WINDOW_BYTES
        if link.on_the_way and data.draw(st.booleans()):
            link.read()
        if data.draw(st.booleans()):
            link.acknowledge()
    link.acknowledge()
    link.read_all()
    assert link.received == sent
    assert link.queue._queued == 0


def test_record_beyond_the_bound_is_not_sent() -> None:
    link = Link()
    assert not link.queue.add(Store(1, 0, bytes(MAX_MESSAGE_BYTES)))
    assert not link.on_the_way
    accepted = 0
    while link.queue.add(Found(1, bytes(MAX_MESSAGE_BYTES // 4))):
        accepted += 1
    assert link.queue._queued <= MAX_QUEUED_BYTES
    assert accepted >= MAX_QUEUED_BYTES // (MAX_MESSAGE_BYTES // 4) - 1
    link.read_all()
    assert len(link.received) == accepted
    assert link.queue.add(Found(2, b""))


def test_cleared_queue_sends_nothing_more() -> None:
    link = Link()
    for number in range(9):
        link.queue.add(Found(number, bytes(PART_BYTES)))
    link.queue.clear()
    on_the_way = len(link.on_the_way)
    link.queue.taken(WINDOW_BYTES)
    assert len(link.on_the_way) == on_the_way


def test_endless_parts_are_refused() -> None:
    reader = RecordReader(lambda _: None)
    part = Part(bytes(PART_BYTES), False)
    for _ in range(MAX_MESSAGE_BYTES // PART_BYTES + 1):
        assert reader.add(part) is None
    with pytest.raises(FrameError, match="more than"):
        reader.add(part)


def test_parts_that_are_no_message_are_refused() -> None:
    reader = RecordReader(lambda _: None)
    with pytest.raises(FrameError, match="invalid"):
        reader.add(Part(b"\xc1", True))


def test_parts_of_any_message_are_joined() -> None:
    from goproxyai.state.messages import encode

    reader = RecordReader(lambda _: None)
    payload = encode(Done(7))
    assert reader.add(Part(payload[:1], False)) is None
    assert reader.add(Part(payload[1:], True)) == Done(7)


def test_message_after_records_follows_those_that_wait() -> None:
    link = Link()
    last = EndClaim(1, False)
    link.queue.add_last(last)
    assert link.on_the_way.popleft() == last
    assert link.queue.add(Found(1, bytes(4 * PART_BYTES)))
    link.queue.add_last(last)
    while link.on_the_way[0] != last:
        link.read()
        link.acknowledge()
    assert [type(each) for each in link.received] == [Found]
