"""The lean turn of the reactor sees to what the old one saw to, and has an end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from twisted.python.failure import Failure

from goproxyai.reactor.lean_loop import end_of_turn_scheduler, install_lean_poll

Pairs = list[tuple[socket.socket, socket.socket]]


@pytest.fixture
def epoll(pairs: Pairs) -> Iterator[Any]:
    """A reactor of its own, turned by hand."""
    one = EPollReactor()
    install_lean_poll(one)
    yield one
    one.removeAll()
    one.waker.connectionLost(Failure(ConnectionDone()))
    one._poller.close()


@attrs.define(eq=False)
class End:
    """One end of a socket pair, watched by a reactor.

    :ivar outcome: what reading gives; an exception is raised.
    """

    socket: socket.socket
    outcome: Any = None
    did: list[str] = attrs.field(factory=list)
    then: Any = None

    def fileno(self) -> int:
        return self.socket.fileno()

    def logPrefix(self) -> str:
        return "End"

    def doRead(self) -> Any:
        self.did.append(f"read {self.socket.recv(10)!r}")
        if self.then is not None:
            self.then()
        if isinstance(self.outcome, (RuntimeError, SystemExit)):
            raise self.outcome
        return self.outcome

    def doWrite(self) -> Any:
        self.did.append("write")
        return self.outcome

    def connectionLost(self, reason: Failure) -> None:
        self.did.append(f"lost {type(reason.value).__name__}")

    readConnectionLost = connectionLost


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(2)]
    yield made
    for pair in made:
        for each in pair:
            each.close()


def test_what_is_readable_is_read_and_then_the_turn_ends(epoll: Any, pairs: Pairs) -> None:
    ends = [End(ours) for ours, _ in pairs]
    order: list[str] = []
    at_end = end_of_turn_scheduler(epoll)
    for end, (_, theirs) in zip(ends, pairs, strict=True):
        end.then = lambda: (order.append("read"), at_end(lambda: order.append("end")))
        epoll.addReader(end)
        theirs.send(b"hi")
    epoll.doIteration(1)
    assert [end.did for end in ends] == [["read b'hi'"]] * 2
    assert order == ["read", "read", "end", "end"]
    epoll.doIteration(0)
    assert len(order) == 4


def test_what_is_writable_is_written_to(epoll: Any, pairs: Pairs) -> None:
    end = End(pairs[0][0])
    epoll.addWriter(end)
    epoll.doIteration(1)
    assert end.did == ["write"]


def test_what_ends_is_told_so(epoll: Any, pairs: Pairs) -> None:
    (ours, theirs), _ = pairs
    end = End(ours, outcome=CONNECTION_DONE)
    epoll.addReader(end)
    theirs.send(b"bye")
    epoll.doIteration(1)
    assert end.did == ["read b'bye'", "lost ConnectionDone"]
    assert end not in epoll.getReaders()


@pytest.mark.parametrize("planted", [RuntimeError, SystemExit])
def test_one_that_raises_is_disconnected_and_the_others_are_read(
    epoll: Any, pairs: Pairs, failures: list[LogEvent], planted: type[BaseException]
) -> None:
    bad, good = End(pairs[0][0], outcome=planted("planted")), End(pairs[1][0])
    for end, (_, theirs) in zip((bad, good), pairs, strict=True):
        epoll.addReader(end)
        theirs.send(b"x")
    epoll.doIteration(1)
    assert bad.did == ["read b'x'", f"lost {planted.__name__}"]
    assert good.did == ["read b'x'"]
    assert [event["log_format"] for event in failures] == ["a defect while seeing to a connection"]
    failures.clear()


def test_one_that_another_removed_in_the_same_turn_is_left_alone(epoll: Any, pairs: Pairs) -> None:
    ends = [End(ours) for ours, _ in pairs]
    ends[0].then = lambda: epoll.removeReader(ends[1])
    ends[1].then = lambda: epoll.removeReader(ends[0])
    for end, (_, theirs) in zip(ends, pairs, strict=True):
        epoll.addReader(end)
        theirs.send(b"x")
    epoll.doIteration(1)
    assert sorted(len(end.did) for end in ends) == [0, 1]


def test_what_a_timer_asked_for_does_not_wait_for_an_event(epoll: Any, pairs: Pairs) -> None:
    ours, theirs = pairs[0]
    end = End(ours)
    epoll.addReader(end)
    end_of_turn_scheduler(epoll)(lambda: theirs.send(b"x"))
    epoll.doIteration(60)
    assert end.did == ["read b'x'"]


def test_one_end_that_fails_keeps_no_other_from_its_turn(
    epoll: Any, failures: list[LogEvent]
) -> None:
    order: list[str] = []
    at_end = end_of_turn_scheduler(epoll)
    at_end(lambda: order.append("first"))
    at_end(lambda: order[99])
    at_end(lambda: order.append("last"))
    epoll.doIteration(0)
    assert order == ["first", "last"]
    assert [event["log_format"] for event in failures] == ["a defect at the end of a turn"]
    failures.clear()


def test_a_reactor_is_made_lean_once(epoll: Any) -> None:
    called: list[bool] = []
    at_end = end_of_turn_scheduler(epoll)
    install_lean_poll(epoll)
    at_end(lambda: called.append(True))
    epoll.doIteration(0)
    assert called == [True]


def test_another_reactor_keeps_its_own_turn() -> None:
    clock, called = Clock(), []
    install_lean_poll(clock)
    end_of_turn_scheduler(clock)(lambda: called.append(True))
    assert called == []
    clock.advance(0)
    assert called == [True]
