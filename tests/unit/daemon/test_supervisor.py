"""The supervision of workers, with workers that the test plays."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from goproxyai.config.settings import Settings
from goproxyai.daemon import supervisor as module
from goproxyai.daemon.accept_balance import ABSENT
from goproxyai.daemon.supervisor import (
    GRACE_SECONDS,
    MAX_SILENT_TICKS,
    TICK_SECONDS,
    Supervisor,
    WorkerStartError,
    apply_to_parent,
)
from goproxyai.daemon.worker_process import WorkerState
from goproxyai.state.messages import Ask, Drain, Failed, Message, Reload, Reopen, Serve
from goproxyai.state.refilled_buckets import RefilledBuckets
from goproxyai.usage.prices import Prices
from tests.support.harness import lines


class Worker:
    """Has the methods of a ``WorkerProcess``."""

    problem = ""
    spawn_error: OSError | None = None
    made: list[Worker]

    def __init__(self, number: int, setup: Any, events: Any, now: float) -> None:
        self.number, self.events, self.started_at = number, events, now
        self.state = WorkerState.STARTING
        self.report = None
        self.reachable = True
        self.silent_ticks = 0
        self.pid = 1000 + len(self.made)
        self.sent: list[Message] = []
        self.killed = self.connected = False
        self.made.append(self)

    def spawn(self, reactor: Any) -> None:
        if self.spawn_error is not None:
            raise self.spawn_error

    def wait_until_started(self, deadline: float) -> str:
        self.state = WorkerState.SERVING
        return self.problem

    def connect(self, reactor: Any) -> None:
        self.connected = True

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def kill(self) -> None:
        self.killed = True

    def start(self) -> None:
        self.state = WorkerState.SERVING
        self.events.started(self)

    def end(self, clean: bool = False) -> None:
        self.state = WorkerState.ENDED
        self.events.ended(self, clean, "by signal 9")


@attrs.define(eq=False)
class Parts:
    """The listeners and the state of the supervisor."""

    closed: int = 0
    received_messages: list[Message] = attrs.field(factory=list)
    ended: list[bool] = attrs.field(factory=list)
    rates: list[int] = attrs.field(factory=list)
    settings: Any = None
    ready: bool = True

    def log_addresses(self) -> None: ...

    def close(self) -> None:
        self.closed += 1

    def received(self, worker: Any, message: Message) -> None:
        self.received_messages.append(message)

    def worker_started(self, worker: Any) -> None: ...

    def worker_ended(self, worker: Any, told_all: bool) -> None:
        self.ended.append(told_all)

    def tick(self) -> None: ...

    def set_rate(self, per_minute: int) -> None:
        self.rates.append(per_minute)

    def start(self, on_slot: Any) -> None: ...
    def stop(self) -> None: ...


@attrs.define(eq=False)
class Snapshot:
    """The file of the second level."""

    calls: list[str] = attrs.field(factory=list)

    def load(self) -> None:
        self.calls.append("load")

    def save(self) -> None:
        self.calls.append("save")


class ThreadedClock(Clock):
    def callFromThread(self, call: Any, *arguments: Any) -> None:
        call(*arguments)

    callWhenRunning = callFromThread


class Fixture:
    def __init__(self, foreground: bool = True, **texts: str) -> None:
        self.clock = ThreadedClock()
        self.parts = Parts()
        self.snapshot = Snapshot()
        self.drains: list[str] = []
        self.checks: list[str] = []
        self.counts = memoryview(bytearray(16)).cast("q")
        self.supervisor = Supervisor(
            self.clock,
            Settings.from_texts(texts),
            Prices(),
            2,
            Any,
            self.parts,  # type: ignore[arg-type]
            RefilledBuckets(self.clock, 60),
            foreground,
            lambda: self.drains.append("drain"),
            lambda: self.checks.append("check"),
            self.counts,  # type: ignore[arg-type]
            self.snapshot,  # type: ignore[arg-type]
        )
        supervisor: Any = self.supervisor
        supervisor.state = supervisor.stats = supervisor.feed = self.parts

    @property
    def workers(self) -> list[Any]:
        return self.supervisor.workers

    def tick(self, times: int = 1) -> None:
        self.clock.pump([TICK_SECONDS] * times)

    def stop(self) -> list[None]:
        ended: list[None] = []
        self.supervisor.stopService().addCallback(ended.append)
        return ended


@pytest.fixture(autouse=True)
def fake_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "made", [], raising=False)
    monkeypatch.setattr(module, "WorkerProcess", Worker)


def started(**texts: str) -> Fixture:
    fixture = Fixture(**texts)
    with capturedLogs() as events:
        fixture.supervisor.startService()
    assert lines(events) == ["info: 2 workers serve: processes 1000, 1001"]
    for worker in fixture.workers:
        assert worker.sent == [Serve()]
        worker.sent.clear()
    return fixture


def test_second_level_is_restored_before_and_saved_after_the_workers_serve() -> None:
    fixture = started()
    assert fixture.snapshot.calls == ["load"]
    ended = fixture.stop()
    fixture.workers[0].end(clean=True)
    assert fixture.snapshot.calls == ["load"]
    fixture.workers[1].end(clean=True)
    assert fixture.snapshot.calls == ["load", "save"]
    fixture.clock.advance(0)
    assert ended == [None]


def test_second_level_is_not_restored_where_the_cache_is_off() -> None:
    fixture = started(CACHE_TTL="0")
    fixture.stop()
    for worker in fixture.workers:
        worker.end(clean=True)
    fixture.clock.advance(0)
    assert fixture.snapshot.calls == []


def test_all_workers_serve_after_the_start() -> None:
    fixture = started()
    assert [worker.connected for worker in fixture.workers] == [True, True]
    assert fixture.supervisor.serving() == fixture.workers
    assert list(fixture.counts) == [ABSENT, ABSENT]


def test_failed_start_is_one_line_in_the_foreground(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "problem", "goproxyai: no certificate")
    written: list[bytes] = []
    monkeypatch.setattr(module.os, "write", lambda _, line: written.append(line))
    with pytest.raises(SystemExit):
        Fixture().supervisor.startService()
    assert written == [b"goproxyai: no certificate\n"]
    assert all(worker.killed for worker in Worker.made)


def test_failed_start_is_an_exception_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "problem", "the worker process ended during its start")
    with pytest.raises(WorkerStartError, match=r"^goproxyai: the worker process ended"):
        Fixture(foreground=False).supervisor.startService()


def test_messages_reach_the_state_and_all_workers() -> None:
    fixture = started()
    fixture.supervisor.received(fixture.workers[0], Ask("a", 1))
    assert fixture.parts.received_messages == [Ask("a", 1)]
    fixture.supervisor.reload_workers()
    fixture.supervisor.reopen_logs()
    assert [worker.sent for worker in fixture.workers] == [[Reload(), Reopen()]] * 2


def test_ended_worker_is_replaced_at_once_and_later_after_a_delay() -> None:
    fixture = started()
    fixture.counts[0] = 5
    with capturedLogs() as events:
        fixture.workers[0].end()
        fixture.clock.advance(0)
        assert (fixture.workers[0].pid, fixture.counts[0]) == (1002, ABSENT)
        fixture.workers[0].start()
        assert fixture.workers[0].sent == [Serve()]
        fixture.workers[0].end()
        fixture.clock.advance(0.4)
        assert fixture.workers[0].pid == 1002
        fixture.clock.advance(0.1)
    assert fixture.workers[0].pid == 1003
    assert fixture.supervisor.restarts == 2
    assert fixture.parts.ended == [False, False]
    assert lines(events) == [
        "warn: worker 1, process 1000, ended by signal 9; it is replaced",
        "info: worker 1 serves: process 1002",
        "warn: worker 1, process 1002, ended by signal 9; it is replaced in 0.5 s",
    ]


def test_replacement_that_cannot_be_spawned_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixture = started()
    with capturedLogs() as events, monkeypatch.context() as patch:
        patch.setattr(Worker, "spawn_error", OSError(11, "no process"))
        fixture.workers[0].end()
        fixture.clock.advance(0)
    assert lines(events)[1:] == ["error: worker 1 cannot start: [Errno 11] no process"]
    fixture.clock.advance(TICK_SECONDS)
    assert fixture.workers[0].connected


def test_problem_of_a_replacement_is_logged() -> None:
    fixture = started()
    with capturedLogs() as events:
        fixture.supervisor.received(fixture.workers[0], Failed("no certificate"))
    assert lines(events) == ["error: worker 1, process 1000, cannot start: no certificate"]
    assert fixture.parts.received_messages == []


def test_silent_worker_is_killed() -> None:
    fixture = started()
    fixture.tick(MAX_SILENT_TICKS - 1)
    fixture.workers[0].silent_ticks = 0
    with capturedLogs() as events:
        fixture.tick()
    assert [worker.killed for worker in fixture.workers] == [False, True]
    assert lines(events) == [
        "error: worker 2, process 1001, does not respond; it is killed",
    ]
    assert len(fixture.checks) == MAX_SILENT_TICKS


def test_stop_drains_the_workers_and_closes_the_sockets_after_the_delay() -> None:
    fixture = started(DRAIN_DELAY="5s")
    ended = fixture.stop()
    assert fixture.drains == ["drain"]
    assert [worker.sent for worker in fixture.workers] == [[Drain()], [Drain()]]
    fixture.clock.advance(4.9)
    assert fixture.parts.closed == 0
    fixture.clock.advance(0.2)
    assert fixture.parts.closed == 1
    for worker in fixture.workers:
        assert ended == []
        worker.end(clean=True)
    fixture.clock.advance(0)
    assert (ended, fixture.parts.ended) == ([None], [True, True])
    assert fixture.clock.getDelayedCalls() == []


def test_stop_with_ended_workers_closes_the_sockets_at_once() -> None:
    fixture = started(DRAIN_DELAY="1h")
    for worker in fixture.workers:
        worker.end()
    ended = fixture.stop()
    fixture.clock.advance(0)
    assert (ended, fixture.parts.closed) == ([None], 1)
    assert fixture.supervisor.restarts == 0


def test_worker_that_starts_during_the_stop_drains() -> None:
    fixture = started()
    fixture.workers[0].end()
    fixture.clock.advance(0)
    fixture.stop()
    fixture.workers[0].start()
    assert fixture.workers[0].sent == [Drain(), Drain()]


def test_workers_that_do_not_end_are_killed() -> None:
    fixture = started(DRAIN_TIMEOUT="3s")
    fixture.stop()
    with capturedLogs() as events:
        fixture.clock.advance(3 + GRACE_SECONDS)
    assert all(worker.killed for worker in fixture.workers)
    assert lines(events) == ["warn: workers have not ended in time; they are killed"]


def test_reload_changes_the_parent() -> None:
    fixture = started()
    settings = Settings.from_texts({"RATE_LIMIT": "7"})
    apply_to_parent(fixture.supervisor, settings, Prices())
    assert fixture.parts.rates == [7]
    assert fixture.supervisor.settings is settings
