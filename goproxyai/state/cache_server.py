"""The second level of the cache in the parent process, for its workers.

1. A look-up is answered from the store; else by the claim table (:mod:`.claims`): the worker is to
   ask upstream, or the look-up waits for another worker.
2. Messages of one worker are handled in their order. So a look-up that follows an announcement of
   its worker finds nothing outdated, and a record that an announcement has overtaken is refused:
   the generation in it is that of its look-up.
3. A worker may have an exclusive claim without a question (:mod:`.claim_marks`). A look-up that
   finds its mark waits until the worker is asked, and then for the claim.
4. A worker that ends, or that has not sent a message for :data:`MAX_SILENT_TICKS` seconds, loses
   its claims to look-ups that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from twisted.logger import Logger

from goproxyai.cache.record import (
    Record,
    RecordError,
    decode_record,
    encode_record,
    record_of,
    restored_entry,
)
from goproxyai.cache.store import Store
from goproxyai.state.claim_marks import ClaimMarks, marks_bytes
from goproxyai.state.claims import NOT_EXCLUSIVE, Claims, Question, Waiter
from goproxyai.state.messages import (
    AskClaim,
    Claimed,
    EndClaim,
    Found,
    LookUp,
    Message,
    Missing,
    Unwanted,
    Waits,
)
from goproxyai.state.messages import Store as StoreMessage

MAX_SILENT_TICKS: Final = 3
"""Seconds without a message, after which a worker is taken to hang: it reports once a second."""

CacheRequest = LookUp | Unwanted | StoreMessage | EndClaim | Claimed

_log = Logger(namespace="goproxyai.state")


class CacheWorker(Protocol):
    """A worker, as the cache sees it.

    :ivar index: from 0; that of a worker that has ended gets its replacement.
    :ivar silent_ticks: seconds since its last message.
    """

    @property
    def index(self) -> int: ...

    @property
    def silent_ticks(self) -> int: ...

    def send(self, message: Message) -> None: ...

    def send_record(self, message: Found) -> bool:
        """Send a record in its turn; return whether there is room for it."""


class CacheServer:
    """Answers the look-ups of the workers.

    :param seconds: the monotonic clock.
    :param unix_seconds: the wall clock.
    :param marks: the claims that workers have made without a question.
    :ivar store: the entries.
    :ivar claims: the claims, and the look-ups that wait.
    :ivar hits: look-ups that were answered with a record since the start.
    :ivar misses: look-ups that were not.
    """

    def __init__(
        self,
        store: Store,
        seconds: Callable[[], float],
        unix_seconds: Callable[[], float],
        marks: ClaimMarks | None = None,
    ) -> None:
        if marks is None:
            marks = ClaimMarks(memoryview(bytearray(marks_bytes(0))), 0)
        self.store = store
        self.claims: Claims[CacheWorker] = Claims(marks=marks)
        self._marks = marks
        self._workers: dict[int, CacheWorker] = {}
        self._seconds = seconds
        self._unix_seconds = unix_seconds
        self.hits = 0
        self.misses = 0

    def received(self, worker: CacheWorker, message: CacheRequest) -> None:
        """Handle *message* of *worker*."""
        match message:
            case LookUp(number, key, owner, claims):
                self._look_up(Waiter(worker, number), key, owner, claims)
            case StoreMessage(claim, generation, record, marked):
                self._store(claim, generation, record)
                if marked:
                    self._marks.remove(marked, worker.index)
            case Claimed(claim, generation, owner):
                if self.claims.confirm(claim, generation) and self.store.is_outdated(
                    owner, generation
                ):
                    self._pass_on(claim)
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

    def _look_up(self, waiter: Waiter[CacheWorker], key: bytes, owner: bytes, claims: bool) -> None:
        record = self._stored_record(key)
        if record is not None:
            self._answer(waiter, record)
            return
        store = self.store
        claim: int | Question[CacheWorker] | None = NOT_EXCLUSIVE
        if claims:
            claim = self.claims.claim(
                key,
                waiter,
                store.generation(),
                lambda noted: store.is_outdated(owner, noted),
                lambda: self._marked(key, waiter.holder),
            )
        if isinstance(claim, int):
            self._deny(waiter, claim)
            return
        waiter.holder.send(Waits(waiter.number))
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

    def _stored_record(self, key: bytes) -> bytes | None:
        """Return the stored response, encoded, if it has not expired."""
        now = self._seconds()
        entry = self.store.get(key, now)
        if entry is None or entry.expires_at <= now:
            return None
        return encode_record(record_of(entry, self._unix_seconds() - now))

    def _answer(self, waiter: Waiter[CacheWorker], record: bytes) -> None:
        if waiter.holder.send_record(Found(waiter.number, record)):
            self.hits += 1
        else:
            self._deny(waiter, NOT_EXCLUSIVE)

    def _deny(self, waiter: Waiter[CacheWorker], claim: int) -> None:
        self.misses += 1
        waiter.holder.send(Missing(waiter.number, self.store.generation(), claim))

    def _store(self, claim: int, generation: int, encoded: bytes) -> None:
        try:
            record = decode_record(encoded)
        except RecordError as error:
            _log.error("a worker sent an invalid record: {error}", error=str(error))
            self._fail(claim)
            return
        if self._put(record, generation):
            for waiter in self.claims.stored(record.key, claim):
                self._answer(waiter, encoded)
        elif self.store.is_outdated(record.owner, generation):
            self._pass_on(claim)
        else:
            self._fail(claim)

    def _put(self, record: Record, generation: int) -> bool:
        entry = restored_entry(record, self._seconds(), self._unix_seconds(), 0.0)
        return entry is not None and self.store.put(entry, record.path, record.owner, generation)

    def _fail(self, claim: int) -> None:
        for waiter in self.claims.end(claim):
            self._deny(waiter, NOT_EXCLUSIVE)

    def _pass_on(self, claim: int) -> None:
        passed = self.claims.pass_on(claim, self.store.generation())
        if isinstance(passed, Question):
            passed.holder.send(AskClaim(passed.number, passed.key))
        elif passed is not None:
            self._deny(passed.to, passed.number)
