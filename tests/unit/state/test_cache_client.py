"""The second level of a worker, with a parent that the test plays."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from goproxyai.cache.entry import Entry
from goproxyai.cache.record import Record
from goproxyai.state import cache_client
from goproxyai.state.cache_client import MAX_RECORD_BYTES, SILENT_SECONDS, CacheClient
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
from goproxyai.state.second_level import ANSWER_SECONDS, Claim
from tests.support.shared_memory import UNIX, SharedMemory, store
from tests.unit.cache.snapshots import record, stored_entry
from tests.unit.cache.stored import ALICE, BOB, FILES

ONE = record(stored=UNIX, expires=UNIX + 60)
KEY = ONE.key


class Fixture:
    """The first of two workers.

    :param ring_bytes: of each worker.
    :ivar other: the second level of the other one. :ivar marks: those of the other one.
    """

    def __init__(self, ring_bytes: int = 20_000_000) -> None:
        self.clock = Clock()
        self.messages: list[Message] = []
        self.sends = True
        self.answers: list[tuple[Record | None, Any]] = []
        self.memory = SharedMemory(2, ring_bytes)
        self.other, self.marks = self.memory.records(1), self.memory.marks(1)
        self.client = CacheClient(
            self.clock, self._send, self.memory.records(0), self.memory.marks(0)
        )

    def _send(self, message: Message) -> bool:
        self.messages.append(message)
        return self.sends

    def sent(self) -> list[Message]:
        """What was sent, until responses are stored: in the next turn."""
        self.clock.advance(0)
        sent, self.messages = self.messages, []
        return sent

    def look_up(self, claims: bool = True, replaces: bool = False) -> Any:
        return self.client.look_up(
            KEY, ALICE, FILES, claims, lambda *answer: self.answers.append(answer), 0.0, replaces
        )

    def claimed_elsewhere(self) -> None:
        """Let the other worker ask upstream for the key."""
        assert self.marks.mark(KEY)

    def store_elsewhere(self) -> None:
        assert store(self.other, ONE)

    def entry(self, one: Record = ONE) -> Entry:
        """The entry of a record, stored in this worker."""
        return stored_entry(one, self.memory.now, self.memory.unix)

    def stored(self) -> bool:
        self.clock.advance(0)
        return self.other.has(KEY, ALICE, FILES)

    def claim(self, number: int = 3) -> Claim:
        """The claim that the parent gives to the first look-up, which waits for another worker."""
        self.claimed_elsewhere()
        self.look_up()
        self.sent()
        self.client.answered(Missing(1, number))
        ((_, claim),) = self.answers
        self.answers.clear()
        return claim  # type: ignore[no-any-return]

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.clock.advance(0)


def question(number: int) -> LookUp:
    return LookUp(number, KEY, ALICE, FILES)


@pytest.mark.parametrize("claims", [False, True])
def test_stored_record_is_the_answer_without_a_question(claims: bool) -> None:
    fixture = Fixture()
    fixture.store_elsewhere()
    assert fixture.client.claim_at_once(KEY, ALICE, FILES, claims) is None
    fixture.look_up(claims)
    assert (fixture.answers, fixture.sent()) == ([(ONE, None)], [])
    assert (len(fixture.memory.marks()), fixture.client.claims) == (0, 0)


def test_record_that_is_stored_during_the_wait_is_the_answer() -> None:
    fixture = Fixture()
    fixture.claimed_elsewhere()
    fixture.look_up()
    assert fixture.sent() == [question(1)]
    fixture.client.answered(Waits(1))
    fixture.store_elsewhere()
    fixture.client.answered(Found(1))
    assert fixture.answers == [(ONE, None)]
    fixture.client.answered(Found(1))  # twice
    assert (len(fixture.answers), len(fixture.client), fixture.sent()) == (1, 0, [])


def test_record_that_is_overwritten_before_it_is_read_leads_to_a_claim() -> None:
    fixture = Fixture()
    fixture.claimed_elsewhere()
    fixture.look_up()
    fixture.client.answered(Found(1))
    ((found, claim),) = fixture.answers
    assert (found, claim.is_exclusive) == (None, False)


def test_record_that_is_stored_before_the_claim_arrives_ends_the_claim() -> None:
    fixture = Fixture()
    fixture.claimed_elsewhere()
    fixture.look_up()
    fixture.store_elsewhere()
    fixture.client.answered(Missing(1, 3))
    assert fixture.answers == [(ONE, None)]
    assert fixture.sent() == [question(1), Stored(3)]
    assert fixture.client.claims == 0


@pytest.mark.parametrize("end", ["store", "give_up", "fail"])
def test_claim_ends_once(end: str) -> None:
    fixture = Fixture()
    claim = fixture.claim()
    assert fixture.client.claims == 1
    calls: dict[str, Any] = {
        "store": lambda: claim.store(fixture.entry()),
        "give_up": claim.give_up,
        "fail": claim.fail,
    }
    calls[end]()
    assert fixture.stored() is (end == "store")
    for other in calls.values():
        other()
    ends = {"store": Stored(3), "give_up": EndClaim(3, False), "fail": EndClaim(3, True)}
    assert fixture.sent() == [ends[end]]
    assert fixture.client.claims == 0


def test_claim_that_is_not_exclusive_may_be_forgotten() -> None:
    fixture = Fixture()
    claim = fixture.claim(NOT_EXCLUSIVE)
    assert fixture.client.claims == 0
    claim.give_up()
    assert fixture.sent() == []


@pytest.mark.parametrize("replaces", [False, True])
def test_claim_that_is_not_exclusive_stores(replaces: bool) -> None:
    fixture = Fixture()
    if replaces:
        fixture.store_elsewhere()
    fixture.claimed_elsewhere()
    fixture.look_up(claims=replaces, replaces=replaces)
    ((found, claim),) = fixture.answers
    assert (found, claim.is_exclusive) == (None, False)
    fixture.memory.pass_time(1)
    new = record(body=b"new", stored=fixture.memory.unix, expires=UNIX + 60)
    claim.store(fixture.entry(new))
    assert fixture.stored()
    record_of_all = fixture.other.get(KEY, ALICE, FILES)
    assert record_of_all is not None
    assert (record_of_all.body, fixture.sent()) == (b"new", [])
    assert (fixture.client.claims, len(fixture.memory.marks())) == (0, 1)


def test_others_are_told_of_replaced_responses_after_these_are_stored() -> None:
    fixture = Fixture()
    for number, replaces in enumerate([True, False, True]):
        one = record(number, stored=UNIX, expires=UNIX + 60)
        claim = fixture.client.claim_at_once(one.key, ALICE, FILES, False)
        assert claim is not None
        claim.store(fixture.entry(one), replaces)
    large = fixture.client.claim_at_once(b"l" * 32, ALICE, FILES, False)
    assert large is not None
    large.store(fixture.entry(record(body=bytes(MAX_RECORD_BYTES + 1), stored=UNIX)), True)
    assert fixture.messages == []
    assert fixture.sent() == [Replaced([record(0).key, record(2).key])]
    assert fixture.stored()


def test_entry_that_has_left_the_store_fails_the_claim() -> None:
    fixture = Fixture()
    entry = fixture.entry()
    fixture.claim().store(entry)
    entry.free()
    assert (fixture.sent(), fixture.stored()) == ([EndClaim(3, True)], False)


def test_failure_to_store_a_response_fails_its_claim_alone(
    monkeypatch: pytest.MonkeyPatch, failures: list[LogEvent]
) -> None:
    fixture = Fixture()
    append, calls = fixture.client.records.rings[0].append, []

    def fails_first(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) == 1:
            raise MemoryError
        return append(*arguments)

    monkeypatch.setattr(fixture.client.records.rings[0], "append", fails_first)
    fixture.claim().store(fixture.entry())
    other = fixture.client.claim_at_once(KEY, ALICE, FILES, False)
    assert other is not None
    other.store(fixture.entry())
    assert (fixture.sent(), fixture.stored()) == ([EndClaim(3, True)], True)
    assert fixture.client.claims == 0
    assert [each["log_failure"].type for each in failures] == [MemoryError]
    failures.clear()


@pytest.mark.parametrize("excess", [0, 1])
def test_record_that_is_too_large_fails_the_claim(excess: int) -> None:
    fixture = Fixture()
    large = record(body=bytes(MAX_RECORD_BYTES + excess), stored=UNIX, expires=UNIX + 60)
    fixture.claim().store(fixture.entry(large))
    assert fixture.sent() == [EndClaim(3, True) if excess else Stored(3)]
    assert fixture.stored() is not bool(excess)


def test_record_that_is_too_large_for_the_ring_fails_the_claim() -> None:
    fixture = Fixture(ring_bytes=4_000)
    large = record(body=bytes(400), stored=UNIX, expires=UNIX + 60)
    fixture.claim().store(fixture.entry(large))
    assert fixture.sent() == [EndClaim(3, True)]


def test_response_that_a_write_has_overtaken_gives_the_claim_up() -> None:
    fixture = Fixture()
    claim = fixture.claim()
    fixture.other.writes.record_write(ALICE)
    claim.store(fixture.entry())
    assert (fixture.sent(), fixture.stored()) == ([EndClaim(3, False)], False)


def test_parent_that_does_not_answer_is_not_asked_again_until_it_does() -> None:
    fixture = Fixture()
    fixture.claimed_elsewhere()
    fixture.look_up()
    fixture.pass_time(ANSWER_SECONDS)
    assert fixture.answers == [(None, None)]
    assert fixture.sent() == [question(1), Unwanted(1)]
    fixture.look_up()
    assert fixture.answers == [(None, None)] * 2
    assert fixture.sent() == []
    fixture.client.answered(Missing(1, 3))  # late: the claim is not wanted
    assert fixture.sent() == [EndClaim(3, False)]
    assert fixture.client.claims == 0
    fixture.look_up()
    assert fixture.sent() == [question(3)]
    fixture.client.stop()
    assert fixture.clock.getDelayedCalls() == []


def test_answer_in_time_ends_the_deadline() -> None:
    fixture = Fixture()
    fixture.claim(NOT_EXCLUSIVE)
    fixture.pass_time(ANSWER_SECONDS)
    assert fixture.clock.getDelayedCalls() == []
    assert fixture.answers == []


def test_answer_that_was_received_late_counts_if_it_is_read_next() -> None:
    fixture = Fixture()
    fixture.claimed_elsewhere()
    fixture.look_up()
    fixture.clock.callLater(ANSWER_SECONDS, fixture.client.answered, Missing(1, 0))
    fixture.clock.advance(ANSWER_SECONDS)
    assert fixture.answers[0][1] is not None


def test_look_up_that_waits_has_no_deadline_while_the_parent_lives() -> None:
    fixture = Fixture()
    fixture.claimed_elsewhere()
    fixture.look_up()
    fixture.client.answered(Waits(1))
    for _ in range(9):
        fixture.pass_time(SILENT_SECONDS / 2)
        fixture.client.answered(Waits(0))
    assert fixture.answers == []
    fixture.pass_time(SILENT_SECONDS)
    assert fixture.answers == [(None, None)]
    fixture.client.stop()


def test_sign_of_life_does_not_extend_other_look_ups() -> None:
    fixture = Fixture()
    fixture.claimed_elsewhere()
    fixture.look_up()
    fixture.client.answered(Waits(0))
    fixture.pass_time(ANSWER_SECONDS)
    assert fixture.answers == [(None, None)]


@pytest.mark.parametrize("waits", [False, True])
def test_cancelled_look_up_has_no_answer(waits: bool) -> None:
    fixture = Fixture()
    fixture.claimed_elsewhere()
    look_up = fixture.look_up()
    if waits:
        fixture.client.answered(Waits(1))
    for _ in range(2):
        look_up.cancel()
    assert fixture.sent() == [question(1), Unwanted(1)]
    fixture.client.answered(Missing(1, 3))
    fixture.client.answered(Found(1))
    fixture.client.answered(Waits(1))
    assert fixture.answers == []
    assert fixture.sent() == [EndClaim(3, False)]


def test_channel_that_does_not_accept_ends_look_ups_at_once() -> None:
    fixture = Fixture()
    fixture.claimed_elsewhere()
    fixture.sends = False
    fixture.look_up().cancel()
    assert fixture.answers == [(None, None)]
    assert fixture.clock.getDelayedCalls() == []


def test_look_ups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_client, "MAX_LOOK_UPS", 2)
    fixture = Fixture()
    fixture.claimed_elsewhere()
    for _ in range(3):
        fixture.look_up()
    assert fixture.answers == [(None, None)]
    fixture.client.stop()
    assert fixture.answers == [(None, None)] * 3
    fixture.look_up()
    assert len(fixture.answers) == 4


class Marked(Fixture):
    """A worker that has claimed the key by a mark."""

    def __init__(self) -> None:
        super().__init__()
        self.other.writes.record_write(BOB)
        self.look_up()
        ((_, self.got),) = self.answers
        self.answers.clear()


def test_claim_of_a_mark_needs_no_question() -> None:
    fixture = Marked()
    marks = fixture.memory.marks()
    assert (fixture.sent(), fixture.client.claims, len(marks)) == ([], 1, 1)
    fixture.got.store(fixture.entry())
    fixture.got.give_up()
    assert (fixture.sent(), fixture.client.claims, len(marks)) == ([], 0, 0)
    assert fixture.stored()
    fixture.client.asked(AskClaim(9, KEY))
    assert fixture.sent() == [EndClaim(9, False)]


def test_response_is_stored_before_its_mark_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = Marked()
    unmark, seen = fixture.client._marks.unmark, []

    def noted(key: bytes) -> None:
        seen.append(fixture.other.has(KEY, ALICE, FILES))
        unmark(key)

    monkeypatch.setattr(fixture.client._marks, "unmark", noted)
    fixture.got.store(fixture.entry())
    assert (len(fixture.memory.marks()), seen) == (1, [])
    fixture.clock.advance(0)
    assert seen == [True]


@pytest.mark.parametrize("end", ["give_up", "fail"])
def test_claim_without_a_response_removes_its_mark(end: str) -> None:
    fixture = Marked()
    getattr(fixture.got, end)()
    assert fixture.sent() == []
    assert (fixture.client.claims, len(fixture.memory.marks())) == (0, 0)


@pytest.mark.parametrize("end", ["give_up", "fail", "store"])
def test_claim_that_the_parent_has_asked_about_ends_with_a_message(end: str) -> None:
    fixture = Marked()
    fixture.client.asked(AskClaim(9, KEY))
    assert fixture.sent() == [Claimed(9, 1)]
    getattr(fixture.got, end)(*[fixture.entry()] * (end == "store"))
    assert fixture.sent() == [Stored(9) if end == "store" else EndClaim(9, end == "fail")]
    assert (fixture.client.claims, len(fixture.memory.marks())) == (0, 0)


def test_question_about_a_claim_whose_response_is_to_be_stored_is_answered() -> None:
    fixture = Marked()
    fixture.got.store(fixture.entry())
    fixture.client.asked(AskClaim(9, KEY))
    assert fixture.sent() == [Claimed(9, 1), Stored(9)]
    assert fixture.stored()


def test_claim_that_a_write_has_overtaken_is_not_confirmed() -> None:
    fixture = Marked()
    fixture.other.writes.record_write(ALICE)
    fixture.client.asked(AskClaim(9, KEY))
    assert fixture.sent() == [EndClaim(9, False)]
    fixture.got.fail()
    assert (fixture.sent(), len(fixture.memory.marks())) == ([], 0)


def test_key_that_may_be_claimed_is_asked_for() -> None:
    fixture = Marked()
    assert fixture.client.claim_at_once(KEY, ALICE, FILES, True) is None
    fixture.look_up()  # this worker has a mark in the row
    fixture.got.fail()
    assert fixture.marks.mark(KEY)
    fixture.look_up()
    fixture.marks.unmark(KEY)
    fixture.memory.marks().begin(KEY)
    fixture.look_up()
    assert fixture.sent() == [question(number) for number in (2, 3, 4)]
    fixture.client.stop()


def test_record_that_is_stored_before_the_row_is_read_is_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixture = Fixture()
    mark = fixture.client._marks.mark

    def stored_meanwhile(key: bytes) -> bool:
        fixture.store_elsewhere()
        return mark(key)

    monkeypatch.setattr(fixture.client._marks, "mark", stored_meanwhile)
    assert fixture.client.claim_at_once(KEY, ALICE, FILES, True) is None
    assert (len(fixture.memory.marks()), fixture.client.claims) == (0, 0)
    fixture.look_up()
    assert (fixture.answers, fixture.sent()) == ([(ONE, None)], [])


def test_response_can_be_stored_before_the_end_of_the_turn() -> None:
    fixture = Fixture()
    fixture.look_up()
    ((_, claim),) = fixture.answers
    claim.store(fixture.entry())
    assert not fixture.other.has(KEY, ALICE, FILES)
    fixture.client.store_all()
    assert fixture.other.has(KEY, ALICE, FILES)
    assert fixture.client.claims == 0
