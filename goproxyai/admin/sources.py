"""What the admin endpoints report on: the live objects of this process, or a sum of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs
from twisted.internet.interfaces import IReactorTime

from goproxyai.admin.process_numbers import OwnProcess, ProcessNumbers
from goproxyai.cache.store import Store
from goproxyai.limits.connection_slots import ConnectionSlots
from goproxyai.limits.request_memory import RequestMemory
from goproxyai.proxy.admission import Admission
from goproxyai.proxy.live_requests import LiveRequests, LiveRow
from goproxyai.proxy.upstreams import Upstreams
from goproxyai.telemetry.access_log import AccessLog
from goproxyai.telemetry.busiest import ClientRow, PathRow
from goproxyai.telemetry.counters import Counters
from goproxyai.telemetry.events import Batch, Event
from goproxyai.telemetry.failure_cause import cause_of
from goproxyai.upstream.breaker import CircuitState

if TYPE_CHECKING:
    from goproxyai.state.redis.shared import RedisState

MAX_RECENT_ERRORS: Final = 20
"""Failed requests that the dashboard shows."""

_ERROR_FIELDS = (
    "time", "method", "path", "status", "code", "detail", "client", "request_id",
    "upstream_request_id",
)  # fmt: skip


class CacheNumbers(Protocol):
    """The size of the cache, and counts of its entries; see :class:`.Store`."""

    @property
    def bytes(self) -> int: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def reserved(self) -> int: ...
    @property
    def stores(self) -> int: ...
    @property
    def evictions(self) -> int: ...
    @property
    def expirations(self) -> int: ...
    def __len__(self) -> int: ...


class MemoryNumbers(Protocol):
    """See :class:`.RequestMemory`."""

    @property
    def used(self) -> int: ...
    @property
    def limit(self) -> int: ...
    @property
    def broken_off(self) -> int: ...


class LimiterNumbers(Protocol):
    """The clients that have a token bucket."""

    @property
    def buckets(self) -> Sized: ...


class SlotNumbers(Protocol):
    """The connections from clients."""

    @property
    def max_connections(self) -> int: ...


class CircuitNumbers(Protocol):
    """A circuit breaker."""

    @property
    def times_opened(self) -> int: ...
    def state(self, now: float) -> CircuitState: ...


class UpstreamNumbers(Protocol):
    """An upstream and its circuit."""

    @property
    def url(self) -> str: ...
    @property
    def breaker(self) -> CircuitNumbers: ...


class UpstreamsNumbers(Protocol):
    """All upstreams, in order of preference."""

    @property
    def all(self) -> Sequence[UpstreamNumbers]: ...


class StateNumbers(Protocol):
    """The shared state of ``STATE_URL``, as the processes see it.

    :ivar processes: that serve.
    :ivar up: those that use the shared state.
    :ivar half_open: those whose circuit breaker is half-open.
    :ivar lease: tokens that a process leases at most for one client; 0 without a limit.
    """

    @property
    def processes(self) -> int: ...
    @property
    def up(self) -> int: ...
    @property
    def half_open(self) -> int: ...
    @property
    def lease(self) -> int: ...


def state_of(numbers: StateNumbers) -> str:
    """Return ``ok`` if all processes use the shared state, else ``degraded``."""
    return "ok" if numbers.up == numbers.processes else "degraded"


def circuit_of(numbers: StateNumbers) -> CircuitState:
    """Return the worst state of the circuit breakers of all processes."""
    if numbers.up == numbers.processes:
        return CircuitState.CLOSED
    no_open = numbers.up + numbers.half_open == numbers.processes
    return CircuitState.HALF_OPEN if no_open else CircuitState.OPEN


@attrs.frozen(eq=False)
class LiveState:
    """The shared state as this process sees it: a :class:`StateNumbers`."""

    _state: RedisState

    @property
    def processes(self) -> int:
        return 1

    @property
    def up(self) -> int:
        return int(self._state.up)

    @property
    def half_open(self) -> int:
        return int(self._state.circuit is CircuitState.HALF_OPEN)

    @property
    def lease(self) -> int:
        return self._state.limiter.lease


class PageSources(Protocol):
    """What `/stats`, `/metrics` and the dashboard read; they change none of it.

    :ivar admission: has one token bucket per client.
    :ivar flights: the upstream requests in progress that several clients may share.
    :ivar pool: the open connections to upstreams.
    :ivar slots: the connections from clients.
    :ivar memory: the budget of requests and responses in progress.
    :ivar dropped_log_lines: returns the number of log lines that were dropped.
    :ivar state: ``None`` without ``STATE_URL``.
    """

    @property
    def clock(self) -> IReactorTime: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def admission(self) -> LimiterNumbers: ...
    @property
    def store(self) -> CacheNumbers: ...
    @property
    def flights(self) -> Sized: ...
    @property
    def upstreams(self) -> UpstreamsNumbers: ...
    @property
    def pool(self) -> Sized: ...
    @property
    def slots(self) -> SlotNumbers: ...
    @property
    def memory(self) -> MemoryNumbers: ...
    @property
    def dropped_log_lines(self) -> Callable[[], int]: ...
    @property
    def state(self) -> StateNumbers | None: ...

    def refresh(self) -> None:
        """Count what is not counted yet."""

    def recent_errors(self) -> list[dict[str, Any]]:
        """Return the most recent failed requests, newest first."""

    def failure_groups(self) -> list[dict[str, Any]]:
        """Return the fields of a :class:`.FailureGroup` for each cause of failures."""

    def clients(self) -> list[ClientRow]:
        """Return the clients with the most requests in the last minutes, limited ones first."""

    def cached_paths(self) -> list[PathRow]:
        """Return the paths with the most cache hits in the last hour."""

    def live(self) -> list[LiveRow]:
        """Return requests in progress, the oldest first."""

    def process(self) -> ProcessNumbers:
        """Return the resources that the daemon uses."""


@attrs.frozen(eq=False)
class Sources:
    """The live objects of this process: a :class:`PageSources`."""

    clock: IReactorTime
    counters: Counters
    access_log: AccessLog
    admission: Admission
    store: Store
    flights: Sized
    upstreams: Upstreams
    pool: Sized
    slots: ConnectionSlots[Any]
    memory: RequestMemory
    dropped_log_lines: Callable[[], int]
    live_requests: LiveRequests
    state: StateNumbers | None = None
    _process: OwnProcess = attrs.field(
        init=False, default=attrs.Factory(lambda self: OwnProcess(self.clock.seconds), True)
    )

    def refresh(self) -> None:
        """Count the finished requests that still wait in the access log's batch."""
        self.access_log.flush()

    def recent_errors(self) -> list[dict[str, Any]]:
        """Return the most recent failed requests, newest first."""
        failures = self.access_log.failures.recent[-MAX_RECENT_ERRORS:]
        return [_error(event, batch) for event, batch in reversed(failures)]

    def failure_groups(self) -> list[dict[str, Any]]:
        return self.access_log.failures.groups()

    def clients(self) -> list[ClientRow]:
        return self.access_log.busiest.client_rows(self.clock.seconds())

    def cached_paths(self) -> list[PathRow]:
        return self.access_log.busiest.path_rows(self.clock.seconds())

    def live(self) -> list[LiveRow]:
        return self.live_requests.rows()

    def process(self) -> ProcessNumbers:
        return self._process.read()


def _error(event: Event, batch: Batch) -> dict[str, Any]:
    fields = event.fields(batch)
    error = {name: fields.get(name, "") for name in _ERROR_FIELDS}
    error["cause"] = cause_of(event.status, event.code, event.cache, event.ending)
    return error
