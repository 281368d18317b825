"""The return of unused memory, and the budget that the rest leaves to requests in progress."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs

from goproxyai.cache.store import Store
from goproxyai.daemon.resident_memory import (
    INTERVAL_SECONDS,
    TRIMMED_BYTES,
    WARNING_INTERVAL_SECONDS,
    WINDOW_SECONDS,
    ResidentMemory,
)
from goproxyai.limits.request_memory import (
    CONNECTION_BYTES,
    COPIES_SHARE,
    MAX_SUDDEN_BYTES,
    MIN_SHARE,
    SUDDEN_SHARE,
    Holding,
    RequestMemory,
    affordable_bytes,
)
from tests.support.harness import lines

MIB = 1024 * 1024
START = 60 * MIB


@attrs.define(eq=False)
class Process:
    """A process whose resident memory is what a test says.

    :ivar extra: bytes that no account explains.
    """

    memory: RequestMemory = attrs.field(factory=lambda: RequestMemory(64 * MIB))
    store: Store = attrs.field(factory=lambda: Store(50 * MIB))
    connections: int = 0
    extra: int = 0
    trims: list[int] = attrs.field(factory=list)
    now: float = 0.0
    resident: ResidentMemory = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.resident = ResidentMemory(
            self.memory, self.store, lambda: self.connections, self._bytes, self._trim
        )

    def _bytes(self) -> int:
        return START + self.memory.used + self.store.bytes + self.extra

    def _trim(self, pad: int) -> int:
        self.trims.append(pad)
        return 1

    def tick(self, seconds: float = INTERVAL_SECONDS) -> None:
        self.now += seconds
        self.resident.tick(self.now)


def test_memory_is_returned_while_requests_hold_much_of_it_and_once_after() -> None:
    process = Process()
    holding = Holding(process.memory)
    for count in (TRIMMED_BYTES - 1, TRIMMED_BYTES, 0, 0):
        holding.hold(count)
        process.tick()
    assert process.trims == [0, 0]


def test_memory_is_returned_at_intervals() -> None:
    process = Process()
    holding = Holding(process.memory)
    for step in range(9):  # each second step releases much
        holding.hold(TRIMMED_BYTES * ((step + 1) % 2))
        process.tick(INTERVAL_SECONDS / 4)
    assert process.trims == [0, 0, 0]


def test_memory_is_returned_when_the_memory_that_no_account_explains_has_grown() -> None:
    process = Process(RequestMemory(MIB))
    trims = []
    for extra in (0, TRIMMED_BYTES - 1, TRIMMED_BYTES, TRIMMED_BYTES, 0, TRIMMED_BYTES, 0):
        process.extra = extra
        process.tick()  # the growth up to the tick before is known
        trims.append(len(process.trims))
    assert trims == [0, 0, 0, 1, 1, 1, 2]


def test_accounted_memory_leaves_the_budget_as_configured() -> None:
    process = Process()
    process.tick()
    Holding(process.memory).hold(60 * MIB)
    process.tick()
    assert process.resident.unexplained == 0
    assert process.memory.limit == process.memory.max_bytes


def test_budget_shrinks_and_recovers_with_memory_that_no_account_explains() -> None:
    process = Process()
    process.tick()
    process.extra = 46 * MIB
    process.tick()
    assert process.resident.unexplained == 46 * MIB
    room = (64 + 10 + 32 - 46 - 64 * SUDDEN_SHARE) * MIB
    assert process.memory.limit == int(room / (1 + COPIES_SHARE))
    process.extra = 0
    process.tick()
    assert process.memory.limit == 64 * MIB


def test_requests_are_refused_by_the_budget_at_present() -> None:
    process = Process()
    process.tick()
    Holding(process.memory).hold(50 * MIB)
    assert not process.memory.is_full
    process.extra = 40 * MIB
    process.tick()
    assert process.memory.is_full
    assert process.memory.is_exceeded


def test_open_connections_explain_memory() -> None:
    process = Process()
    process.tick()
    process.extra = 46 * MIB
    process.connections = 46 * MIB // CONNECTION_BYTES
    process.tick()
    assert process.memory.limit < 64 * MIB  # the connections may end at once
    for _ in range(2):
        process.tick(WINDOW_SECONDS)
    assert process.memory.limit == 64 * MIB
    process.connections = 0
    process.tick()
    assert process.memory.limit < 64 * MIB


def test_unknown_resident_memory_changes_nothing() -> None:
    process = Process()
    resident = ResidentMemory(process.memory, process.store, lambda: 0, lambda: 0, lambda _: 0)
    resident.tick(1.0)
    assert process.memory.limit == process.memory.max_bytes


def test_small_budget_is_logged_once_an_hour() -> None:
    process = Process()
    process.tick()
    process.extra = 90 * MIB
    with capturedLogs() as events:
        for _ in range(3):
            process.tick()
        (warning,) = lines(list(events))
        assert "may hold 16.0 MB instead of MAX_REQUEST_MEMORY" in warning
        process.tick(WARNING_INTERVAL_SECONDS)
        assert len(events) == 2


def test_standstill_postpones_nothing() -> None:
    process = Process()
    process.resident.postpone(60.0, 60.0)
    process.tick()
    assert process.memory.limit == process.memory.max_bytes


def test_new_configuration_replaces_the_budget() -> None:
    memory = RequestMemory(64)
    memory.restrict(10)
    memory.resize(32)
    assert memory.limit == 32
    memory.restrict(100)
    assert memory.limit == 32


sizes = st.integers(min_value=0, max_value=1 << 34)


@given(sizes, sizes, st.integers(min_value=0, max_value=10_000), sizes)
def test_affordable_budget_keeps_the_bound_or_is_the_smallest(
    requests: int, cache: int, connections: int, unexplained: int
) -> None:
    budget = affordable_bytes(requests, cache, connections, unexplained)
    bound = 1.2 * cache + 1.5 * requests + CONNECTION_BYTES * connections
    sudden = min(MAX_SUDDEN_BYTES, SUDDEN_SHARE * requests)
    held = cache + unexplained + budget * (1 + COPIES_SHARE) + sudden
    assert budget <= requests
    assert held <= bound + 1 or budget == int(requests * MIN_SHARE)
