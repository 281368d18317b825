"""The second level in the parent, with workers that the test plays."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from goproxyai.cache.record import Record, decode_record, encode_record
from goproxyai.cache.store import Store as Entries
from goproxyai.cache.write_log import UNOWNED
from goproxyai.state.cache_server import MAX_SILENT_TICKS, CacheServer
from goproxyai.state.claim_marks import ClaimMarks, marks_bytes
from goproxyai.state.claims import NOT_EXCLUSIVE
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
from tests.unit.cache.snapshots import record
from tests.unit.cache.stored import ALICE, FILES

NOW = 1e9
"""Unix seconds, at which the records of the tests are stored."""

KEY = record().key


@attrs.define(eq=False)
class Worker:
    index: int
    silent_ticks: int = 0
    has_room: bool = True
    sent: list[Message] = attrs.field(factory=list)

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def send_record(self, message: Found) -> bool:
        if self.has_room:
            self.sent.append(message)
        return self.has_room

    def new(self) -> list[Message]:
        sent, self.sent = self.sent, []
        return sent


class Fixture:
    def __init__(self, size: int = 1_000_000) -> None:
        self.now = 100.0
        self.store = Entries(size)
        self.memory = memoryview(bytearray(marks_bytes(3)))
        self.server = CacheServer(
            self.store,
            lambda: self.now,
            lambda: self.now - 100.0 + NOW,
            ClaimMarks(self.memory, 3),
        )
        self.one, self.two, self.three = workers = Worker(0), Worker(1), Worker(2)
        for worker in workers:
            self.server.worker_started(worker)

    def look_up(self, worker: Worker, number: int = 1, claims: bool = True) -> list[Message]:
        self.server.received(worker, LookUp(number, KEY, ALICE, claims))
        return worker.new()

    def marks(self, worker: Worker) -> ClaimMarks:
        """The table of marks as *worker* has it."""
        return ClaimMarks(self.memory, 3, worker.index)

    def asked_about(self, marked: Worker) -> int:
        """The number of the claim that *marked* has a mark for, when two asks for it."""
        assert self.marks(marked).mark(KEY)
        assert self.look_up(self.two) == [Waits(1)]
        (question,) = marked.new()
        assert isinstance(question, AskClaim)
        assert question.key == KEY
        return question.number

    def claim(self, worker: Worker) -> tuple[int, int]:
        """The number of the claim that *worker* gets, and its generation."""
        (answer,) = self.look_up(worker)
        assert isinstance(answer, Missing)
        return answer.claim, answer.generation

    def put(self, worker: Worker, claim: tuple[int, int], one: Record | None = None) -> None:
        self.server.received(worker, Store(*claim, encode_record(one or record())))


def test_stored_response_answers_what_waits_and_what_follows() -> None:
    fixture = Fixture()
    claim = fixture.claim(fixture.one)
    assert claim[0] != NOT_EXCLUSIVE
    assert fixture.look_up(fixture.two, 5) == [Waits(5)]
    fixture.put(fixture.one, claim)
    (found,) = fixture.two.new()
    assert isinstance(found, Found)
    assert (found.number, decode_record(found.record)) == (5, record())
    (again,) = fixture.look_up(fixture.three, claims=False)
    assert again == Found(1, found.record)
    assert len(fixture.server.claims) == 0
    assert (fixture.server.hits, fixture.server.misses) == (2, 1)


def test_look_up_without_claims_does_not_wait() -> None:
    fixture = Fixture()
    fixture.claim(fixture.one)
    assert fixture.look_up(fixture.two, claims=False) == [Missing(1, 0, NOT_EXCLUSIVE)]


def test_expired_response_is_not_found() -> None:
    fixture = Fixture()
    fixture.put(fixture.one, (NOT_EXCLUSIVE, 0))
    assert isinstance(fixture.look_up(fixture.one)[0], Found)
    fixture.now += record().expires - record().stored
    assert isinstance(fixture.look_up(fixture.one)[0], Missing)


@pytest.mark.parametrize("failed", [False, True])
def test_ended_claim_goes_to_one_or_releases_all(failed: bool) -> None:
    fixture = Fixture()
    claim, _ = fixture.claim(fixture.one)
    for worker in (fixture.two, fixture.three):
        assert fixture.look_up(worker) == [Waits(1)]
    fixture.server.received(fixture.one, EndClaim(claim, failed))
    ((answer,), third) = fixture.two.new(), fixture.three.new()
    assert isinstance(answer, Missing)
    assert (answer.claim == NOT_EXCLUSIVE) is failed
    assert third == ([Missing(1, 0, NOT_EXCLUSIVE)] if failed else [])


def test_claims_of_a_worker_that_ends_are_passed_on() -> None:
    fixture = Fixture()
    fixture.claim(fixture.one)
    fixture.look_up(fixture.two)
    fixture.server.worker_ended(fixture.one)
    ((answer,), fixture.one.sent) = fixture.two.new(), []
    assert isinstance(answer, Missing)
    assert answer.claim != NOT_EXCLUSIVE
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
    (answer,) = fixture.two.new()
    assert isinstance(answer, Missing)
    fixture.put(fixture.one, old)  # it goes on, and its response is still right
    assert isinstance(fixture.look_up(fixture.three)[0], Found)
    assert fixture.server.claims.held_by(fixture.two) == [answer.claim]


def test_look_up_that_is_not_wanted_does_not_get_the_claim() -> None:
    fixture = Fixture()
    claim, _ = fixture.claim(fixture.one)
    fixture.look_up(fixture.two)
    fixture.server.received(fixture.two, Unwanted(1))
    fixture.server.received(fixture.one, EndClaim(claim, False))
    assert fixture.two.new() == []
    assert len(fixture.server.claims) == 0


@pytest.mark.parametrize("path", [None, FILES])
def test_response_that_a_clearing_has_overtaken_is_refused(path: bytes | None) -> None:
    fixture = Fixture()
    claim = fixture.claim(fixture.one)
    fixture.look_up(fixture.two)
    fixture.store.clear(path)
    fixture.put(fixture.one, claim)
    (answer,) = fixture.two.new()  # gets the claim
    assert isinstance(answer, Missing)
    assert (answer.generation, answer.claim != NOT_EXCLUSIVE) == (1, True)


def test_look_up_after_a_write_does_not_wait_for_an_older_request() -> None:
    fixture = Fixture()
    old = fixture.claim(fixture.one)
    fixture.look_up(fixture.two)
    fixture.store.invalidate(ALICE)
    (answer,) = fixture.look_up(fixture.three)
    assert isinstance(answer, Missing)
    assert answer.claim not in (NOT_EXCLUSIVE, old[0])
    fixture.put(fixture.one, old)
    assert fixture.two.new() == []  # waits for the newer request
    fixture.put(fixture.three, (answer.claim, answer.generation))
    assert isinstance(fixture.two.new()[0], Found)


def test_response_without_an_owner_outlives_writes() -> None:
    fixture = Fixture()
    claim = fixture.claim(fixture.one)
    fixture.store.invalidate(ALICE)
    fixture.put(fixture.one, claim, record(owner=UNOWNED))
    assert isinstance(fixture.look_up(fixture.two)[0], Found)


def test_record_that_is_too_large_releases_what_waits() -> None:
    fixture = Fixture(20_000)
    claim = fixture.claim(fixture.one)
    fixture.look_up(fixture.two)
    fixture.put(fixture.one, claim, record(body=bytes(3_000)))
    assert fixture.two.new() == [Missing(1, 0, NOT_EXCLUSIVE)]


def test_invalid_record_releases_what_waits(failures: list[Any]) -> None:
    fixture = Fixture()
    claim, generation = fixture.claim(fixture.one)
    fixture.look_up(fixture.two)
    fixture.server.received(fixture.one, Store(claim, generation, b"?"))
    assert fixture.two.new() == [Missing(1, 0, NOT_EXCLUSIVE)]
    failures.clear()


def test_worker_whose_queue_is_full_asks_upstream() -> None:
    fixture = Fixture()
    fixture.put(fixture.one, (NOT_EXCLUSIVE, 0))
    fixture.two.has_room = False
    assert fixture.look_up(fixture.two) == [Missing(1, 0, NOT_EXCLUSIVE)]


def test_look_up_waits_for_the_claim_of_a_mark() -> None:
    fixture = Fixture()
    number = fixture.asked_about(fixture.one)
    assert fixture.server.claimed_keys == 1
    fixture.server.received(fixture.one, Claimed(number, 0, ALICE))
    assert fixture.look_up(fixture.three) == [Waits(1)]
    fixture.server.received(fixture.one, Store(number, 0, encode_record(record()), KEY))
    for waiting in (fixture.two, fixture.three):
        assert isinstance(waiting.new()[0], Found)
    assert (len(fixture.server.claims), fixture.server.claimed_keys) == (0, 0)
    assert fixture.marks(fixture.two).mark(KEY)


def test_look_up_gets_the_claim_if_the_mark_is_that_of_another_key() -> None:
    fixture = Fixture()
    number = fixture.asked_about(fixture.one)
    fixture.server.received(fixture.one, EndClaim(number, False))
    (answer,) = fixture.two.new()
    assert isinstance(answer, Missing)
    assert answer.claim not in (NOT_EXCLUSIVE, number)
    assert not fixture.marks(fixture.three).mark(KEY)  # the parent counts the claim


def test_workers_with_marks_are_asked_one_after_the_other() -> None:
    fixture = Fixture()
    for worker in (fixture.one, fixture.three):
        fixture.memory[fixture.marks(worker)._row(KEY) + worker.index] = 1
    assert fixture.look_up(fixture.two) == [Waits(1)]
    (first,) = fixture.one.new()
    assert isinstance(first, AskClaim)
    assert fixture.three.new() == []
    fixture.server.received(fixture.one, EndClaim(first.number, False))
    (second,) = fixture.three.new()
    assert isinstance(second, AskClaim)
    assert fixture.two.new() == []
    fixture.server.received(fixture.one, EndClaim(first.number, True))  # late: has no effect
    fixture.server.received(fixture.one, Claimed(first.number, 0, ALICE))
    fixture.server.received(fixture.three, Claimed(second.number, 0, ALICE))
    fixture.server.received(fixture.three, EndClaim(second.number, True))
    assert fixture.two.new() == [Missing(1, 0, NOT_EXCLUSIVE)]


def test_claim_of_a_mark_from_before_a_write_is_passed_on() -> None:
    fixture = Fixture()
    fixture.store.invalidate(ALICE)
    number = fixture.asked_about(fixture.one)
    fixture.server.received(fixture.one, Claimed(number, 0, ALICE))
    (answer,) = fixture.two.new()
    assert isinstance(answer, Missing)
    assert (answer.generation, answer.claim != NOT_EXCLUSIVE) == (1, True)


def test_marks_of_a_worker_that_ends_are_removed() -> None:
    fixture = Fixture()
    fixture.asked_about(fixture.one)
    fixture.server.worker_ended(fixture.one)
    (answer,) = fixture.two.new()
    assert isinstance(answer, Missing)
    assert answer.claim != NOT_EXCLUSIVE
    assert fixture.server.claimed_keys == 1
    fixture.server.received(fixture.two, EndClaim(answer.claim, False))
    assert fixture.server.claimed_keys == 0
    assert fixture.marks(fixture.three).mark(KEY)


def test_silent_worker_is_not_asked_about_its_mark() -> None:
    fixture = Fixture()
    assert fixture.marks(fixture.one).mark(KEY)
    fixture.one.silent_ticks = MAX_SILENT_TICKS
    assert fixture.claim(fixture.two)[0] != NOT_EXCLUSIVE
    assert fixture.one.new() == []


def test_invalid_record_removes_the_mark(failures: list[Any]) -> None:
    fixture = Fixture()
    assert fixture.marks(fixture.one).mark(KEY)
    fixture.server.received(fixture.one, Store(NOT_EXCLUSIVE, 0, b"?", KEY))
    assert fixture.server.claimed_keys == 0
    failures.clear()
