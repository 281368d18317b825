"""The parent process of ``WORKERS``: listens, starts workers and replaces them.

::

    Supervisor
    +-- ParentListeners   the listening sockets, from which only the workers accept
    +-- WorkerProcess     one for each worker
    +-- ParentState       tokens, announcements, reports, pages for operators

Start: the sockets listen before twistd forks. The workers start before the reactor runs, so that a
worker that cannot start ends the start.

Stop: the workers are told to drain, see :mod:`.service`. After ``DRAIN_DELAY`` the sockets close.
The process ends after all workers. A worker that exceeds its time by :data:`GRACE_SECONDS` is
killed. If this process is killed, the workers see the end of their sockets to it, and end.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from goproxyai.admin.dashboard_feed import DashboardFeed
from goproxyai.admin.stats import Stats
from goproxyai.config.settings import Settings
from goproxyai.daemon.accept_balance import ABSENT, Counts
from goproxyai.daemon.cache_snapshot import CacheSnapshot
from goproxyai.daemon.parent_listeners import ParentListeners
from goproxyai.daemon.parent_state import ParentState
from goproxyai.daemon.proxy_options import caching_enabled
from goproxyai.daemon.restart_policy import RestartPolicy
from goproxyai.daemon.worker_process import (
    WorkerProcess,
    WorkerSetup,
    WorkerState,
)
from goproxyai.state.messages import Drain, Failed, Message, Reload, Reopen, Serve
from goproxyai.state.refilled_buckets import RefilledBuckets
from goproxyai.usage.prices import Prices

START_SECONDS: Final = 60.0
"""The longest time that the workers need to start."""

TICK_SECONDS: Final = 1.0
"""Between two looks at the workers, and at the size of the log file."""

MAX_SILENT_TICKS: Final = 30
"""Ticks without a message after which a worker is killed: it reports every second. Ticks are
counted, not seconds: no worker is at fault where this process was stopped."""

GRACE_SECONDS: Final = 10.0

_log = Logger(namespace="goproxyai.workers")


class WorkerStartError(Exception):
    """The first workers cannot start; one line."""


@attrs.define(eq=False)
class Supervisor(Service):
    """Supervises the workers.

    :param foreground: whether a failed start is reported by this process, and not by the one that
        started it in the background.
    :param on_drain: called when stopping begins.
    :param check_log: rotates the log file if it is large.
    :param snapshot: ``None`` where the cache is not kept across restarts.
    :param counts: of the connections of each worker, in memory that they share.
    :ivar settings: in effect. :ivar prices: in effect.
    :ivar restarts: workers that were replaced.
    """

    _reactor: Any
    settings: Settings
    prices: Prices
    _count: int
    _setup: WorkerSetup
    listeners: ParentListeners
    _limiter: RefilledBuckets
    _foreground: bool
    _on_drain: Callable[[], None]
    _check_log: Callable[[], None]
    _counts: Counts
    _snapshot: CacheSnapshot | None
    state: ParentState = attrs.field(init=False)
    stats: Stats = attrs.field(init=False)
    feed: DashboardFeed = attrs.field(init=False)
    stopping: bool = attrs.field(init=False, default=False)
    restarts: int = attrs.field(init=False, default=0)
    workers: list[WorkerProcess] = attrs.field(init=False, factory=list)
    _policies: list[RestartPolicy] = attrs.field(init=False)
    _ticks: LoopingCall = attrs.field(init=False)
    _all_ended: Deferred[None] | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._counts[:] = array("q", [ABSENT] * self._count)  # each worker enters its own
        self._policies = [RestartPolicy() for _ in range(self._count)]
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = self._reactor

    def serving(self) -> list[WorkerProcess]:
        """Return the workers that serve."""
        return [each for each in self.workers if each.state is WorkerState.SERVING]

    def broadcast(self, message: Message) -> None:
        """Send *message* to all workers."""
        for worker in self.workers:
            worker.send(message)

    def reload_workers(self) -> None:
        """Let the workers read the configuration and the certificates again."""
        self.broadcast(Reload())

    def reopen_logs(self) -> None:
        """Let the workers open the log file again; may be called in any thread."""
        self._reactor.callFromThread(self.broadcast, Reopen())

    def startService(self) -> None:
        """Start the workers; returns when all serve.

        :raises SystemExit: with one line, where one cannot start.
        """
        super().startService()
        now = self._reactor.seconds()
        self.workers = [
            WorkerProcess(number, self._setup, self, now) for number in range(1, self._count + 1)
        ]
        for worker in self.workers:
            worker.spawn(self._reactor)
        deadline = time.monotonic() + START_SECONDS
        for worker in self.workers:
            problem = worker.wait_until_started(deadline)
            if problem:
                self._fail(f"goproxyai: {problem}".replace("goproxyai: goproxyai:", "goproxyai:"))
        if self._snapshot is not None and caching_enabled(self.settings):
            self._snapshot.load()  # a start that fails must not use the file up
        for worker in self.workers:
            worker.connect(self._reactor)
        self._reactor.callWhenRunning(self._let_all_serve)
        self._limiter.start()
        self.feed.start(lambda: None)
        self._ticks.start(TICK_SECONDS, now=False)
        self.listeners.log_addresses()
        pids = ", ".join([str(worker.pid) for worker in self.workers])
        _log.info("{count} workers serve: processes {pids}", count=self._count, pids=pids)

    def _let_all_serve(self) -> None:
        for worker in self.workers:
            self.state.worker_started(worker)
            worker.send(Serve())

    def _fail(self, line: str) -> None:
        for worker in self.workers:
            worker.kill()
        if not self._foreground:
            raise WorkerStartError(line)
        # twistd has replaced sys.stderr by its log.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{line}\n".encode())
        raise SystemExit(1)

    # WorkerEvents

    def received(self, worker: WorkerProcess, message: Message) -> None:
        if isinstance(message, Failed):
            _log.error(
                "worker {number}, process {pid}, cannot start: {problem}",
                number=worker.number,
                pid=worker.pid,
                problem=message.problem,
            )
            return
        self.state.received(worker, message)

    def started(self, worker: WorkerProcess) -> None:
        if self.stopping:
            worker.send(Drain())
            return
        self.state.worker_started(worker)
        worker.send(Serve())
        _log.info("worker {number} serves: process {pid}", number=worker.number, pid=worker.pid)

    def ended(self, worker: WorkerProcess, clean: bool, how: str) -> None:
        self._counts[worker.number - 1] = ABSENT
        self.state.worker_ended(worker, told_all=clean)
        if self.stopping:
            self._check_all_ended()
            return
        lifetime = self._reactor.seconds() - worker.started_at
        delay = self._policies[worker.number - 1].delay_after(lifetime)
        _log.warn(
            "worker {number}, process {pid}, ended {how}; it is replaced{when}",
            number=worker.number,
            pid=worker.pid,
            how=how,
            when=f" in {delay:g} s" if delay else "",
        )
        self._reactor.callLater(delay, self._replace, worker.number)

    def _replace(self, number: int) -> None:
        if self.stopping:
            return
        self.restarts += 1
        worker = WorkerProcess(number, self._setup, self, self._reactor.seconds())
        self.workers[number - 1] = worker
        try:
            worker.spawn(self._reactor)
            worker.connect(self._reactor)
        except OSError as error:  # no process or descriptor is free
            _log.error("worker {number} cannot start: {error}", number=number, error=str(error))
            worker.state = WorkerState.ENDED
            delay = self._policies[number - 1].delay_after(0.0)
            self._reactor.callLater(max(delay, TICK_SECONDS), self._replace, number)

    def _tick(self) -> None:
        self._check_log()
        self.state.tick()
        for worker in self.workers:
            worker.silent_ticks += 1
            if worker.silent_ticks == MAX_SILENT_TICKS and worker.state is not WorkerState.ENDED:
                _log.error(
                    "worker {number}, process {pid}, does not respond; it is killed",
                    number=worker.number,
                    pid=worker.pid,
                )
                worker.kill()

    # Stop

    def stopService(self) -> Deferred[None]:
        """Drain the workers; the Deferred fires when all have ended."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        super().stopService()
        self.stopping = True
        self._on_drain()
        self.stats.ready = False
        if self._ticks.running:
            self._ticks.stop()
        self.broadcast(Drain())
        self._all_ended = Deferred()
        settings = self.settings
        close = self._reactor.callLater(settings.drain_delay, self.listeners.close)
        longest = settings.drain_delay + settings.drain_timeout + GRACE_SECONDS
        kill = self._reactor.callLater(longest, self._kill_all)
        self._check_all_ended()
        await self._all_ended
        if kill.active():
            kill.cancel()
        if close.active():
            close.cancel()
            self.listeners.close()
        if self._snapshot is not None and caching_enabled(self.settings):
            self._snapshot.save()
        self._limiter.stop()
        self.feed.stop()
        self.state.stop()
        await deferLater(self._reactor, 0)  # the ports are closed in the next turn

    def _check_all_ended(self) -> None:
        if self._all_ended is not None and not self._all_ended.called:
            if all(worker.state is WorkerState.ENDED for worker in self.workers):
                self._all_ended.callback(None)

    def _kill_all(self) -> None:
        _log.warn("workers have not ended in time; they are killed")
        for worker in self.workers:
            worker.kill()


def apply_to_parent(supervisor: Supervisor, settings: Settings, prices: Prices) -> None:
    """Replace the settings of the parent process; the workers replace theirs."""
    supervisor.settings = supervisor.stats.settings = settings
    supervisor.prices = prices
    supervisor.state.set_rate(settings.rate_limit)
