"""What the parent process shares among its workers: tokens, announcements, numbers, pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from goproxyai.admin.summed_sources import ReportDocument, SummedSources
from goproxyai.state.cache_server import CacheServer, CacheWorker
from goproxyai.state.leases import Grantor, lease_size
from goproxyai.state.messages import (
    Ask,
    AskPage,
    Claimed,
    Clear,
    Collect,
    Done,
    EndClaim,
    Granted,
    LookUp,
    Message,
    Page,
    PutBack,
    Reachable,
    Replaced,
    Report,
    Stored,
    Unwanted,
    Written,
)
from goproxyai.state.refilled_buckets import RefilledBuckets

COLLECT_SECONDS: Final = 1.0
"""The longest time that a page waits for the reports of the workers."""


class WorkerPeer(CacheWorker, Protocol):
    """A worker, as its messages see it.

    :ivar report: the last one.
    :ivar reachable: whether the worker may reach an upstream.
    """

    report: ReportDocument | None
    reachable: bool


@attrs.define(eq=False)
class _Round:
    """Workers that have been asked, and what follows when all have answered or time is up."""

    waiting: set[WorkerPeer]
    then: Callable[[int], None]
    timer: IDelayedCall


class ParentState:
    """Answers the workers.

    :param workers: returns the workers that serve.
    :param summed: gets the sum of the reports.
    :param render: returns a page; its arguments are those of :class:`.AskPage`.
    :ivar cache: the look-ups of the workers that wait for each other.
    :ivar left_out: answers of workers that did not arrive in time for a page.
    :ivar lost_reports: ends of workers that had not told their last numbers.
    """

    def __init__(
        self,
        clock: IReactorTime,
        limiter: RefilledBuckets,
        per_minute: int,
        holders: int,
        workers: Callable[[], Iterable[WorkerPeer]],
        summed: SummedSources,
        render: Callable[[str, int], bytes],
        cache: CacheServer,
    ) -> None:
        self._clock = clock
        self._limiter = limiter
        self._per_minute = per_minute
        self._grantor = Grantor(limiter.buckets, holders)
        self._workers = workers
        self._summed = summed
        self._render = render
        self.cache = cache
        self._numbers = count(1)
        self._rounds: dict[int, _Round] = {}
        self._reachable = True
        self.left_out = 0
        self.lost_reports = 0

    @property
    def lease(self) -> int:
        """Tokens that a worker leases at most for one client; 0 without a limit."""
        return lease_size(self._per_minute) if self._per_minute else 0

    def set_rate(self, per_minute: int) -> None:
        """Change the rate of every client; 0 turns the limit off."""
        self._per_minute = per_minute
        self._limiter.set_rate(per_minute)

    def tick(self) -> None:
        """Look for workers that do not respond; to be called once a second."""
        self.cache.tick(self._workers())

    def stop(self) -> None:
        """Ask the workers nothing more."""
        for each in self._rounds.values():
            each.timer.cancel()
        self._rounds.clear()

    def received(self, worker: WorkerPeer, message: Message) -> None:
        """Handle *message* of *worker*."""
        match message:
            case LookUp() | Stored() | EndClaim() | Unwanted() | Claimed():
                self.cache.received(worker, message)
            case Ask(client, tokens):
                grant = self._grantor.grant(client, tokens, lease_size(self._per_minute))
                worker.send(Granted(client, grant.tokens, grant.wait))
            case PutBack(tokens):
                for client, number in tokens:
                    self._grantor.put_back(client, number, lease_size(self._per_minute))
            case Written() | Replaced():
                for other in self._others(worker):
                    other.send(message)
            case Clear(path, number):
                self._ask(
                    self._others(worker),
                    lambda asked: Clear(path, asked),
                    lambda _: worker.send(Done(number)),
                )
            case Report(number, document, reachable):
                worker.report, worker.reachable = document, reachable
                self._answered(worker, number)
                self._announce_reachable()
            case Done(number):
                self._answered(worker, number)
            case AskPage(number, page, known):
                self._ask(
                    list(self._workers()),
                    Collect,
                    lambda missing: self._send_page(worker, number, page, known, missing),
                )

    def worker_started(self, worker: WorkerPeer) -> None:
        """Tell a new worker what the others know."""
        self.cache.worker_started(worker)
        worker.send(Reachable(self._reachable))

    def worker_ended(self, worker: WorkerPeer, told_all: bool) -> None:
        """Keep the counters of *worker*, and do not wait for it.

        :param told_all: whether its last report has all of its numbers.
        """
        self._summed.retire(worker.report)
        self.cache.worker_ended(worker)
        if not told_all:
            self.lost_reports += 1
        for number in tuple(self._rounds):
            self._answered(worker, number)

    def _others(self, worker: WorkerPeer) -> list[WorkerPeer]:
        return [each for each in self._workers() if each is not worker]

    def _ask(
        self,
        workers: list[WorkerPeer],
        message: Callable[[int], Message],
        then: Callable[[int], None],
    ) -> None:
        """Send a message to *workers*.

        :param message: its argument is the number that identifies the answers.
        :param then: called with the number of missing answers, when all have arrived or
            :data:`COLLECT_SECONDS` have passed.
        """
        if not workers:
            then(0)
            return
        number = next(self._numbers)
        timer = self._clock.callLater(COLLECT_SECONDS, self._end_round, number)
        self._rounds[number] = _Round(set(workers), then, timer)
        for worker in workers:
            worker.send(message(number))

    def _answered(self, worker: WorkerPeer, number: int) -> None:
        asked = self._rounds.get(number)
        if asked is not None:
            asked.waiting.discard(worker)
            if not asked.waiting:
                asked.timer.cancel()
                self._end_round(number)

    def _end_round(self, number: int) -> None:
        asked = self._rounds.pop(number)
        asked.then(len(asked.waiting))

    def _send_page(
        self, worker: WorkerPeer, number: int, page: str, known: int, missing: int
    ) -> None:
        self.left_out += missing
        worker.send(Page(number, self._render(page, known)))

    def _announce_reachable(self) -> None:
        workers: list[Any] = list(self._workers())
        reachable = any(worker.reachable for worker in workers)
        if reachable != self._reachable:
            self._reachable = reachable
            for worker in workers:
                worker.send(Reachable(reachable))
