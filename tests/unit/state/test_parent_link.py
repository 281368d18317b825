"""A worker's end of the link, with a parent that the test plays."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import TimeoutError as AnswerTimeout
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from goproxyai.state.messages import (
    Ask,
    AskPage,
    Clear,
    Collect,
    Done,
    Drain,
    FrameReader,
    Granted,
    Message,
    Page,
    PutBack,
    Reachable,
    Reload,
    Reopen,
    Replaced,
    Report,
    Serve,
    Written,
)
from goproxyai.state.parent_link import (
    CLEARING_SECONDS,
    MAX_NOTED_OWNERS,
    PAGE_SECONDS,
    ParentLink,
    WorkerActions,
)
from tests.support.shared_memory import UNIX, SharedMemory, store
from tests.unit.cache.snapshots import record
from tests.unit.cache.stored import ALICE, BOB, FILES


class Fixture:
    def __init__(self) -> None:
        self.clock = Clock()
        self.calls: list[Any] = []
        self.memory = SharedMemory()
        self.link = ParentLink(self.clock, 60, self.memory.records(0), self.memory.marks(0))
        self.link.store = self  # type: ignore[assignment]  # has the methods that are called
        self.link.actions = WorkerActions(
            lambda: ({"counters": {}}, True),
            lambda: self.calls.append("serve"),
            lambda: self.calls.append("reload"),
            lambda: self.calls.append("reopen"),
            lambda: self.calls.append("drain"),
            lambda: self.calls.append("parent lost"),
        )
        self.transport = StringTransport()
        self.link.channel.makeConnection(self.transport)

    def invalidate(self, owner: bytes) -> None:
        self.calls.append(owner)

    def drop(self, keys: list[bytes]) -> None:
        self.calls.append(keys)

    def clear(self, path: bytes | None) -> None:
        self.calls.append(("clear", path))

    def sent(self) -> list[Message]:
        data = self.transport.value()
        self.transport.clear()
        return FrameReader().feed(data)


def test_parent_acts_on_the_worker() -> None:
    fixture = Fixture()
    fixture.memory.writes(1).record_write(b"o")
    for message in (
        Written(b"o"), Clear(b"/v1/a", 0), Clear(None, 4), Serve(), Reload(), Reopen(), Drain(),
        Reachable(False), Collect(5),
    ):  # fmt: skip
        fixture.link.message_received(message)
    fixture.link.peer_lost()
    assert fixture.calls == [
        b"o", ("clear", b"/v1/a"), ("clear", None), "serve", "reload", "reopen", "drain",
        "parent lost",
    ]  # fmt: skip
    assert not fixture.link.any_reachable
    assert fixture.sent() == [Done(4), Report(5, {"counters": {}}, True)]


def test_write_is_announced() -> None:
    fixture = Fixture()
    fixture.link.announce_write(b"o")
    assert fixture.sent() == [Written(b"o")]


def test_write_of_another_worker_is_noticed_before_its_message() -> None:
    fixture = Fixture()
    link, other = fixture.link, fixture.memory.writes(1)
    link.catch_up(ALICE)
    link.announce_write(ALICE)  # its own: the caller has dropped the entries
    link.catch_up(ALICE)
    assert fixture.calls == []
    for writes in (1, 2):
        other.record_write(ALICE)
        link.catch_up(BOB)
        link.catch_up(ALICE)
        link.catch_up(ALICE)
        assert fixture.calls == [ALICE] * writes


def test_message_drops_nothing_that_was_requested_after_the_write_was_noticed() -> None:
    fixture = Fixture()
    fixture.memory.writes(1).record_write(ALICE)
    fixture.link.catch_up(ALICE)
    fixture.link.message_received(Written(ALICE))
    assert fixture.calls == [ALICE]
    fixture.memory.writes(1).record_write(ALICE)
    fixture.link.message_received(Written(ALICE))
    assert fixture.calls == [ALICE, ALICE]


def test_forgotten_owner_loses_its_entries_once_more() -> None:
    fixture = Fixture()
    link, other = fixture.link, fixture.memory.writes(1)
    other.record_write(ALICE)
    link.catch_up(ALICE)
    for number in range(MAX_NOTED_OWNERS):
        link.announce_write(b"%d" % number)
    link.catch_up(ALICE)
    link.catch_up(ALICE)
    assert fixture.calls == [ALICE, ALICE]


@pytest.mark.parametrize("path", [None, FILES, b""])
def test_announcement_reaches_the_second_level_at_once(path: bytes | None) -> None:
    fixture = Fixture()
    others = fixture.memory.records(1)
    one = record(stored=UNIX, expires=UNIX + 60)
    assert store(others, one)
    if path == b"":
        fixture.link.announce_write(ALICE)
    else:
        fixture.link.announce_clearing(path)
        fixture.clock.advance(CLEARING_SECONDS)
    assert not others.has(one.key, ALICE, FILES)


def test_clearing_by_another_worker_drops_the_records_of_this_one() -> None:
    fixture = Fixture()
    records = fixture.link.second_level.records
    assert store(records, record(stored=UNIX, expires=UNIX + 60))
    fixture.link.message_received(Clear(FILES, 0))
    assert records.numbers().records == 1
    fixture.link.message_received(Clear(None, 0))
    assert records.numbers().records == 0


def test_responses_that_another_worker_has_replaced_are_dropped() -> None:
    fixture = Fixture()
    fixture.link.message_received(Replaced([b"one", b"other"]))
    assert fixture.calls == [[b"one", b"other"]]


def test_clearing_fires_after_the_others_and_after_its_deadline() -> None:
    fixture = Fixture()
    done: list[Any] = []
    for _ in range(2):
        fixture.link.announce_clearing(None).addCallback(done.append)
    assert fixture.sent() == [Clear(None, 1), Clear(None, 2)]
    fixture.link.message_received(Done(2))
    assert done == [None]
    fixture.clock.advance(CLEARING_SECONDS)
    assert done == [None, None]
    fixture.link.message_received(Done(1))  # late
    assert fixture.clock.getDelayedCalls() == []


def test_page_is_asked_for_and_fails_without_an_answer() -> None:
    fixture = Fixture()
    pages: list[Any] = []
    fixture.link.page("stats").addCallback(pages.append)
    late = fixture.link.page("dashboard", 7)
    assert fixture.sent() == [AskPage(1, "stats", 0), AskPage(2, "dashboard", 7)]
    fixture.link.message_received(Page(1, b"{}"))
    assert pages == [b"{}"]
    fixture.clock.advance(PAGE_SECONDS)
    late.addErrback(lambda failure: pages.append(failure.trap(AnswerTimeout)))
    assert pages[1:] == [AnswerTimeout]


def test_cancelled_page_is_forgotten() -> None:
    fixture = Fixture()
    page = fixture.link.page("stats")
    page.addErrback(lambda _: None)
    page.cancel()
    fixture.link.message_received(Page(1, b"{}"))
    assert fixture.clock.getDelayedCalls() == []


def test_limiter_asks_the_parent() -> None:
    fixture = Fixture()
    decisions: list[float] = []
    fixture.link.limiter.take("a")
    fixture.link.limiter.when_decided("a", decisions.append)
    fixture.link.message_received(Granted("a", 7, 0.0))
    assert decisions == [0.0]
    fixture.link.limiter.set_rate(0)
    assert fixture.sent() == [Ask("a", 7), PutBack([("a", 6)])]


@pytest.mark.parametrize("number", [1, 99])
def test_answer_that_is_not_expected_is_ignored(number: int) -> None:
    Fixture().link.message_received(Done(number))
