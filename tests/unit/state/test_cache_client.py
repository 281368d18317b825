"""The second level of a worker, with a parent that the test plays."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from goproxyai.cache.record import Record, encode_record
from goproxyai.state import cache_client
from goproxyai.state.cache_client import MAX_RECORD_BYTES, SILENT_SECONDS, CacheClient
from goproxyai.state.claim_marks import ClaimMarks, marks_bytes
from goproxyai.state.claims import NOT_EXCLUSIVE
from goproxyai.state.key_presence import PRESENCE_BYTES, KeyPresence
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
from goproxyai.state.second_level import ANSWER_SECONDS, Claim
from tests.unit.cache.snapshots import record

KEY, OWNER, PATH = b"k" * 32, b"owner", b"/v1/models"


class Fixture:
    def __init__(
        self, presence: KeyPresence | None = None, marks: ClaimMarks | None = None
    ) -> None:
        self.clock = Clock()
        self.messages: list[Message] = []
        self.sends = True
        self.has_room = True
        self.answers: list[tuple[Record | None, Any]] = []
        self.client = CacheClient(
            self.clock, self._send, self._send_records, self._send, presence, marks
        )

    def _send(self, message: Message) -> bool:
        self.messages.append(message)
        return self.sends

    def _send_records(self, messages: list[Store]) -> list[bool]:
        return [self.has_room and self._send(message) for message in messages]

    def sent(self) -> list[Message]:
        """What was sent, records included, which are sent in the next turn."""
        self.clock.advance(0)
        sent, self.messages = self.messages, []
        return sent

    def look_up(self, claims: bool = True) -> Any:
        return self.client.look_up(
            KEY, OWNER, PATH, claims, lambda *answer: self.answers.append(answer)
        )

    def claim(self, number: int = 3) -> Claim:
        """The claim that the first look-up gets."""
        self.look_up()
        self.sent()
        self.client.answered(Missing(1, 7, number))
        ((_, claim),) = self.answers
        return claim  # type: ignore[no-any-return]

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.clock.advance(0)


def test_record_is_the_answer() -> None:
    fixture = Fixture()
    fixture.look_up()
    assert fixture.sent() == [LookUp(1, KEY, OWNER, True)]
    fixture.client.answered(Found(1, encode_record(record())))
    assert fixture.answers == [(record(), None)]
    fixture.client.answered(Found(1, encode_record(record())))  # twice
    assert (len(fixture.answers), len(fixture.client)) == (1, 0)


def test_invalid_record_is_refused(failures: list[Any]) -> None:
    fixture = Fixture()
    fixture.look_up()
    fixture.client.answered(Found(1, b"?"))
    assert fixture.answers == [(None, None)]
    failures.clear()


@pytest.mark.parametrize("end", ["store", "give_up", "fail"])
def test_claim_ends_once(end: str) -> None:
    fixture = Fixture()
    claim = fixture.claim()
    assert fixture.client.claims == 1
    calls: dict[str, Any] = {
        "store": lambda: claim.store(record()),
        "give_up": claim.give_up,
        "fail": claim.fail,
    }
    calls[end]()
    for other in calls.values():
        other()
    assert fixture.sent() == [
        {
            "store": Store(3, 7, encode_record(record())),
            "give_up": EndClaim(3, False),
            "fail": EndClaim(3, True),
        }[end]
    ]
    assert fixture.client.claims == 0


def test_claim_that_is_not_exclusive_may_be_forgotten() -> None:
    fixture = Fixture()
    claim = fixture.claim(NOT_EXCLUSIVE)
    assert fixture.client.claims == 0
    claim.give_up()
    assert fixture.sent() == []


def test_claim_that_is_not_exclusive_stores() -> None:
    fixture = Fixture()
    fixture.claim(NOT_EXCLUSIVE).store(record())
    assert fixture.sent() == [Store(NOT_EXCLUSIVE, 7, encode_record(record()))]
    assert fixture.client.claims == 0


@pytest.mark.parametrize("excess", [0, 1])
def test_record_that_is_too_large_fails_the_claim(excess: int) -> None:
    fixture = Fixture()
    fixture.claim().store(record(body=bytes(MAX_RECORD_BYTES + excess)))
    (sent,) = fixture.sent()
    assert isinstance(sent, EndClaim if excess else Store)


def test_record_without_room_in_the_queue_fails_the_claim() -> None:
    fixture = Fixture()
    claim = fixture.claim()
    fixture.has_room = False
    claim.store(record())
    assert fixture.sent() == [EndClaim(3, True)]


def test_parent_that_does_not_answer_is_not_asked_again_until_it_does() -> None:
    fixture = Fixture()
    fixture.look_up()
    fixture.pass_time(ANSWER_SECONDS)
    assert fixture.answers == [(None, None)]
    assert fixture.sent() == [LookUp(1, KEY, OWNER, True), Unwanted(1)]
    fixture.look_up()
    assert fixture.answers == [(None, None)] * 2
    assert fixture.sent() == []
    fixture.client.answered(Missing(1, 7, 3))  # late: the claim is not wanted
    assert fixture.sent() == [EndClaim(3, False)]
    assert fixture.client.claims == 0
    fixture.look_up()
    assert fixture.sent() == [LookUp(3, KEY, OWNER, True)]
    fixture.client.stop()
    assert fixture.clock.getDelayedCalls() == []


def test_answer_in_time_ends_the_deadline() -> None:
    fixture = Fixture()
    fixture.look_up()
    fixture.client.answered(Missing(1, 7, 0))
    fixture.pass_time(ANSWER_SECONDS)
    assert fixture.clock.getDelayedCalls() == []
    assert len(fixture.answers) == 1


def test_answer_that_was_received_late_counts_if_it_is_read_next() -> None:
    fixture = Fixture()
    fixture.look_up()
    fixture.clock.callLater(ANSWER_SECONDS, fixture.client.answered, Missing(1, 7, 0))
    fixture.clock.advance(ANSWER_SECONDS)
    assert fixture.answers[0][1] is not None


def test_look_up_that_waits_has_no_deadline_while_the_parent_lives() -> None:
    fixture = Fixture()
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
    fixture.look_up()
    fixture.client.answered(Waits(0))
    fixture.pass_time(ANSWER_SECONDS)
    assert fixture.answers == [(None, None)]


@pytest.mark.parametrize("waits", [False, True])
def test_cancelled_look_up_has_no_answer(waits: bool) -> None:
    fixture = Fixture()
    look_up = fixture.look_up()
    if waits:
        fixture.client.answered(Waits(1))
    for _ in range(2):
        look_up.cancel()
    assert fixture.sent() == [LookUp(1, KEY, OWNER, True), Unwanted(1)]
    fixture.client.answered(Missing(1, 7, 3))
    fixture.client.answered(Found(1, encode_record(record())))
    fixture.client.answered(Waits(1))
    assert fixture.answers == []
    assert fixture.sent() == [EndClaim(3, False)]


def test_channel_that_does_not_accept_ends_look_ups_at_once() -> None:
    fixture = Fixture()
    fixture.sends = False
    fixture.look_up().cancel()
    assert fixture.answers == [(None, None)]
    assert fixture.clock.getDelayedCalls() == []


def test_look_ups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_client, "MAX_LOOK_UPS", 2)
    fixture = Fixture()
    for _ in range(3):
        fixture.look_up()
    assert fixture.answers == [(None, None)]
    fixture.client.stop()
    assert fixture.answers == [(None, None)] * 3
    fixture.look_up()
    assert len(fixture.answers) == 4


def test_key_that_the_parent_does_not_have_is_not_asked_for() -> None:
    presence = KeyPresence(memoryview(bytearray(PRESENCE_BYTES)))
    presence.generation = 5
    fixture = Fixture(presence)
    fixture.look_up(claims=False)
    ((found, claim),) = fixture.answers
    assert found is None
    claim.store(record())
    assert fixture.sent() == [Store(NOT_EXCLUSIVE, 5, encode_record(record()))]
    fixture.look_up(claims=True)  # another worker may be asking upstream
    presence.add(KEY)
    fixture.look_up(claims=False)
    assert fixture.sent() == [LookUp(2, KEY, OWNER, True), LookUp(3, KEY, OWNER, False)]
    fixture.client.stop()


class Marked(Fixture):
    """A worker that has claimed the key by a mark, at generation 5 of the parent's cache."""

    def __init__(self) -> None:
        self.presence = KeyPresence(memoryview(bytearray(PRESENCE_BYTES)))
        self.presence.generation = 5
        memory = memoryview(bytearray(marks_bytes(2)))
        self.parent, self.other = ClaimMarks(memory, 2), ClaimMarks(memory, 2, 1)
        super().__init__(self.presence, ClaimMarks(memory, 2, 0))
        self.look_up()
        ((_, self.got),) = self.answers
        self.answers.clear()


def test_claim_of_a_mark_needs_no_question() -> None:
    fixture = Marked()
    assert (fixture.sent(), fixture.client.claims, len(fixture.parent)) == ([], 1, 1)
    fixture.got.store(record())
    fixture.got.give_up()
    assert fixture.sent() == [Store(NOT_EXCLUSIVE, 5, encode_record(record()), KEY)]
    assert len(fixture.parent) == 1  # until the parent has stored the response
    fixture.client.asked(AskClaim(9, KEY))
    assert fixture.sent() == [EndClaim(9, False)]
    assert fixture.client.claims == 0


@pytest.mark.parametrize("end", ["give_up", "fail", "no room"])
def test_claim_without_a_response_removes_its_mark(end: str) -> None:
    fixture = Marked()
    if end == "no room":
        fixture.has_room = False
        fixture.got.store(record())
    else:
        getattr(fixture.got, end)()
    assert fixture.sent() == []
    assert (fixture.client.claims, len(fixture.parent)) == (0, 0)


@pytest.mark.parametrize("failed", [False, True])
def test_claim_that_the_parent_has_asked_about_ends_with_a_message(failed: bool) -> None:
    fixture = Marked()
    fixture.client.asked(AskClaim(9, KEY))
    assert fixture.sent() == [Claimed(9, 5, OWNER)]
    if failed:
        fixture.got.fail()
    else:
        fixture.got.give_up()
    assert fixture.sent() == [EndClaim(9, failed)]
    assert (fixture.client.claims, len(fixture.parent)) == (0, 0)


def test_question_about_a_claim_whose_response_is_to_be_sent_precedes_the_response() -> None:
    fixture = Marked()
    fixture.got.store(record())
    fixture.client.asked(AskClaim(9, KEY))
    assert fixture.sent() == [Claimed(9, 5, OWNER), Store(9, 5, encode_record(record()), KEY)]


def test_key_that_may_be_claimed_is_asked_for() -> None:
    fixture = Marked()
    fixture.look_up()  # this worker has a mark in the row
    fixture.got.fail()
    assert fixture.other.mark(KEY)
    fixture.look_up()
    fixture.other.unmark(KEY)
    fixture.parent.begin(KEY)
    fixture.look_up()
    assert fixture.sent() == [LookUp(number, KEY, OWNER, True) for number in (2, 3, 4)]
    fixture.client.stop()


def test_entry_that_is_stored_before_the_row_is_read_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixture = Marked()
    fixture.got.fail()
    reads = iter([False, True])
    monkeypatch.setattr(fixture.presence, "may_have", lambda _: next(reads))
    fixture.look_up()
    assert fixture.sent() == [LookUp(2, KEY, OWNER, True)]
    assert len(fixture.parent) == 0
    fixture.client.stop()
