"""The second level of a worker: it asks the parent process, see :mod:`.cache_server`.

A look-up costs one round trip over the socket pair, and no timer of its own: one timer serves all.
It costs nothing where :mod:`.key_presence` says that the parent has no entry, and, for an exclusive
claim, where :mod:`.claim_marks` says that no other worker has one.

Records are sent after the responses of the turn, which must not wait for it: a write to the parent
may let the kernel run the parent first.

If the parent does not answer in time, look-ups end at once until it has answered a late one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from goproxyai.cache.record import Record, RecordError, decode_record, encode_record
from goproxyai.state.claim_marks import ClaimMarks
from goproxyai.state.claims import NOT_EXCLUSIVE
from goproxyai.state.key_presence import KeyPresence
from goproxyai.state.messages import (
    AskClaim,
    Claimed,
    EndClaim,
    Found,
    LookUp,
    Message,
    Missing,
    Store,
    Unwanted,
    Waits,
)
from goproxyai.state.reply_timer import NEVER, ReplyTimer
from goproxyai.state.second_level import ANSWER_SECONDS, Answer

MAX_RECORD_BYTES: Final = 1024 * 1024
"""Of a body; the parent stores none that is larger than a tenth of its share either."""

MAX_LOOK_UPS: Final = 10_000
"""Look-ups that wait; others end at once."""

SILENT_SECONDS: Final = 5.0
"""The parent says once a second that look-ups still wait; without that, they end."""

_log = Logger(namespace="goproxyai.state")


class ParentLookUp:
    """A look-up: a :class:`.LookUp`.

    :ivar overdue_at: monotonic seconds at which the look-up ends without an answer.
    :ivar waits: for another worker, as the parent has said.
    """

    __slots__ = ("_client", "number", "overdue_at", "then", "waits")

    def __init__(self, client: CacheClient, number: int, then: Answer, overdue_at: float) -> None:
        self._client = client
        self.number = number
        self.then = then
        self.overdue_at = overdue_at
        self.waits = False

    def cancel(self) -> None:
        self._client.cancel(self)


class ParentClaim:
    """The right to store a response in the parent's cache: a :class:`.Claim`.

    :ivar number: that of an exclusive claim that the parent knows; else
        :data:`~.claims.NOT_EXCLUSIVE`.
    :ivar generation: of the second level at the look-up.
    :ivar marked: the key, if this worker has claimed it by a mark; else empty.
    :ivar owner: of the response; empty without a mark.
    """

    __slots__ = ("_client", "generation", "marked", "number", "owner")

    def __init__(
        self,
        client: CacheClient,
        number: int,
        generation: int,
        marked: bytes = b"",
        owner: bytes = b"",
    ) -> None:
        self._client: CacheClient | None = client  # until the end
        self.number = number
        self.generation = generation
        self.marked = marked
        self.owner = owner

    @property
    def is_exclusive(self) -> bool:
        return bool(self.marked) or self.number != NOT_EXCLUSIVE

    def store(self, record: Record) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.store(self, record)

    def give_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.end_claim(self, failed=False)

    def fail(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.end_claim(self, failed=True)


class CacheClient:
    """The parent's cache, as a worker sees it: a :class:`.SecondLevel`.

    :param send: sends a message; returns whether it was sent.
    :param send_records: sends messages with records; returns for which of them there is room.
    :param send_after_records: sends a message after the records.
    :param presence: which keys the parent may have; ``None`` where that is not known.
    :param marks: the claims of the workers; ``None`` where the parent decides about all claims.
    :ivar claims: exclusive claims of this worker.
    """

    max_record_bytes = MAX_RECORD_BYTES

    def __init__(
        self,
        clock: IReactorTime,
        send: Callable[[Message], bool],
        send_records: Callable[[list[Store]], list[bool]],
        send_after_records: Callable[[EndClaim], object],
        presence: KeyPresence | None = None,
        marks: ClaimMarks | None = None,
    ) -> None:
        self._clock = clock
        self._seconds = clock.seconds
        self._send = send
        self._send_records = send_records
        self._send_after_records = send_after_records
        self._presence = presence
        self._marks = marks
        self._marked: dict[bytes, ParentClaim] = {}  # by key
        self._numbers = count(1)
        self._pending: dict[int, ParentLookUp] = {}
        self._timer = ReplyTimer(clock, self._judge)
        self._stores: list[tuple[ParentClaim, Record]] = []  # to be sent
        self._responds = True
        self.claims = 0

    def __len__(self) -> int:
        """The number of look-ups that wait for an answer."""
        return len(self._pending)

    def claim_at_once(self, key: bytes, owner: bytes, claims: bool) -> ParentClaim | None:
        presence, marks = self._presence, self._marks
        if presence is None or presence.may_have(key):
            return None
        if not claims:
            return ParentClaim(self, NOT_EXCLUSIVE, presence.generation)
        if marks is None or not marks.mark(key):
            return None
        if presence.may_have(key):  # another claim has ended before the row was read
            marks.unmark(key)
            return None
        self.claims += 1
        claim = ParentClaim(self, NOT_EXCLUSIVE, presence.generation, key, owner)
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
        look_up = ParentLookUp(self, number, then, self._seconds() + ANSWER_SECONDS)
        claim = self.claim_at_once(key, owner, claims)
        if claim is None and replaces and self._presence is not None:
            claim = ParentClaim(self, NOT_EXCLUSIVE, self._presence.generation)
        if claim is not None or replaces:
            then(None, claim)
        elif (
            self._responds
            and len(self._pending) < MAX_LOOK_UPS
            and self._send(LookUp(number, key, owner, claims))
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

    def store(self, claim: ParentClaim, record: Record) -> None:
        """Send *record* in the next turn of the reactor, and end *claim*."""
        if len(record.body) > MAX_RECORD_BYTES:
            self.end_claim(claim, failed=True)
            return
        if not self._stores:
            self._clock.callLater(0, self._send_stores)
        self._stores.append((claim, record))

    def _send_stores(self) -> None:
        stores, self._stores = self._stores, []
        messages = [
            Store(claim.number, claim.generation, encode_record(record), claim.marked)
            for claim, record in stores
        ]
        for (claim, _), is_sent in zip(stores, self._send_records(messages), strict=True):
            if not is_sent:
                self.end_claim(claim, failed=True)
                continue
            self._marked.pop(claim.marked, None)  # the parent removes the mark
            self.claims -= claim.is_exclusive

    def end_claim(self, claim: ParentClaim, failed: bool) -> None:
        """End *claim* without a response."""
        number, marked = claim.number, claim.marked
        if marked and self._marks is not None:
            del self._marked[marked]
            self._marks.unmark(marked)
        self.claims -= claim.is_exclusive
        if number != NOT_EXCLUSIVE:
            self._send(EndClaim(number, failed))

    # Answers of the parent.

    def asked(self, question: AskClaim) -> None:
        """Say whether this worker has the claim of a key."""
        claim = self._marked.get(question.key)
        if claim is None:  # its record may still wait to be sent
            self._send_after_records(EndClaim(question.number, failed=False))
        else:
            claim.number = question.number
            self._send(Claimed(claim.number, claim.generation, claim.owner))

    def answered(self, answer: Found | Missing | Waits) -> None:
        """Handle an answer, which may be late or no longer wanted."""
        self._responds = True
        if isinstance(answer, Waits):
            self._wait_on(answer.number)
            return
        look_up = self._pending.pop(answer.number, None)
        if isinstance(answer, Found):
            if look_up is not None:
                look_up.then(*self._decoded(answer.record))
            return
        self.claims += answer.claim != NOT_EXCLUSIVE
        claim = ParentClaim(self, answer.claim, answer.generation)
        if look_up is None:
            claim.give_up()
        else:
            look_up.then(None, claim)

    def _decoded(self, record: bytes) -> tuple[Record | None, None]:
        try:
            return decode_record(record), None
        except RecordError as error:
            _log.error("the parent process sent an invalid record: {error}", error=str(error))
            return None, None

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
