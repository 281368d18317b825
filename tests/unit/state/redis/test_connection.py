"""One connection to Redis: order, deadlines, bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from twisted.python.failure import Failure

from goproxyai.state.redis import connection as connection_module
from goproxyai.state.redis.connection import (
    MAX_ELEMENTS,
    MAX_IN_FLIGHT,
    MAX_IN_FLIGHT_BYTES,
    MAX_REPLY_BYTES,
    CommandFailed,
    RedisConnection,
)
from tests.support.memory_redis import published
from tests.support.memory_transport import MemoryTransport


class Fixture:
    def __init__(self) -> None:
        self.clock = Clock()
        self.replies: list[Any] = []
        self.problems: list[str] = []
        self.messages: list[bytes] = []
        self.connection = RedisConnection(self.clock, self, 0.05)
        self.transport = MemoryTransport()
        self.connection.makeConnection(self.transport)

    def connection_failed(self, connection: RedisConnection, problem: str) -> None:
        assert connection is self.connection
        self.problems.append(problem)

    def message(self, payload: bytes) -> None:
        self.messages.append(payload)

    def send(self, *arguments: Any) -> None:
        self.connection.send(self.replies.append, *arguments)

    def receive(self, data: bytes) -> None:
        self.connection.dataReceived(data)

    def results(self) -> list[str]:
        return [each.result for each in self.replies]


@pytest.fixture
def fixture() -> Fixture:
    return Fixture()


def test_commands_are_pipelined_and_replies_are_in_order(fixture: Fixture) -> None:
    fixture.send("GET", b"a")
    fixture.send("GET", b"b")
    assert fixture.transport.value() == (
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n"
    )
    fixture.receive(b"$1\r\nx\r\n$-1\r\n")
    assert fixture.replies == [b"x", None]


@given(cuts=st.lists(st.integers(0, 60)))
def test_replies_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    fixture = Fixture()
    data = b"*2\r\n:7\r\n:0\r\n$3\r\na\r\n\r\n" + published(b"m") + b"-ERR no\r\n"
    for _ in range(3):
        fixture.send("PING")
    ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for begin, end in zip([0, *ends], ends, strict=False):
        fixture.receive(data[begin:end])
    assert fixture.replies[:2] == [[7, 0], b"a\r\n"]
    assert str(fixture.replies[2]) == "ERR no"
    assert fixture.messages == [b"m"]


def test_connection_ends_if_the_oldest_reply_is_late(fixture: Fixture) -> None:
    fixture.send("PING")
    fixture.clock.advance(0.03)
    fixture.send("PING")
    fixture.receive(b"+PONG\r\n")
    fixture.clock.advance(0.03)
    assert fixture.problems == []
    fixture.clock.advance(0.02)
    fixture.clock.advance(0)
    assert fixture.problems == ["Redis did not reply in time"]
    assert fixture.transport.aborted
    assert [type(each) for each in fixture.replies] == [bytes, CommandFailed]
    assert fixture.replies[1].result == "late"


def test_reply_that_arrives_in_the_read_after_the_deadline_counts(fixture: Fixture) -> None:
    fixture.send("PING")
    fixture.clock.callLater(0.05, fixture.receive, b"+PONG\r\n")
    fixture.clock.advance(0.05)
    assert (fixture.replies, fixture.problems) == ([b"PONG"], [])


def test_owner_is_told_before_commands_fail(fixture: Fixture) -> None:
    order: list[str] = []
    fixture.connection.send(lambda _: order.append(str(len(fixture.problems))), "PING")
    fixture.connection.connectionLost(Failure(ConnectionLost()))
    assert order == ["1"]
    assert fixture.problems[0].startswith("ConnectionLost: ")
    assert fixture.clock.getDelayedCalls() == []


def test_commands_beyond_the_bound_are_refused(fixture: Fixture) -> None:
    for _ in range(MAX_IN_FLIGHT + 1):
        fixture.send("PING")
    assert fixture.results() == ["refused"]
    fixture.receive(b"+PONG\r\n")
    fixture.send("PING")
    assert len(fixture.replies) == 2


def test_bytes_beyond_the_bound_are_refused(fixture: Fixture) -> None:
    half = b"x" * (MAX_IN_FLIGHT_BYTES // 2)
    fixture.send("SET", b"a", half)
    fixture.send("SET", b"b", half)
    assert fixture.results() == ["refused"]
    fixture.receive(b"+OK\r\n")
    fixture.send("SET", b"b", half)
    assert len(fixture.replies) == 2


def test_commands_fail_on_a_closed_connection(fixture: Fixture) -> None:
    fixture.send("PING")
    fixture.connection.close()
    fixture.send("PING")
    assert fixture.results() == ["lost", "lost"]
    assert fixture.problems == []
    assert fixture.transport.disconnecting
    fixture.receive(b"+PONG\r\n")  # ignored
    fixture.connection.connectionLost()
    fixture.connection.fail("again")
    assert fixture.problems == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "the server does not speak the protocol of Redis"),
        (b"*%d\r\n" % (MAX_ELEMENTS + 1), "Redis sent an array that is too long"),
        (b"*99999999999\r\n", "Redis sent an array that is too long"),
        (b"$%d\r\n%b" % (2**30, b"x" * MAX_REPLY_BYTES), "Redis sent a reply that is too large"),
        (b"+OK\r\n+OK\r\n", "Redis sent a reply to no command"),
    ],
)
def test_invalid_or_large_reply_ends_the_connection(
    fixture: Fixture, data: bytes, problem: str
) -> None:
    fixture.send("PING")
    fixture.receive(data)
    assert fixture.problems == [problem]
    assert fixture.transport.aborted


def test_large_reply_in_many_pieces_ends_the_connection(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_REPLY_BYTES", 1000)
    fixture.send("GET", b"a")
    fixture.receive(b"$100000\r\n")
    for _ in range(9):
        fixture.receive(b"x" * 100)
    assert fixture.problems == []
    fixture.receive(b"x" * 200)
    assert fixture.problems == ["Redis sent a reply that is too large"]


def test_failing_callback_does_not_affect_other_replies(
    fixture: Fixture, failures: list[LogEvent]
) -> None:
    def fails(_: object) -> None:
        raise ValueError("planted")

    fixture.connection.send(fails, "PING")
    fixture.send("PING")
    fixture.receive(b"+PONG\r\n+PONG\r\n")
    assert fixture.replies == [b"PONG"]
    assert len(failures) == 1
    failures.clear()


def test_deadline_of_later_commands_can_be_shortened(fixture: Fixture) -> None:
    fixture.connection.expect_within(2.0)
    fixture.send("PING")
    fixture.receive(b"+PONG\r\n")
    fixture.connection.expect_within(0.05)
    fixture.send("PING")
    fixture.clock.advance(0.05)
    assert [type(each) for each in fixture.replies] == [bytes, CommandFailed]


def test_deadline_of_one_command_can_be_longer(fixture: Fixture) -> None:
    fixture.connection.send(fixture.replies.append, "PING", seconds=1.0)
    fixture.clock.advance(0.5)
    assert fixture.problems == []
    fixture.send("PING")
    fixture.clock.advance(0.05)
    assert fixture.results() == ["late", "late"]
