"""The second level of a worker: the stored responses of all workers, and the claims.

A look-up reads the stored responses (:mod:`.shared_records`), and needs no message. It asks the
parent process (:mod:`.cache_server`) only if it asks for an exclusive claim, and another worker may
have one (:mod:`.claim_marks`). That costs one round trip over the socket pair, and no timer of its
own: one timer serves all.

A response is stored before its claim ends, so that at any time another worker finds one of them.
It is stored after the responses of the turn have been sent, which must not wait for it, together
with the others of the turn: the code that stores is then in the caches of the processor.

If the parent does not answer in time, look-ups end at once until it has answered a late one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from goproxyai.cache.entry import Entry
from goproxyai.state.claim_marks import ClaimMarks
from goproxyai.state.claims import NOT_EXCLUSIVE
from goproxyai.state.messages import (
    AskClaim,
    Claimed,
    EndClaim,
    Found,
    LookUp,
    Message,
    Missing,
    Replaced,
    Stored,
    Unwanted,
    Waits,
)
from goproxyai.state.reply_timer import NEVER, ReplyTimer
from goproxyai.state.second_level import ANSWER_SECONDS, Answer
from goproxyai.state.shared_records import SharedRecords

MAX_RECORD_BYTES: Final = 1024 * 1024
"""Of a body; a record is not larger than a tenth of the worker's ring either."""

MAX_LOOK_UPS: Final = 10_000
"""Look-ups that wait; others end at once."""

SILENT_SECONDS: Final = 5.0
"""The parent says once a second that look-ups still wait; without that, they end."""


_log = Logger(namespace="goproxyai.state")


class ParentLookUp:
    """A look-up: a :class:`.LookUp`.

    :ivar key: of the response, as :attr:`owner` and :attr:`path`.
    :ivar overdue_at: monotonic seconds at which the look-up ends without an answer.
    :ivar waits: for another worker, as the parent has said.
    """

    __slots__ = ("_client", "key", "number", "overdue_at", "owner", "path", "then", "waits")

    def __init__(
        self,
        client: CacheClient,
        number: int,
        key: bytes,
        owner: bytes,
        path: bytes,
        then: Answer,
        overdue_at: float,
    ) -> None:
        self._client = client
        self.number = number
        self.key = key
        self.owner = owner
        self.path = path
        self.then = then
        self.overdue_at = overdue_at
        self.waits = False

    def cancel(self) -> None:
        self._client.cancel(self)


class ParentClaim:
    """The right to store a response in the second level: a :class:`.Claim`.

    :ivar key: of the response, as :attr:`owner` and :attr:`path`.
    :ivar generation: of the second level at the look-up.
    :ivar number: that of an exclusive claim that the parent knows; else
        :data:`~.claims.NOT_EXCLUSIVE`.
    :ivar is_marked: this worker has claimed the key by a mark.
    """

    __slots__ = ("_client", "generation", "is_marked", "key", "number", "owner", "path")

    def __init__(
        self,
        client: CacheClient,
        key: bytes,
        owner: bytes,
        path: bytes,
        generation: int,
        number: int = NOT_EXCLUSIVE,
        is_marked: bool = False,
    ) -> None:
        self._client: CacheClient | None = client  # until the end
        self.key = key
        self.owner = owner
        self.path = path
        self.generation = generation
        self.number = number
        self.is_marked = is_marked

    @property
    def is_exclusive(self) -> bool:
        return self.is_marked or self.number != NOT_EXCLUSIVE

    def store(self, entry: Entry, replaces: bool = False) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.store(self, entry, replaces)

    def give_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.end_claim(self, EndClaim(self.number, failed=False))

    def fail(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.end_claim(self, EndClaim(self.number, failed=True))


class CacheClient:
    """The second level, as a worker sees it: a :class:`.SecondLevel`.

    :param send: sends a message to the parent; returns whether it was sent.
    :param marks: the claims of the workers.
    :param at_end_of_turn: schedules a call for the end of the current turn of the reactor; by
        default, for the next turn.
    :ivar records: the stored responses.
    :ivar claims: exclusive claims of this worker.
    """

    max_record_bytes = MAX_RECORD_BYTES

    def __init__(
        self,
        clock: IReactorTime,
        send: Callable[[Message], bool],
        records: SharedRecords,
        marks: ClaimMarks,
        at_end_of_turn: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self._seconds = clock.seconds
        self._at_end_of_turn = at_end_of_turn or partial(clock.callLater, 0)
        self._send = send
        self._marks = marks
        self._marked: dict[bytes, ParentClaim] = {}  # by key
        self._numbers = count(1)
        self._pending: dict[int, ParentLookUp] = {}
        self._timer = ReplyTimer(clock, self._judge)
        self._stores: list[tuple[ParentClaim, Entry, bool]] = []  # of this turn
        self._responds = True
        self.records = records
        self.claims = 0

    def __len__(self) -> int:
        """The number of look-ups that wait for an answer."""
        return len(self._pending)

    def claim_at_once(
        self, key: bytes, owner: bytes, path: bytes, claims: bool
    ) -> ParentClaim | None:
        records = self.records
        generation = records.writes.generation
        if claims and not self._marks.mark(key):
            return None
        # Looked for after the mark: a claim may have ended before.
        if records.has(key, owner, path):
            if claims:
                self._marks.unmark(key)
            return None
        claim = ParentClaim(self, key, owner, path, generation, is_marked=claims)
        if claims:
            self.claims += 1
            self._marked[key] = claim
        return claim

    def look_up(
        self,
        key: bytes,
        owner: bytes,
        path: bytes,
        claims: bool,
        then: Answer,
        waited: float = 0.0,
        replaces: bool = False,
    ) -> ParentLookUp:
        number = next(self._numbers)
        overdue_at = self._seconds() + ANSWER_SECONDS
        look_up = ParentLookUp(self, number, key, owner, path, then, overdue_at)
        record, claim = None, None
        if replaces:
            claim = ParentClaim(self, key, owner, path, self.records.writes.generation)
        else:
            record = self.records.get(key, owner, path)
            if record is None:
                claim = self.claim_at_once(key, owner, path, claims)
        if record is not None or claim is not None:
            then(record, claim)
        elif (
            self._responds
            and len(self._pending) < MAX_LOOK_UPS
            and self._send(LookUp(number, key, owner, path))
        ):
            self._pending[number] = look_up
            self._timer.expect(look_up.overdue_at)
        else:
            then(None, None)
        return look_up

    def stop(self) -> None:
        """End the look-ups that wait; there are no answers any more."""
        self._responds = False
        self._timer.stop()
        self._end_overdue(NEVER)

    def cancel(self, look_up: ParentLookUp) -> None:
        """The answer to *look_up* is not wanted."""
        if self._pending.pop(look_up.number, None) is not None:
            self._send(Unwanted(look_up.number))

    # What claims ask.

    def store(self, claim: ParentClaim, entry: Entry, replaces: bool) -> None:
        """Store *entry* when the responses of this turn have been sent, and end *claim*."""
        if not self._stores:
            self._at_end_of_turn(self._store_after_writes)
        self._stores.append((claim, entry, replaces))

    def _store_after_writes(self) -> None:
        """Store after the calls that have been scheduled for the end of this turn so far."""
        self._at_end_of_turn(self.store_all)

    def store_all(self) -> None:
        """Store what waits for the end of the turn."""
        stores, self._stores = self._stores, []
        replaced = []
        for claim, entry, replaces in stores:
            try:
                end = self._stored(claim, entry)
            except Exception:  # a defect: the look-ups that wait must not wait indefinitely
                _log.failure("a response was not stored for the other workers")
                end = EndClaim(claim.number, failed=True)
            self.end_claim(claim, end)
            if replaces and type(end) is Stored:
                replaced.append(claim.key)
        if replaced:
            self._send(Replaced(replaced))

    def _stored(self, claim: ParentClaim, entry: Entry) -> EndClaim | Stored:
        """Store *entry*, and return how *claim* ends."""
        records, generation = self.records, claim.generation
        owner, path = claim.owner, claim.path
        if records.writes.is_outdated(owner, path, generation):
            return EndClaim(claim.number, failed=False)
        if (
            entry.bucket is None  # this process has removed the entry meanwhile
            or entry.body_size > MAX_RECORD_BYTES
            or not records.store(entry, path, owner, generation)
        ):
            return EndClaim(claim.number, failed=True)
        return Stored(claim.number)

    def end_claim(self, claim: ParentClaim, end: EndClaim | Stored) -> None:
        """End *claim*; tell the parent if it knows of the claim."""
        if not claim.is_exclusive:
            return
        if claim.is_marked:
            del self._marked[claim.key]
            self._marks.unmark(claim.key)
        self.claims -= 1
        if claim.number != NOT_EXCLUSIVE:
            self._send(end)

    # Messages of the parent.

    def asked(self, question: AskClaim) -> None:
        """Say whether this worker has the claim of a key, and its response will be stored."""
        claim = self._marked.get(question.key)
        if claim is None or self.records.writes.is_outdated(
            claim.owner, claim.path, claim.generation
        ):
            self._send(EndClaim(question.number, failed=False))
        else:
            claim.number = question.number
            self._send(Claimed(claim.number, claim.generation))

    def answered(self, answer: Found | Missing | Waits) -> None:
        """Handle an answer, which may be late or no longer wanted."""
        self._responds = True
        if isinstance(answer, Waits):
            self._wait_on(answer.number)
            return
        number = answer.claim if isinstance(answer, Missing) else NOT_EXCLUSIVE
        look_up = self._pending.pop(answer.number, None)
        if look_up is None:
            if number != NOT_EXCLUSIVE:
                self._send(EndClaim(number, failed=False))
            return
        key, owner, path = look_up.key, look_up.owner, look_up.path
        claim = ParentClaim(self, key, owner, path, self.records.writes.generation, number)
        self.claims += claim.is_exclusive
        record = self.records.get(key, owner, path)  # may have been stored meanwhile
        if record is None:
            look_up.then(None, claim)
        else:
            self.end_claim(claim, Stored(number))
            look_up.then(record, None)

    def _wait_on(self, number: int) -> None:
        """The look-up *number* waits for another worker; 0: all that wait still do."""
        overdue_at = self._seconds() + SILENT_SECONDS
        look_up = self._pending.get(number)
        if look_up is not None:
            look_up.waits = True
            look_up.overdue_at = overdue_at
        elif number == 0:
            for each in self._pending.values():
                if each.waits:
                    each.overdue_at = overdue_at

    def _judge(self, read_until: float) -> float:
        """End overdue look-ups; return when the next one is overdue."""
        if self._end_overdue(read_until):
            self._responds = False
        return min([each.overdue_at for each in self._pending.values()], default=NEVER)

    def _end_overdue(self, read_until: float) -> bool:
        """End overdue look-ups without an answer; return whether there was one."""
        overdue = [each for each in self._pending.values() if each.overdue_at <= read_until]
        for look_up in overdue:
            self.cancel(look_up)
            look_up.then(None, None)
        return bool(overdue)
