"""The numbers of several workers: their reports, and sums that the pages are rendered from.

A report holds plain values only, see :func:`report_document`. The counters of workers that have
ended stay in the sum (:class:`SummedSources.retire`), their gauges do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IReactorTime

from goproxyai.admin.process_numbers import OwnProcess, ProcessNumbers
from goproxyai.admin.sources import MAX_RECENT_ERRORS, LimiterNumbers, PageSources
from goproxyai.proxy.live_requests import LiveRow, oldest_first
from goproxyai.telemetry.busiest import ClientRow, PathRow, summed_clients, summed_paths
from goproxyai.telemetry.counter_sum import add, dumped, end_requests
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.failure_log import merged_groups
from goproxyai.upstream.breaker import CircuitState
from goproxyai.usage.prices import Prices

_BEST_FIRST: Final = (CircuitState.CLOSED, CircuitState.HALF_OPEN, CircuitState.OPEN)

ReportDocument = dict[str, Any]
"""A report: ``counters``, ``numbers``, ``upstreams``, ``tables`` and ``subscriptions``."""

_CUMULATIVE: Final = ("stores", "evictions", "expirations", "broken_off", "log_lines")
"""Numbers that only grow; those of ended workers stay in the sum."""


def report_document(sources: PageSources, subscriptions: int) -> ReportDocument:
    """Return the report of this process.

    :param subscriptions: open event streams of the dashboard.
    """
    sources.refresh()
    store, memory, now = sources.store, sources.memory, sources.clock.seconds()
    state = sources.state
    return {
        "counters": dumped(sources.counters),
        "numbers": {
            "entries": len(store),
            "bytes": store.bytes,
            "max_bytes": store.max_bytes,
            "reserved": store.reserved,
            "stores": store.stores,
            "evictions": store.evictions,
            "expirations": store.expirations,
            "flights": len(sources.flights),
            "pool": len(sources.pool),
            "max_connections": sources.slots.max_connections,
            "memory": memory.used,
            "memory_limit": memory.limit,
            "broken_off": memory.broken_off,
            "log_lines": sources.dropped_log_lines(),
            "state_processes": 0 if state is None else state.processes,
            "state_up": 0 if state is None else state.up,
            "state_half_open": 0 if state is None else state.half_open,
        },
        "upstreams": [
            (each.url, each.breaker.state(now).value, each.breaker.times_opened)
            for each in sources.upstreams.all
        ],
        "tables": {
            "errors": sources.recent_errors(),
            "failures": sources.failure_groups(),
            "clients": sources.clients(),
            "paths": sources.cached_paths(),
            "live": sources.live(),
        },
        "process": attrs.asdict(sources.process()),
        "subscriptions": subscriptions,
    }


@attrs.define(eq=False)
class SummedCircuit:
    """The circuits of one upstream in all workers: the best state, and all openings."""

    url: str
    best: CircuitState = CircuitState.OPEN
    times_opened: int = 0

    @property
    def breaker(self) -> SummedCircuit:
        return self

    def state(self, now: float) -> CircuitState:
        return self.best

    def add(self, state: CircuitState, opened: int) -> None:
        self.best = min(self.best, state, key=_BEST_FIRST.index)
        self.times_opened += opened


@attrs.define(eq=False)
class SummedUpstreams:
    """The upstreams, in order of preference."""

    all: list[SummedCircuit] = attrs.field(factory=list)


@attrs.define(eq=False)
class SummedCache:
    """The sum of the caches; see :class:`.Store`."""

    count: int
    bytes: int
    max_bytes: int
    reserved: int
    stores: int
    evictions: int
    expirations: int

    def __len__(self) -> int:
        return self.count


@attrs.frozen
class SummedMemory:
    """The sum of the budgets; see :class:`.RequestMemory`."""

    used: int
    limit: int
    broken_off: int


@attrs.frozen
class SummedSlots:
    """The connections that all workers admit."""

    max_connections: int


@attrs.frozen
class SummedState:
    """The shared state as all workers see it."""

    processes: int
    up: int
    half_open: int
    lease: int


@attrs.define
class SummedTables:
    """The tables of all reports.

    :ivar process: the resources of all processes.
    """

    errors: list[dict[str, Any]] = attrs.field(factory=list)
    failures: list[dict[str, Any]] = attrs.field(factory=list)
    clients: list[list[ClientRow]] = attrs.field(factory=list)
    paths: list[list[PathRow]] = attrs.field(factory=list)
    live: list[LiveRow] = attrs.field(factory=list)
    process: ProcessNumbers = attrs.field(factory=ProcessNumbers)

    def add(self, report: ReportDocument) -> None:
        tables = report["tables"]
        self.errors += tables["errors"]
        self.failures += tables["failures"]
        self.clients.append(tables["clients"])
        self.paths.append(tables["paths"])
        self.live += tables["live"]
        self.process = self.process.plus(ProcessNumbers(**report["process"]))


@attrs.define(eq=False)
class SummedSources:
    """The sum of all workers: a :class:`~.sources.PageSources`.

    The object of :attr:`counters` stays the same, and holds the sum of the last :meth:`refresh`.

    :param admission: of the parent process, which has the token buckets.
    :param own_dropped_lines: log lines that the parent process has dropped.
    :param state_lease: returns the lease of ``STATE_URL``, ``None`` without that.
    :param reports: returns the last reports of the workers that serve.
    :ivar subscriptions: open event streams of the dashboard.
    """

    clock: IReactorTime
    admission: LimiterNumbers
    _own_dropped_lines: Callable[[], int]
    _prices: Callable[[], Prices]
    _reports: Callable[[], Iterable[ReportDocument]]
    _state_lease: Callable[[], int | None] = lambda: None
    counters: Counters = attrs.field(factory=Counters)
    upstreams: SummedUpstreams = attrs.field(factory=SummedUpstreams)
    subscriptions: int = 0
    _numbers: dict[str, int] = attrs.field(factory=dict)
    _tables: SummedTables = attrs.field(factory=SummedTables)
    _parent: OwnProcess = attrs.field(
        init=False, default=attrs.Factory(lambda self: OwnProcess(self.clock.seconds), True)
    )
    _ended: Counters = attrs.field(factory=Counters)
    _ended_numbers: dict[str, int] = attrs.field(factory=dict)
    _ended_openings: dict[str, int] = attrs.field(factory=dict)
    _ended_failures: list[dict[str, Any]] = attrs.field(factory=list)

    def retire(self, report: ReportDocument | None) -> None:
        """Keep the counters of a worker that has ended, as its last *report* has them."""
        if report is None:
            return
        add(self._ended, report["counters"])
        end_requests(self._ended)
        for name in _CUMULATIVE:
            self._ended_numbers[name] = self._ended_numbers.get(name, 0) + report["numbers"][name]
        for url, _, opened in report["upstreams"]:
            self._ended_openings[url] = self._ended_openings.get(url, 0) + opened
        failures = [*self._ended_failures, *report["tables"]["failures"]]
        self._ended_failures = merged_groups(failures)

    def refresh(self) -> None:
        """Replace the sum by that of the present reports and of the workers that have ended."""
        counters = Counters()
        counters.tokens.prices = self._prices()
        add(counters, dumped(self._ended))
        numbers = dict(self._ended_numbers)
        tables = SummedTables(failures=list(self._ended_failures), process=self._parent.read())
        upstreams: dict[str, SummedCircuit] = {}
        self.subscriptions = 0
        for report in self._reports():
            add(counters, report["counters"])
            for name, number in report["numbers"].items():
                numbers[name] = numbers.get(name, 0) + number
            tables.add(report)
            self.subscriptions += report["subscriptions"]
            for url, state, opened in report["upstreams"]:
                upstreams.setdefault(url, SummedCircuit(url)).add(CircuitState(state), opened)
        for url, opened in self._ended_openings.items():
            if url in upstreams:
                upstreams[url].times_opened += opened
        vars(self.counters).update(vars(counters))
        self._numbers = numbers
        self._tables = tables
        self.upstreams.all = list(upstreams.values())

    def recent_errors(self) -> list[dict[str, Any]]:
        errors = sorted(self._tables.errors, key=lambda error: float(error["time"]), reverse=True)
        return errors[:MAX_RECENT_ERRORS]

    def failure_groups(self) -> list[dict[str, Any]]:
        return merged_groups(self._tables.failures)

    def clients(self) -> list[ClientRow]:
        return summed_clients(self._tables.clients)

    def cached_paths(self) -> list[PathRow]:
        return summed_paths(self._tables.paths)

    def live(self) -> list[LiveRow]:
        return oldest_first(self._tables.live)

    def process(self) -> ProcessNumbers:
        return self._tables.process

    def _number(self, name: str) -> int:
        return self._numbers.get(name, 0)

    @property
    def store(self) -> SummedCache:
        names = ["entries", "bytes", "max_bytes", "reserved", "stores", "evictions", "expirations"]
        return SummedCache(*map(self._number, names))

    @property
    def memory(self) -> SummedMemory:
        return SummedMemory(*map(self._number, ("memory", "memory_limit", "broken_off")))

    @property
    def slots(self) -> SummedSlots:
        return SummedSlots(self._number("max_connections"))

    @property
    def state(self) -> SummedState | None:
        lease = self._state_lease()
        if lease is None:
            return None
        processes, up, half_open = map(
            self._number, ("state_processes", "state_up", "state_half_open")
        )
        return SummedState(processes, up, half_open, lease)

    @property
    def flights(self) -> Sized:
        return range(self._number("flights"))

    @property
    def pool(self) -> Sized:
        return range(self._number("pool"))

    def dropped_log_lines(self) -> int:
        return self._number("log_lines") + self._own_dropped_lines()
