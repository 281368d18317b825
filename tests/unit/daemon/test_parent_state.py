"""What the parent answers its workers."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.task import Clock

from goproxyai.admin.summed_sources import ReportDocument
from goproxyai.daemon.parent_state import COLLECT_SECONDS, ParentState, WorkerPeer
from goproxyai.state.cache_server import MAX_SILENT_TICKS, CacheServer
from goproxyai.state.messages import (
    Ask,
    AskPage,
    Clear,
    Collect,
    Done,
    Granted,
    LookUp,
    Message,
    Page,
    PutBack,
    Reachable,
    Replaced,
    Report,
    Written,
)
from goproxyai.state.refilled_buckets import RefilledBuckets
from tests.support.shared_memory import SharedMemory


@attrs.define(eq=False)
class Worker:
    index: int
    report: ReportDocument | None = None
    reachable: bool = True
    silent_ticks: int = 0
    sent: list[Message] = attrs.field(factory=list)

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def new(self) -> list[Message]:
        sent, self.sent = self.sent, []
        return sent


class Fixture:
    """Two workers, and a rate limit of 16 requests a minute: a lease of 2 tokens."""

    def __init__(self, per_minute: int = 16) -> None:
        self.clock = Clock()
        memory = SharedMemory()
        self.workers: list[WorkerPeer] = []
        self.one, self.other = Worker(0), Worker(1)
        self.workers += [self.one, self.other]
        self.retired: list[Any] = []
        self.state = ParentState(
            self.clock,
            RefilledBuckets(self.clock, per_minute),
            per_minute,
            2,
            lambda: self.workers,
            self,  # type: ignore[arg-type]  # has the method that is called
            lambda page, known: f"{page} {known}".encode(),
            CacheServer(memory.writes(), memory.marks()),
        )

    def retire(self, report: ReportDocument | None) -> None:
        self.retired.append(report)


def test_tokens_are_granted_and_put_back() -> None:
    fixture = Fixture()
    for _ in range(9):
        fixture.state.received(fixture.one, Ask("a", 2))
    granted = [each.tokens for each in fixture.one.new() if isinstance(each, Granted)]
    assert granted == [2, 2, 2, 2, 2, 2, 2, 1, 1]
    fixture.state.received(fixture.one, Ask("a", 2))
    (refusal,) = fixture.one.new()
    assert isinstance(refusal, Granted)
    assert (refusal.tokens, refusal.wait > 0) == (0, True)
    fixture.state.received(fixture.one, PutBack([("a", 2), ("b", 1)]))
    fixture.state.received(fixture.other, Ask("a", 1))
    assert fixture.other.new() == [Granted("a", 1, 0.0)]


def test_lease_follows_the_limit() -> None:
    fixture = Fixture()
    assert fixture.state.lease == 2
    fixture.state.set_rate(80)
    assert fixture.state.lease == 10
    fixture.state.set_rate(0)
    assert fixture.state.lease == 0


def test_write_is_passed_on_to_the_others() -> None:
    fixture = Fixture()
    fixture.state.received(fixture.one, Written(b"owner"))
    assert (fixture.one.new(), fixture.other.new()) == ([], [Written(b"owner")])
    fixture.state.received(fixture.one, Replaced([b"key"]))
    assert (fixture.one.new(), fixture.other.new()) == ([], [Replaced([b"key"])])


def test_clearing_is_done_when_the_others_have_cleared() -> None:
    fixture = Fixture()
    fixture.state.received(fixture.one, Clear(b"/v1/a", 9))
    (asked,) = fixture.other.new()
    assert isinstance(asked, Clear)
    assert asked.path == b"/v1/a"
    assert fixture.one.new() == []
    fixture.state.received(fixture.other, Done(asked.number))
    assert fixture.one.new() == [Done(9)]
    assert fixture.clock.getDelayedCalls() == []


def test_clearing_without_others_is_done_at_once() -> None:
    fixture = Fixture()
    fixture.workers.remove(fixture.other)
    fixture.state.received(fixture.one, Clear(None, 1))
    assert fixture.one.new() == [Done(1)]


def test_end_and_silence_of_a_worker_pass_its_claims_on() -> None:
    fixture = Fixture()
    claims = fixture.state.cache.claims
    for worker in (fixture.one, fixture.other):
        fixture.state.received(worker, LookUp(1, b"k" * 32, b"owner", b"/v1/a"))
    fixture.one.silent_ticks = MAX_SILENT_TICKS
    fixture.state.tick()
    assert (claims.held_by(fixture.one), len(claims.held_by(fixture.other))) == ([], 1)
    fixture.state.worker_ended(fixture.other, told_all=True)
    assert len(claims) == 0


def test_page_waits_for_all_reports() -> None:
    fixture = Fixture()
    fixture.state.received(fixture.one, AskPage(3, "stats", 7))
    ((asked,), (same,)) = fixture.one.new(), fixture.other.new()
    assert asked == same
    assert isinstance(asked, Collect)
    for worker in (fixture.one, fixture.other):
        fixture.state.received(worker, Report(asked.number, {"of": id(worker)}, True))
    assert fixture.one.new() == [Page(3, b"stats 7")]
    assert fixture.other.report == {"of": id(fixture.other)}
    assert fixture.state.left_out == 0


def test_page_leaves_out_a_worker_that_does_not_report() -> None:
    fixture = Fixture()
    fixture.state.received(fixture.one, AskPage(3, "stats", 0))
    fixture.state.received(fixture.one, Report(1, {}, True))
    fixture.one.new()
    fixture.clock.advance(COLLECT_SECONDS)
    assert fixture.one.new() == [Page(3, b"stats 0")]
    assert fixture.state.left_out == 1
    fixture.state.received(fixture.other, Report(1, {}, True))  # late
    assert fixture.one.new() == []


def test_end_of_a_worker_ends_the_wait_for_it() -> None:
    fixture = Fixture()
    fixture.other.report = {"last": 1}
    fixture.state.received(fixture.one, AskPage(3, "stats", 0))
    fixture.state.received(fixture.one, Report(1, {}, True))
    fixture.one.new()
    fixture.workers.remove(fixture.other)
    fixture.state.worker_ended(fixture.other, told_all=False)
    assert fixture.one.new() == [Page(3, b"stats 0")]
    assert (fixture.retired, fixture.state.lost_reports) == ([{"last": 1}], 1)
    fixture.state.worker_ended(fixture.other, told_all=True)
    assert fixture.state.lost_reports == 1


def test_reachability_is_that_of_any_worker() -> None:
    fixture = Fixture()
    fixture.state.received(fixture.one, Report(0, {}, False))
    assert fixture.one.new() == []
    fixture.state.received(fixture.other, Report(0, {}, False))
    assert fixture.one.new() == fixture.other.new() == [Reachable(False)]
    fixture.state.worker_started(fixture.one)
    assert fixture.one.new() == [Reachable(False)]
    fixture.state.received(fixture.one, Report(0, {}, True))
    assert fixture.other.new() == [Reachable(True)]


def test_stop_asks_nothing_more() -> None:
    fixture = Fixture()
    fixture.state.received(fixture.one, AskPage(3, "stats", 0))
    fixture.state.stop()
    assert fixture.clock.getDelayedCalls() == []
