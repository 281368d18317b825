"""The look-ups that wait for each other in the parent, with workers that the test plays."""

from __future__ import annotations

import attrs
import pytest

from goproxyai.state.cache_server import MAX_SILENT_TICKS, CacheServer
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
    Stored,
    Unwanted,
    Waits,
)
from tests.support.shared_memory import SharedMemory
from tests.unit.cache.snapshots import record
from tests.unit.cache.stored import ALICE, FILES

KEY = record().key


@attrs.define(eq=False)
class Worker:
    index: int
    silent_ticks: int = 0
    sent: list[Message] = attrs.field(factory=list)

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def new(self) -> list[Message]:
        sent, self.sent = self.sent, []
        return sent


class Fixture:
    def __init__(self) -> None:
        self.memory = SharedMemory(3)
        self.server = CacheServer(self.memory.writes(), self.memory.marks())
        self.one, self.two, self.three = workers = Worker(0), Worker(1), Worker(2)
        for worker in workers:
            self.server.worker_started(worker)

    def look_up(self, worker: Worker, number: int = 1) -> list[Message]:
        self.server.received(worker, LookUp(number, KEY, ALICE, FILES))
        return worker.new()

    def write(self) -> None:
        self.memory.writes(2).record_write(ALICE)

    def marks(self, worker: Worker) -> ClaimMarks:
        """The table of marks as *worker* has it."""
        return self.memory.marks(worker.index)

    def asked_about(self, marked: Worker) -> int:
        """The number of the claim that *marked* has a mark for, when two asks for it."""
        assert self.marks(marked).mark(KEY)
        assert self.look_up(self.two) == [Waits(1)]
        (question,) = marked.new()
        assert isinstance(question, AskClaim)
        assert question.key == KEY
        return question.number

    def claim(self, worker: Worker) -> int:
        """The number of the claim that *worker* gets."""
        return self.claim_in(self.look_up(worker))

    def claim_in(self, messages: list[Message]) -> int:
        (answer,) = messages
        assert isinstance(answer, Missing)
        assert answer.claim != NOT_EXCLUSIVE
        return answer.claim


def test_look_ups_that_wait_are_told_that_the_response_is_stored() -> None:
    fixture = Fixture()
    claim = fixture.claim(fixture.one)
    assert fixture.look_up(fixture.two, 5) == [Waits(5)]
    assert fixture.look_up(fixture.three, 6) == [Waits(6)]
    fixture.server.received(fixture.one, Stored(claim))
    assert (fixture.two.new(), fixture.three.new()) == ([Found(5)], [Found(6)])
    assert len(fixture.server.claims) == 0


@pytest.mark.parametrize("failed", [False, True])
def test_ended_claim_goes_to_one_or_releases_all(failed: bool) -> None:
    fixture = Fixture()
    claim = fixture.claim(fixture.one)
    for worker in (fixture.two, fixture.three):
        assert fixture.look_up(worker) == [Waits(1)]
    fixture.server.received(fixture.one, EndClaim(claim, failed))
    ((answer,), third) = fixture.two.new(), fixture.three.new()
    assert isinstance(answer, Missing)
    assert (answer.claim == NOT_EXCLUSIVE) is failed
    assert third == ([Missing(1, NOT_EXCLUSIVE)] if failed else [])


def test_claims_of_a_worker_that_ends_are_passed_on() -> None:
    fixture = Fixture()
    fixture.claim(fixture.one)
    fixture.look_up(fixture.two)
    fixture.server.worker_ended(fixture.one)
    fixture.claim_in(fixture.two.new())
    fixture.look_up(fixture.three)
    fixture.server.worker_ended(fixture.three)  # does not wait any more
    fixture.server.worker_ended(fixture.two)
    assert (len(fixture.server.claims), fixture.server.claims.waiting) == (0, 0)


def test_silent_worker_loses_its_claims_once() -> None:
    fixture = Fixture()
    old = fixture.claim(fixture.one)
    fixture.look_up(fixture.two)
    workers = [fixture.one, fixture.two]
    fixture.server.tick(workers)
    assert fixture.two.new() == [Waits(0)]
    fixture.one.silent_ticks = MAX_SILENT_TICKS
    fixture.server.tick(workers)
    new = fixture.claim_in(fixture.two.new())
    fixture.server.received(fixture.one, Stored(old))  # the worker goes on
    assert fixture.server.claims.held_by(fixture.two) == [new]


def test_look_up_that_is_not_wanted_does_not_get_the_claim() -> None:
    fixture = Fixture()
    claim = fixture.claim(fixture.one)
    fixture.look_up(fixture.two)
    fixture.server.received(fixture.two, Unwanted(1))
    fixture.server.received(fixture.one, EndClaim(claim, False))
    assert fixture.two.new() == []
    assert len(fixture.server.claims) == 0


@pytest.mark.parametrize("path", [None, FILES])
def test_look_up_after_a_clearing_does_not_wait_for_an_older_request(path: bytes | None) -> None:
    fixture = Fixture()
    fixture.claim(fixture.one)
    fixture.memory.records(1).record_clearing(path)
    fixture.claim(fixture.two)


def test_look_up_after_a_write_does_not_wait_for_an_older_request() -> None:
    fixture = Fixture()
    old = fixture.claim(fixture.one)
    fixture.look_up(fixture.two)
    fixture.write()
    new = fixture.claim(fixture.three)
    assert new != old
    fixture.server.received(fixture.one, EndClaim(old, False))
    assert fixture.two.new() == []  # waits for the newer request
    fixture.server.received(fixture.three, Stored(new))
    assert fixture.two.new() == [Found(1)]


def test_look_up_waits_for_the_claim_of_a_mark() -> None:
    fixture = Fixture()
    number = fixture.asked_about(fixture.one)
    assert fixture.server.claimed_keys == 1
    fixture.server.received(fixture.one, Claimed(number, 0))
    assert fixture.look_up(fixture.three) == [Waits(1)]
    fixture.marks(fixture.one).unmark(KEY)
    fixture.server.received(fixture.one, Stored(number))
    assert (fixture.two.new(), fixture.three.new()) == ([Found(1)], [Found(1)])
    assert (len(fixture.server.claims), fixture.server.claimed_keys) == (0, 0)
    assert fixture.marks(fixture.two).mark(KEY)


def test_look_up_gets_the_claim_if_the_mark_is_that_of_another_key() -> None:
    fixture = Fixture()
    number = fixture.asked_about(fixture.one)
    fixture.server.received(fixture.one, EndClaim(number, False))
    assert fixture.claim_in(fixture.two.new()) != number
    assert not fixture.marks(fixture.three).mark(KEY)  # the parent counts the claim


def test_workers_with_marks_are_asked_one_after_the_other() -> None:
    fixture = Fixture()
    for worker in (fixture.one, fixture.three):
        fixture.memory.marks_memory[fixture.marks(worker)._row(KEY) + worker.index] = 1
    assert fixture.look_up(fixture.two) == [Waits(1)]
    (first,) = fixture.one.new()
    assert isinstance(first, AskClaim)
    assert fixture.three.new() == []
    fixture.server.received(fixture.one, EndClaim(first.number, False))
    (second,) = fixture.three.new()
    assert isinstance(second, AskClaim)
    assert fixture.two.new() == []
    fixture.server.received(fixture.one, EndClaim(first.number, True))  # late: has no effect
    fixture.server.received(fixture.one, Claimed(first.number, 0))
    fixture.server.received(fixture.three, Claimed(second.number, 0))
    fixture.server.received(fixture.three, EndClaim(second.number, True))
    assert fixture.two.new() == [Missing(1, NOT_EXCLUSIVE)]


def test_claim_of_a_mark_from_before_a_write_is_replaced() -> None:
    fixture = Fixture()
    number = fixture.asked_about(fixture.one)
    fixture.server.received(fixture.one, Claimed(number, 0))
    fixture.write()
    assert fixture.claim(fixture.three) != number


def test_marks_of_a_worker_that_ends_are_removed() -> None:
    fixture = Fixture()
    fixture.asked_about(fixture.one)
    fixture.server.worker_ended(fixture.one)
    claim = fixture.claim_in(fixture.two.new())
    assert fixture.server.claimed_keys == 1
    fixture.server.received(fixture.two, EndClaim(claim, False))
    assert fixture.server.claimed_keys == 0
    assert fixture.marks(fixture.three).mark(KEY)


def test_silent_worker_is_not_asked_about_its_mark() -> None:
    fixture = Fixture()
    assert fixture.marks(fixture.one).mark(KEY)
    fixture.one.silent_ticks = MAX_SILENT_TICKS
    fixture.claim(fixture.two)
    assert fixture.one.new() == []
