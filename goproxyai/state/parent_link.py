"""A worker's link to its parent: the shared state of the workers of one machine.

The parent passes an announcement on to the other workers; see
:class:`goproxyai.daemon.parent_state.ParentState` for the other end.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import TimeoutError as AnswerTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from goproxyai.cache.store import Store
from goproxyai.state.cache_client import CacheClient
from goproxyai.state.channel import Channel, buffered_write
from goproxyai.state.claim_marks import ClaimMarks
from goproxyai.state.leased_limiter import LeasedLimiter
from goproxyai.state.leases import Grant
from goproxyai.state.messages import (
    Ask,
    AskClaim,
    AskPage,
    Clear,
    Collect,
    Done,
    Drain,
    Found,
    Granted,
    Message,
    Missing,
    Page,
    PutBack,
    Reachable,
    Reload,
    Reopen,
    Replaced,
    Report,
    Serve,
    Waits,
    Written,
)
from goproxyai.state.shared_records import SharedRecords

CLEARING_SECONDS: Final = 0.5
"""The longest time that ``DELETE /cache`` waits for the other workers."""

MAX_NOTED_OWNERS: Final = 10_000
"""Owners whose last known write a worker keeps."""

PAGE_SECONDS: Final = 3.0
"""The longest time that a page for operators waits for the parent, which waits for all workers."""


@attrs.define(eq=False)
class WorkerActions:
    """What the parent asks of a worker.

    :ivar report: returns the document of :class:`.Report`, and whether an upstream may be reached.
    """

    report: Callable[[], tuple[dict[str, Any], bool]]
    serve: Callable[[], None]
    reload: Callable[[], None]
    reopen: Callable[[], None]
    drain: Callable[[], None]
    parent_lost: Callable[[], None]


class ParentLink:
    """The shared state of a worker: a :class:`~.shared_state.SharedState`.

    :param records: the stored responses of all workers.
    :param marks: the claims of the workers.
    :param write: writes to a transport.
    :param at_end_of_turn: see :class:`.CacheClient`.
    :ivar channel: to the parent.
    :ivar second_level: the cache that the workers share.
    :ivar limiter: the rate limit.
    :ivar store: the cache of this worker; assigned before messages arrive.
    :ivar actions: assigned before messages arrive.
    :ivar any_reachable: whether any worker may reach an upstream.
    """

    store: Store
    actions: WorkerActions

    def __init__(
        self,
        clock: IReactorTime,
        per_minute: int,
        records: SharedRecords,
        marks: ClaimMarks,
        write: Callable[[Any, bytes], None] = buffered_write,
        at_end_of_turn: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self._clock = clock
        self._numbers = count(1)
        self._answers: dict[int, Deferred[bytes]] = {}
        self._noted: dict[bytes, int] = {}  # the generation of the last known write of an owner
        self.channel = Channel(self, write)
        self.second_level = CacheClient(clock, self.channel.send, records, marks, at_end_of_turn)
        self.limiter = LeasedLimiter(clock, per_minute, self._ask, self._put_back)
        self.any_reachable = True

    # SharedState

    def announce_write(self, owner: bytes) -> None:
        writes = self.second_level.records.writes
        writes.record_write(owner)
        self._note(owner, writes.last_write(owner))
        self.channel.send(Written(owner))

    def announce_clearing(self, path: bytes | None) -> Deferred[None]:
        self.second_level.records.record_clearing(path)
        number, answer = self._expect(CLEARING_SECONDS)
        self.channel.send(Clear(path, number))
        return answer.addBoth(lambda _: None)

    # Look-ups in the memory of this worker.

    def catch_up(self, owner: bytes) -> None:
        """Drop the entries of *owner* if another worker has announced a write of it.

        The message about the write follows. A client that has the answer to its write may already
        ask this worker.
        """
        last = self.second_level.records.writes.last_write(owner)
        if last != self._noted.get(owner, 0):
            self._note(owner, last)
            self.store.invalidate(owner)

    def _note(self, owner: bytes, generation: int) -> None:
        if len(self._noted) >= MAX_NOTED_OWNERS:
            self._noted.clear()  # their entries may be dropped once more
        self._noted[owner] = generation

    # Pages for operators, and reports.

    def page(self, name: str, known: int = 0) -> Deferred[bytes]:
        """Return the page *name* with the numbers of all workers.

        The Deferred fails with ``TimeoutError`` after :data:`PAGE_SECONDS`.
        """
        number, answer = self._expect(PAGE_SECONDS)
        self.channel.send(AskPage(number, name, known))
        return answer

    def send_report(self, number: int = 0) -> None:
        """Report the counters to the parent."""
        document, reachable = self.actions.report()
        self.channel.send(Report(number, document, reachable))

    def _expect(self, seconds: float) -> tuple[int, Deferred[bytes]]:
        number = next(self._numbers)
        answer: Deferred[bytes] = Deferred(lambda _: self._forget(number))
        self._answers[number] = answer
        timer = self._clock.callLater(seconds, self._time_out, number)

        def settled(result: bytes | Failure) -> bytes | Failure:
            if timer.active():
                timer.cancel()
            return result

        return number, answer.addBoth(settled)

    def _forget(self, number: int) -> None:
        self._answers.pop(number, None)

    def _time_out(self, number: int) -> None:
        self._answers.pop(number).errback(AnswerTimeout("the parent process did not answer"))

    def _answered(self, number: int, body: bytes) -> None:
        answer = self._answers.pop(number, None)
        if answer is not None:
            answer.callback(body)

    def _ask(self, client: str, tokens: int) -> None:
        self.channel.send(Ask(client, tokens))

    def _put_back(self, tokens: list[tuple[str, int]]) -> None:
        self.channel.send(PutBack(tokens))

    # Peer

    def message_received(self, message: Message) -> None:
        match message:
            case Found() | Missing() | Waits():
                self.second_level.answered(message)
            case AskClaim():
                self.second_level.asked(message)
            case Granted(client, tokens, wait):
                self.limiter.granted(client, Grant(tokens, wait))
            case Written(owner):  # later requests have noticed it, and their responses are newer
                self.catch_up(owner)
            case Replaced(keys):
                self.store.drop(keys)
            case Clear(path, number):
                self.store.clear(path)
                if path is None:
                    self.second_level.records.clear_own()
                if number:
                    self.channel.send(Done(number))
            case Page(number, body):
                self._answered(number, body)
            case Done(number):
                self._answered(number, b"")
            case Reachable(reachable):
                self.any_reachable = reachable
            case _:
                self._act(message)

    def _act(self, message: Message) -> None:
        match message:
            case Collect(number):
                self.send_report(number)
            case Serve():
                self.actions.serve()
            case Reload():
                self.actions.reload()
            case Reopen():
                self.actions.reopen()
            case Drain():
                self.actions.drain()

    def peer_lost(self) -> None:
        self.second_level.stop()
        self.actions.parent_lost()
