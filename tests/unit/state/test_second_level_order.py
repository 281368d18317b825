"""Any order of messages between the parent and its workers serves no outdated response.

A model of the service: an upstream whose responses have a version, workers with a store each, and
the parent. Messages of one worker arrive in their order; those of different workers in any order.
"""

from __future__ import annotations

from collections import deque
from random import Random

import attrs
import pytest
from twisted.internet.task import Clock

from goproxyai.cache.record import Record, record_of, restored_entry
from goproxyai.cache.store import Store as Entries
from goproxyai.state.cache_client import CacheClient
from goproxyai.state.cache_server import CacheServer
from goproxyai.state.claim_marks import ClaimMarks, marks_bytes
from goproxyai.state.key_presence import PRESENCE_BYTES, AnnouncedStore, KeyPresence
from goproxyai.state.messages import (
    AskClaim,
    Clear,
    Found,
    Message,
    Missing,
    Store,
    Waits,
    Written,
)
from goproxyai.state.second_level import Claim
from tests.unit.cache.snapshots import record
from tests.unit.cache.stored import ALICE, FILES

UNIX = 1e9
KEY = b"a" * 32
WORKERS = 3


@attrs.define(eq=False)
class Ask:
    """A request that upstream is to answer.

    :ivar version: of the response, when upstream has made it.
    """

    worker: Worker
    generation: int
    claim: Claim | None
    version: int | None = None


class Worker:
    """A worker: its store, and the messages on the way to and from the parent.

    :ivar questions: of the parent about a claim that the worker may have made by a mark.
    :ivar known: version of the last write or clearing that has reached the worker; nothing older
        may answer a request from then on.
    """

    def __init__(
        self, clock: Clock, index: int, presence: KeyPresence | None, marks: memoryview
    ) -> None:
        self.index = index
        self.silent_ticks = 0
        self.known = self.questions = 0
        self.store = Entries(1_000_000)
        self.to_parent: deque[tuple[Message, int]] = deque()
        self.from_parent: deque[tuple[Message, int]] = deque()
        own_marks = ClaimMarks(marks, WORKERS, index)
        self.client = CacheClient(
            clock, self._ask, self._send_records, self._ask, presence, own_marks
        )

    def _ask(self, message: Message) -> bool:
        self.to_parent.append((message, 0))
        return True

    def _send_records(self, messages: list[Store]) -> list[bool]:
        return [self._ask(message) for message in messages]

    def send(self, message: Message) -> None:
        self.from_parent.append((message, 0))

    def send_record(self, message: Found) -> bool:
        self.send(message)
        return True

    def announce(self, message: Written | Clear, version: int) -> None:
        """Make a write or a clearing, and announce it."""
        apply(message, self.store)
        self.known = version
        self.to_parent.append((message, version))

    def read(self) -> None:
        message, version = self.from_parent.popleft()
        if isinstance(message, (Found, Missing, Waits)):
            self.client.answered(message)
        elif isinstance(message, AskClaim):
            self.questions += 1
            self.client.asked(message)
        else:
            apply(message, self.store)
            self.known = max(self.known, version)


def apply(message: Message, store: Entries) -> None:
    if isinstance(message, Written):
        store.invalidate(message.owner)
    else:
        assert isinstance(message, Clear), message
        store.clear(message.path)


def version_of(body: bytes) -> int:
    return int(body)


class Model:
    """The service; each method is one event, and does nothing where it is not possible.

    :ivar version: of upstream's state; every write makes a new one. A clearing counts as a write.
    :ivar asks: requests that are under way to upstream or back.
    :ivar waiting: look-ups without an answer so far.
    :ivar served: look-ups that were answered with a response.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.clock = Clock()
        presence = KeyPresence(memoryview(bytearray(PRESENCE_BYTES)))
        memory = memoryview(bytearray(marks_bytes(WORKERS)))
        self.parent_store: Entries = AnnouncedStore(1_000_000, presence)
        self.marks = ClaimMarks(memory, WORKERS)
        self.server = CacheServer(self.parent_store, self.clock.seconds, lambda: UNIX, self.marks)
        known = presence if random.random() < 0.8 else None  # without, all look-ups are asked
        self.all = [Worker(self.clock, index, known, memory) for index in range(WORKERS)]
        for worker in self.all:
            self.server.worker_started(worker)
        self.version = 0
        self.asks: list[Ask] = []
        self.waiting = 0
        self.served = 0

    def request(self) -> None:
        worker = self.random.choice(self.all)
        generation, oldest = worker.store.generation(), worker.known
        entry = worker.store.get(KEY, 0.0)
        if entry is not None:
            assert version_of(entry.body) >= oldest
            return
        self.waiting += 1

        def answered(found: Record | None, claim: Claim | None) -> None:
            self.waiting -= 1
            if found is not None and not worker.store.is_outdated(ALICE, generation):
                assert version_of(found.body) >= oldest
                self.served += 1
                entry = restored_entry(found, 0.0, UNIX, 0.0)
                assert entry is not None
                assert worker.store.put(entry, FILES, ALICE, generation)
            else:
                self.asks.append(Ask(worker, worker.store.generation(), claim))

        claims = self.random.random() < 0.7
        worker.client.look_up(KEY, ALICE, FILES, claims, answered)

    def upstream_answers(self) -> None:
        sent = [ask for ask in self.asks if ask.version is None]
        if sent:
            self.random.choice(sent).version = self.version

    def response_ends(self) -> None:
        answered = [ask for ask in self.asks if ask.version is not None]
        if answered:
            ask = self.random.choice(answered)
            self.asks.remove(ask)
            self._end(ask, self.random.choice(["store"] * 4 + ["give_up", "fail"]))

    def _end(self, ask: Ask, end: str) -> None:
        claim, store = ask.claim, ask.worker.store
        body = b"%d" % (ask.version or 0)
        one = record(key=KEY, body=body, stored=UNIX, expires=UNIX + 9)
        entry = restored_entry(one, 0.0, UNIX, 0.0)
        assert entry is not None
        is_stored = end == "store" and store.put(entry, FILES, ALICE, ask.generation)
        if claim is None:
            return
        if is_stored:
            claim.store(record_of(entry, UNIX))
        elif end == "give_up":
            claim.give_up()
        else:
            claim.fail()

    def write(self) -> None:
        self.version += 1
        message = self.random.choice([Written(ALICE), Clear(None, 0), Clear(FILES, 0)])
        self.random.choice(self.all).announce(message, self.version)

    def parent_reads(self) -> None:
        if self.random.random() < 0.5:
            self.clock.advance(0)  # records are sent
        unread = [worker for worker in self.all if worker.to_parent]
        if not unread:
            return
        worker = self.random.choice(unread)
        message, version = worker.to_parent.popleft()
        if not isinstance(message, (Written, Clear)):
            self.server.received(worker, message)  # type: ignore[arg-type]
            return
        apply(message, self.parent_store)
        for other in self.all:
            if other is not worker:
                other.from_parent.append((message, version))

    def worker_reads(self) -> None:
        unread = [worker for worker in self.all if worker.from_parent]
        if unread:
            self.random.choice(unread).read()

    def everything_arrives(self) -> None:
        """All messages are read: nothing outdated is left anywhere, and no claim is lost."""
        self.clock.advance(0)
        while any(worker.to_parent or worker.from_parent for worker in self.all):
            self.parent_reads()
            self.worker_reads()
            self.clock.advance(0)
        for worker in self.all:
            assert worker.known == self.version
        for store in [self.parent_store, *[worker.store for worker in self.all]]:
            assert all(version_of(entry.body) >= self.version for entry in store)
        assert self.server.claims.waiting == self.waiting
        # A claim that was overtaken is no longer in the table.
        assert sum(worker.client.claims for worker in self.all) >= len(self.server.claims)

    def finish(self) -> None:
        """All requests end: no look-up waits, and no claim is left."""
        self.everything_arrives()
        while self.asks:
            self._end(self.asks.pop(), "give_up")
            self.everything_arrives()
        assert self.waiting == 0
        assert (len(self.server.claims), self.server.claimed_keys, len(self.marks)) == (0, 0, 0)
        for worker in self.all:
            worker.client.stop()


@pytest.mark.unmeasured
@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_messages_serves_an_outdated_response(seed: int) -> None:
    served = questions = 0
    for run in range(300):
        model = Model(Random(f"{seed} {run}"))
        events = [
            *[model.request] * 3, *[model.upstream_answers] * 2, *[model.response_ends] * 2,
            *[model.parent_reads] * 3, *[model.worker_reads] * 3, model.write,
        ]  # fmt: skip
        for _ in range(80):
            model.random.choice(events)()
        model.finish()
        served += model.served
        questions += sum(worker.questions for worker in model.all)
    assert (served > 50, questions > 50) == (True, True)
