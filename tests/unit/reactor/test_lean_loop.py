"""The lean iteration of the epoll reactor: dispatch, errors, end-of-turn calls, fallbacks."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, eventAsText
from twisted.python.failure import Failure

from goproxyai.reactor import lean_loop
from goproxyai.reactor.lean_loop import PRIVATE_NAMES, end_of_turn_scheduler, install_lean_poll

Pairs = list[tuple[socket.socket, socket.socket]]


@pytest.fixture
def epoll(pairs: Pairs) -> Iterator[Any]:
    """A separate reactor with the lean iteration; the test calls ``doIteration``."""
    reactor: Any = EPollReactor()
    assert install_lean_poll(reactor)
    yield reactor
    reactor.removeAll()
    reactor.waker.connectionLost(Failure(ConnectionDone()))
    reactor._poller.close()


@attrs.define(eq=False)
class Selectable:
    """A socket that a reactor watches.

    :ivar outcome: the result of reading and writing; an exception is raised.
    :ivar calls: the calls of the reactor.
    :ivar on_read: called after each read.
    """

    socket: socket.socket
    outcome: Any = None
    calls: list[str] = attrs.field(factory=list)
    on_read: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        return self.socket.fileno()

    def logPrefix(self) -> str:
        return "Selectable"

    def doRead(self) -> Any:
        self.calls.append(f"read {self.socket.recv(10)!r}")
        self.on_read()
        if isinstance(self.outcome, (RuntimeError, SystemExit)):
            raise self.outcome
        return self.outcome

    def doWrite(self) -> Any:
        self.calls.append("write")
        return self.outcome

    def connectionLost(self, reason: Failure) -> None:
        self.calls.append(f"lost {type(reason.value).__name__}")

    readConnectionLost = connectionLost


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    made = [socket.socketpair() for _ in range(2)]
    yield made
    for pair in made:
        for each in pair:
            each.close()


def test_readable_sockets_are_read_before_the_turn_ends(epoll: Any, pairs: Pairs) -> None:
    selectables = [Selectable(ours) for ours, _ in pairs]
    order: list[str] = []
    at_end = end_of_turn_scheduler(epoll)
    for selectable, (_, peer) in zip(selectables, pairs, strict=True):
        selectable.on_read = lambda: (order.append("read"), at_end(lambda: order.append("end")))
        epoll.addReader(selectable)
        peer.send(b"hi")
    epoll.doIteration(1)
    assert [each.calls for each in selectables] == [["read b'hi'"]] * 2
    assert order == ["read", "read", "end", "end"]
    epoll.doIteration(0)
    assert len(order) == 4


def test_turn_has_a_bounded_number_of_events(
    epoll: Any, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_loop, "MAX_EVENTS_PER_TURN", 1)
    selectables = [Selectable(ours) for ours, _ in pairs]
    for selectable, (_, peer) in zip(selectables, pairs, strict=True):
        epoll.addReader(selectable)
        peer.send(b"x" * 20)  # two reads
    for _ in range(2):
        before = [len(each.calls) for each in selectables]
        epoll.doIteration(1)
        assert sum(len(each.calls) for each in selectables) == sum(before) + 1
        epoll.doIteration(1)
        assert [len(each.calls) for each in selectables] == [count + 1 for count in before]


def test_writable_socket_is_written_to(epoll: Any, pairs: Pairs) -> None:
    selectable = Selectable(pairs[0][0])
    epoll.addWriter(selectable)
    epoll.doIteration(1)
    assert selectable.calls == ["write"]


def test_read_that_ends_the_connection_disconnects(epoll: Any, pairs: Pairs) -> None:
    (ours, peer), _ = pairs
    selectable = Selectable(ours, outcome=CONNECTION_DONE)
    epoll.addReader(selectable)
    peer.send(b"bye")
    epoll.doIteration(1)
    assert selectable.calls == ["read b'bye'", "lost ConnectionDone"]
    assert selectable not in epoll.getReaders()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_selectable_that_raises_is_disconnected_and_the_others_are_read(
    epoll: Any, pairs: Pairs, failures: list[LogEvent], error: type[BaseException]
) -> None:
    bad, good = Selectable(pairs[0][0], outcome=error("planted")), Selectable(pairs[1][0])
    for selectable, (_, peer) in zip((bad, good), pairs, strict=True):
        epoll.addReader(selectable)
        peer.send(b"x")
    epoll.doIteration(1)
    assert bad.calls == ["read b'x'", f"lost {error.__name__}"]
    assert good.calls == ["read b'x'"]
    assert [event["log_format"] for event in failures] == ["unhandled error in a connection"]
    failures.clear()


def test_selectable_removed_in_the_same_turn_is_skipped(epoll: Any, pairs: Pairs) -> None:
    selectables = [Selectable(ours) for ours, _ in pairs]
    selectables[0].on_read = lambda: epoll.removeReader(selectables[1])
    selectables[1].on_read = lambda: epoll.removeReader(selectables[0])
    for selectable, (_, peer) in zip(selectables, pairs, strict=True):
        epoll.addReader(selectable)
        peer.send(b"x")
    epoll.doIteration(1)
    assert sorted(len(each.calls) for each in selectables) == [0, 1]


def test_end_of_turn_call_of_a_timer_does_not_wait_for_an_event(epoll: Any, pairs: Pairs) -> None:
    ours, peer = pairs[0]
    selectable = Selectable(ours)
    epoll.addReader(selectable)
    end_of_turn_scheduler(epoll)(lambda: peer.send(b"x"))
    epoll.doIteration(60)
    assert selectable.calls == ["read b'x'"]


def test_error_in_an_end_of_turn_call_is_logged_and_the_others_run(
    epoll: Any, failures: list[LogEvent]
) -> None:
    order: list[str] = []
    at_end = end_of_turn_scheduler(epoll)
    at_end(lambda: order.append("first"))
    at_end(lambda: order[99])
    at_end(lambda: order.append("last"))
    epoll.doIteration(0)
    assert order == ["first", "last"]
    assert [event["log_format"] for event in failures] == ["unhandled error in an end-of-turn call"]
    failures.clear()


def test_second_install_changes_nothing(epoll: Any) -> None:
    calls: list[bool] = []
    at_end = end_of_turn_scheduler(epoll)
    assert install_lean_poll(epoll)
    at_end(lambda: calls.append(True))
    epoll.doIteration(0)
    assert calls == [True]


# Reactors without the lean iteration.


def test_other_reactor_keeps_its_iteration() -> None:
    clock, calls = Clock(), []
    assert not install_lean_poll(clock)
    end_of_turn_scheduler(clock)(lambda: calls.append(True))
    assert calls == []
    clock.advance(0)
    assert calls == [True]


class LaterEPollReactor:
    """The epoll reactor of a Twisted release that has renamed private attributes."""

    def __init__(self, missing: str) -> None:
        for name in PRIVATE_NAMES:
            if name != missing:
                setattr(self, name, None)
        self.calls: list[Callable[[], object]] = []

    def callLater(self, _: float, call: Callable[[], object]) -> None:
        self.calls.append(call)

    def doIteration(self) -> None:
        pass


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_epoll_reactor_without_a_private_name_keeps_its_iteration(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(lean_loop, "EPollReactor", LaterEPollReactor)
    reactor = LaterEPollReactor(name)
    with capturedLogs() as events:
        assert not install_lean_poll(reactor)
    (line,) = [eventAsText(event, includeTimestamp=False) for event in events]
    assert f"has no {name} in tests.unit.reactor.test_lean_loop.LaterEPollReactor" in line
    assert "doIteration" not in vars(reactor)
    end_of_turn_scheduler(reactor)(print)
    assert reactor.calls == [print]
