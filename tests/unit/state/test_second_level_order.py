"""Any order of messages, and any death of a worker, serves no outdated response.

A model of the service: an upstream whose responses have a version, workers with a store each, the
parent, and the memory that they share. Messages of one worker arrive in their order; those of
different workers in any order. A worker may be killed at any write to the shared memory.
"""

from __future__ import annotations

from collections import deque
from random import Random

import attrs
import pytest
from twisted.internet.task import Clock

from goproxyai.cache.record import Record, restored_entry
from goproxyai.cache.store import Store as Entries
from goproxyai.state.cache_client import CacheClient
from goproxyai.state.cache_server import CacheServer
from goproxyai.state.messages import AskClaim, Clear, Found, Message, Missing, Waits, Written
from goproxyai.state.second_level import Claim
from tests.support.shared_memory import UNIX, Kill, Killed, SharedMemory, store
from tests.unit.cache.snapshots import record
from tests.unit.cache.stored import ALICE, FILES

KEY = b"a" * 32
WORKERS = 3
RING_BYTES = 5_000


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
    :ivar waiting: look-ups without an answer so far.
    :ivar known: version of the last write or clearing that has reached the worker; nothing older
        may answer a request from then on.
    """

    def __init__(self, index: int, memory: SharedMemory, known: int) -> None:
        self.clock = Clock()
        self.index = index
        self.silent_ticks = self.questions = self.waiting = 0
        self.known = known
        self.store = Entries(1_000_000)
        self.to_parent: deque[tuple[Message, int]] = deque()
        self.from_parent: deque[tuple[Message, int]] = deque()
        self.records = memory.records(index)
        self.client = CacheClient(self.clock, self._ask, self.records, memory.marks(index))

    def _ask(self, message: Message) -> bool:
        self.to_parent.append((message, 0))
        return True

    def send(self, message: Message) -> None:
        self.from_parent.append((message, 0))

    def announce(self, message: Written | Clear, version: int) -> None:
        """Make a write or a clearing, and announce it."""
        apply(message, self.store)
        self.known = version
        if isinstance(message, Written):
            self.records.writes.record_write(message.owner)
        else:
            self.records.record_clearing(message.path)
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
    :ivar served: look-ups that were answered with a response.
    :ivar deaths: of workers, at a write to the shared memory.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.memory = SharedMemory(WORKERS, RING_BYTES)
        self.server = CacheServer(self.memory.writes(), self.memory.marks())
        self.version = self.served = self.deaths = self.questions = 0
        self.asks: list[Ask] = []
        self.all = [self._new_worker(index) for index in range(WORKERS)]

    def _new_worker(self, index: int) -> Worker:
        worker = Worker(index, self.memory, self.version)
        self.server.worker_started(worker)
        return worker

    def request(self) -> None:
        worker = self.random.choice(self.all)
        generation, oldest = worker.store.generation(), worker.known
        entry = worker.store.get(KEY, 0.0)
        if entry is not None:
            assert version_of(entry.body) >= oldest
            return
        worker.waiting += 1

        def answered(found: Record | None, claim: Claim | None) -> None:
            worker.waiting -= 1
            if found is not None:  # a write counts for the second level at once
                assert version_of(found.body) == self.version
            if found is not None and not worker.store.is_outdated(ALICE, generation):
                self.served += 1
                entry = restored_entry(found, 0.0, UNIX, 0.0)
                assert entry is not None
                assert worker.store.put(entry, FILES, ALICE, generation)
            else:
                self.asks.append(Ask(worker, worker.store.generation(), claim))

        claims = self.random.random() < 0.7
        worker.client.look_up(KEY, ALICE, FILES, claims, answered)

    def other_response(self) -> None:
        """Store the response of another key, which may overwrite others."""
        self._store_other(self.random.choice(self.all))

    def _store_other(self, worker: Worker) -> None:
        other = record(self.random.randrange(9), stored=UNIX, expires=UNIX + 9, path=b"/v1/other")
        assert store(worker.records, other)

    def death(self) -> None:
        """Kill a worker while it stores responses, and replace it."""
        worker, kill = self.random.choice(self.all), Kill()
        kill.watch(worker.records.rings[worker.index], self.memory.ring_memory[worker.index])
        kill.watch_index(worker.records)
        kill.after = self.random.randrange(40)
        try:
            for ask in [ask for ask in self.asks if ask.worker is worker and ask.version]:
                self.asks.remove(ask)
                self._end(ask, "store")
            worker.clock.advance(0)
            for _ in range(10):
                self._store_other(worker)
        except Killed:
            self.deaths += 1
        while worker.to_parent:
            self._parent_reads(worker)
        self.asks = [ask for ask in self.asks if ask.worker is not worker]
        self.questions += worker.questions
        self.server.worker_ended(worker)
        self.all[worker.index] = self._new_worker(worker.index)

    def responses_are_stored(self) -> None:
        self.random.choice(self.all).clock.advance(0)

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
        entry = restored_entry(one, self.memory.now, UNIX, 0.0)
        assert entry is not None
        is_stored = end == "store" and store.put(entry, FILES, ALICE, ask.generation)
        if claim is None:
            return
        if is_stored:
            claim.store(entry)
        elif end == "give_up":
            claim.give_up()
        else:
            claim.fail()

    def write(self) -> None:
        self.version += 1
        message = self.random.choice([Written(ALICE), Clear(None, 0), Clear(FILES, 0)])
        self.random.choice(self.all).announce(message, self.version)

    def parent_reads(self) -> None:
        unread = [worker for worker in self.all if worker.to_parent]
        if not unread:
            return
        self._parent_reads(self.random.choice(unread))

    def _parent_reads(self, worker: Worker) -> None:
        message, version = worker.to_parent.popleft()
        if not isinstance(message, (Written, Clear)):
            self.server.received(worker, message)  # type: ignore[arg-type]
            return
        for other in self.all:
            if other is not worker:
                other.from_parent.append((message, version))

    def worker_reads(self) -> None:
        unread = [worker for worker in self.all if worker.from_parent]
        if unread:
            self.random.choice(unread).read()

    def everything_arrives(self) -> None:
        """All messages are read: nothing outdated is left anywhere, and no claim is lost."""
        for worker in self.all:
            worker.clock.advance(0)
        while any(worker.to_parent or worker.from_parent for worker in self.all):
            self.parent_reads()
            self.worker_reads()
        for worker in self.all:
            assert worker.known == self.version
        for worker in self.all:
            assert all(version_of(entry.body) >= self.version for entry in worker.store)
        for each in self.memory.records():
            assert each.path != FILES or version_of(each.body) == self.version
        assert self.server.claims.waiting == self._waiting()
        # A claim that was overtaken is no longer in the table.
        assert sum(worker.client.claims for worker in self.all) >= len(self.server.claims)

    def _waiting(self) -> int:
        return sum(worker.waiting for worker in self.all)

    def finish(self) -> None:
        """All requests end: no look-up waits, and no claim is left."""
        self.everything_arrives()
        while self.asks:
            self._end(self.asks.pop(), "give_up")
            self.everything_arrives()
        assert self._waiting() == 0
        assert (len(self.server.claims), self.server.claimed_keys) == (0, 0)
        assert len(self.memory.marks()) == 0
        for worker in self.all:
            worker.client.stop()


@pytest.mark.unmeasured
@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_messages_and_no_death_serves_an_outdated_response(seed: int) -> None:
    served = questions = deaths = 0
    for run in range(200):
        model = Model(Random(f"{seed} {run}"))
        events = [
            *[model.request] * 12, *[model.upstream_answers] * 8, *[model.response_ends] * 8,
            *[model.parent_reads] * 12, *[model.worker_reads] * 12, *[model.write] * 4,
            *[model.other_response] * 4, *[model.responses_are_stored] * 8, model.death,
        ]  # fmt: skip
        for _ in range(100):
            model.random.choice(events)()
        model.finish()
        served += model.served
        deaths += model.deaths
        questions += model.questions + sum(worker.questions for worker in model.all)
    assert (served > 50, questions > 50, deaths > 50) == (True, True, True)
