"""Single flight across workers: the look-ups of the workers that wait for each other.

1. The workers store and find responses without the parent (:mod:`.shared_records`). A look-up asks
   the parent only if it has found none, and another worker may have a claim (:mod:`.claim_marks`).
   The claim table (:mod:`.claims`) decides: the worker is to ask upstream, or the look-up waits.
2. A worker may have an exclusive claim without a question. A look-up that finds its mark waits
   until the worker is asked, and then for the claim.
3. A look-up that waits is told when the response is stored, and reads it. One that gets a claim
   looks for a response first, which may have been stored meanwhile.
4. A worker that ends, or that has not sent a message for :data:`MAX_SILENT_TICKS` seconds, loses
   its claims to look-ups that wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from goproxyai.state.claim_marks import ClaimMarks
from goproxyai.state.claims import NOT_EXCLUSIVE, Claims, Question, Waiter
from goproxyai.state.messages import (
    AskClaim,
    Claimed,
    EndClaim,
    Found,
    LookUp,
    Message,
    Missing,
    Stored,
    Unwanted,
    Waits,
)
from goproxyai.state.shared_write_log import SharedWriteLog

MAX_SILENT_TICKS: Final = 3
"""Seconds without a message, after which a worker is taken to hang: it reports once a second."""

CacheRequest = LookUp | Unwanted | Stored | EndClaim | Claimed


class CacheWorker(Protocol):
    """A worker, as its look-ups see it.

    :ivar index: from 0; that of a worker that has ended gets its replacement.
    :ivar silent_ticks: seconds since its last message.
    """

    @property
    def index(self) -> int: ...

    @property
    def silent_ticks(self) -> int: ...

    def send(self, message: Message) -> None: ...


class CacheServer:
    """Answers the look-ups of the workers.

    :param writes: the writes and clearings of the workers.
    :param marks: the claims that workers have made without a question.
    :ivar claims: the claims, and the look-ups that wait.
    """

    def __init__(self, writes: SharedWriteLog, marks: ClaimMarks) -> None:
        self.claims: Claims[CacheWorker] = Claims(marks=marks)
        self._writes = writes
        self._marks = marks
        self._workers: dict[int, CacheWorker] = {}

    def received(self, worker: CacheWorker, message: CacheRequest) -> None:
        """Handle *message* of *worker*."""
        match message:
            case LookUp():
                self._look_up(worker, message)
            case Stored(claim):
                for waiter in self.claims.end(claim):
                    waiter.holder.send(Found(waiter.number))
            case Claimed(claim, generation):
                self.claims.confirm(claim, generation)
            case EndClaim(claim, failed):
                if failed:
                    self._fail(claim)
                else:
                    self._pass_on(claim)
            case Unwanted(number):
                self.claims.forget(Waiter(worker, number))

    @property
    def claimed_keys(self) -> int:
        """The number of keys for which one worker asks upstream."""
        return len(self._marks) + self.claims.unmarked

    def worker_started(self, worker: CacheWorker) -> None:
        """*worker* can be asked about its marks."""
        self._workers[worker.index] = worker

    def worker_ended(self, worker: CacheWorker) -> None:
        """Pass on the claims of *worker*, which takes no answer any more."""
        if self._workers.get(worker.index) is worker:
            del self._workers[worker.index]
            self._marks.remove_all(worker.index)
        self.claims.forget_all(worker)
        for claim in self.claims.held_by(worker):
            self._pass_on(claim)

    def tick(self, workers: Iterable[CacheWorker]) -> None:
        """Pass on the claims of silent workers, and tell the others that their look-ups wait.

        :param workers: those that serve; to be called once a second.
        """
        for worker in workers:
            if worker.silent_ticks == MAX_SILENT_TICKS:
                for claim in self.claims.held_by(worker):
                    self._pass_on(claim)
        for worker in self.claims.waiting_holders():
            worker.send(Waits(0))

    def _look_up(self, worker: CacheWorker, asked: LookUp) -> None:
        waiter = Waiter(worker, asked.number)
        claim = self.claims.claim(
            asked.key,
            waiter,
            self._writes.generation,
            lambda noted: self._writes.is_outdated(asked.owner, asked.path, noted),
            lambda: self._marked(asked.key, worker),
        )
        if isinstance(claim, int):
            self._deny(waiter, claim)
            return
        worker.send(Waits(asked.number))
        if claim is not None:
            claim.holder.send(AskClaim(claim.number, claim.key))

    def _marked(self, key: bytes, besides: CacheWorker) -> list[CacheWorker]:
        """Return the other workers that may have claimed *key* without a question."""
        marked = [self._workers.get(index) for index in self._marks.marked(key)]
        return [
            worker
            for worker in marked
            if worker is not None
            and worker is not besides
            and worker.silent_ticks < MAX_SILENT_TICKS
        ]

    def _deny(self, waiter: Waiter[CacheWorker], claim: int) -> None:
        waiter.holder.send(Missing(waiter.number, claim))

    def _fail(self, claim: int) -> None:
        for waiter in self.claims.end(claim):
            self._deny(waiter, NOT_EXCLUSIVE)

    def _pass_on(self, claim: int) -> None:
        passed = self.claims.pass_on(claim, self._writes.generation)
        if isinstance(passed, Question):
            passed.holder.send(AskClaim(passed.number, passed.key))
        elif passed is not None:
            self._deny(passed.to, passed.number)
