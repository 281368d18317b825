"""A worker as its parent sees it: descriptors, the start and the end."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from goproxyai.daemon.worker_process import (
    CHANNEL_DESCRIPTOR,
    WorkerEvents,
    WorkerProcess,
    WorkerSetup,
    WorkerState,
)
from goproxyai.state.messages import (
    Ask,
    Drain,
    Failed,
    FrameReader,
    Message,
    PassedSocket,
    Started,
    Welcome,
    frame,
)
from goproxyai.worker import receive_welcome


class Events(WorkerEvents):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def received(self, worker: WorkerProcess, message: Message) -> None:
        self.seen.append(message)

    def started(self, worker: WorkerProcess) -> None:
        self.seen.append("started")

    def ended(self, worker: WorkerProcess, clean: bool, how: str) -> None:
        self.seen.append((clean, how))


class Reactor:
    """Keeps what a process would have inherited, and connects to memory."""

    pid = 77

    def __init__(self) -> None:
        self.descriptors: dict[int, int] = {}
        self.arguments: list[str] = []
        self.environment: dict[str, str] = {}
        self.signals: list[int] = []
        self.transport = StringTransport()

    def spawnProcess(
        self, protocol: Any, executable: str, args: list[str], env: Any, childFDs: Any
    ) -> Reactor:
        self.arguments, self.environment = args, env
        self.descriptors = {number: os.dup(each) for number, each in childFDs.items()}
        return self

    def signalProcess(self, number: int) -> None:
        self.signals.append(number)

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        factory.buildProtocol(None).makeConnection(self.transport)

    def close(self) -> None:
        for each in self.descriptors.values():
            os.close(each)
        self.descriptors = {}


class Fixture:
    def __init__(self) -> None:
        self.reactor, self.events = Reactor(), Events()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.null = os.open(os.devnull, os.O_RDWR)
        welcome = Welcome(
            "1.0", 3, {"PORT": "1"}, "/", b"id", "", self.null, 0,
            [PassedSocket("tcp:1", self.listening.fileno())], [],
        )  # fmt: skip
        self.worker = WorkerProcess(2, WorkerSetup(welcome), self.events, 5.0)

    def spawned(self) -> socket.socket:
        """Spawn, and return the worker's end of the channel."""
        self.worker.spawn(self.reactor)
        return socket.socket(fileno=self.reactor.descriptors.pop(CHANNEL_DESCRIPTOR))

    def close(self) -> None:
        self.listening.close()
        os.close(self.null)
        self.reactor.close()
        if self.worker._socket is not None:
            self.worker._socket.close()


@pytest.fixture
def fixture() -> Iterator[Fixture]:
    fixture = Fixture()
    yield fixture
    fixture.close()


def test_worker_inherits_the_sockets_that_its_welcome_names(fixture: Fixture) -> None:
    with fixture.spawned() as theirs:
        welcome = receive_welcome(theirs)
        assert (welcome.workers, welcome.index, welcome.options) == (3, 1, {"PORT": "1"})
        ((passed,), descriptors) = welcome.sockets, fixture.reactor.descriptors
        assert sorted(descriptors) == [0, 1, 2, welcome.shared, passed.descriptor]
        with socket.socket(fileno=os.dup(descriptors[passed.descriptor])) as inherited:
            assert inherited.getsockname() == fixture.listening.getsockname()
    assert fixture.worker.pid == 77
    assert fixture.reactor.arguments[1:] == ["-P", "-m", "goproxyai.worker"]
    assert os.path.isdir(fixture.reactor.environment["PYTHONPATH"].split(os.pathsep)[0])


def test_start_is_waited_for(fixture: Fixture) -> None:
    with fixture.spawned() as theirs:
        theirs.sendall(frame(Started()))
        assert fixture.worker.wait_until_started(time.monotonic() + 10) == ""
    assert fixture.worker.state is WorkerState.SERVING


def test_problem_of_the_start_is_returned(fixture: Fixture) -> None:
    with fixture.spawned() as theirs:
        theirs.sendall(frame(Failed("no certificate")))
        assert fixture.worker.wait_until_started(time.monotonic() + 10) == "no certificate"


def test_end_during_the_start_is_a_problem(fixture: Fixture) -> None:
    fixture.spawned().close()  # the welcome is not read: the connection is reset
    problem = fixture.worker.wait_until_started(time.monotonic() + 10)
    assert problem == "the worker process ended during its start"


def test_start_that_takes_too_long_is_a_problem(fixture: Fixture) -> None:
    with fixture.spawned():
        problem = fixture.worker.wait_until_started(time.monotonic() - 1)
    assert problem == "the worker process did not start in time"


def test_messages_pass_after_the_connection(fixture: Fixture) -> None:
    worker = fixture.worker
    fixture.spawned().close()
    worker.connect(fixture.reactor)
    worker.send(Drain())
    assert FrameReader().feed(fixture.reactor.transport.value()) == [Drain()]
    worker.silent_ticks = 5
    worker._channel.dataReceived(frame(Ask("a", 1)) + frame(Started()))
    assert fixture.events.seen == [Ask("a", 1), "started"]
    assert (worker.state, worker.silent_ticks) == (WorkerState.SERVING, 0)


def test_end_is_told_after_the_last_message(fixture: Fixture) -> None:
    fixture.spawned().close()
    fixture.worker.connect(fixture.reactor)
    fixture.worker.processEnded(Failure(ProcessDone(0)))
    fixture.worker._channel.dataReceived(frame(Ask("a", 1)))
    assert fixture.events.seen == [Ask("a", 1)]
    fixture.worker._channel.connectionLost()
    assert fixture.events.seen[1:] == [(True, "with status 0")]


@pytest.mark.parametrize(
    ("reason", "seen"),
    [
        (ProcessDone(0), (True, "with status 0")),
        (ProcessTerminated(3), (False, "with status 3")),
        (ProcessTerminated(signal=9), (False, "by signal 9")),
    ],
)
def test_end_is_told(fixture: Fixture, reason: Exception, seen: tuple[bool, str]) -> None:
    fixture.spawned().close()
    fixture.worker.kill()
    fixture.worker.processEnded(Failure(reason))
    fixture.worker.kill()
    assert fixture.events.seen == [seen]
    assert fixture.reactor.signals == [signal.SIGKILL]


def test_welcome_is_not_received_from_a_parent_that_has_ended() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(SystemExit):
            receive_welcome(ours)
