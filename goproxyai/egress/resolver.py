"""Name resolution that is shared, cached and never waited for at the end.

The resolver is ``getaddrinfo``, which obeys ``/etc/hosts``, ``nsswitch.conf`` and the search list.
Neither twisted.names nor c-ares does. ``getaddrinfo`` blocks and cannot be cancelled. Twisted calls
it for each connection, in the reactor's pool of ten threads, which is joined when the process ends.
:class:`SharedResolver` differs:

1. Requests for one name share one look-up. Its addresses are used for :data:`FRESH_SECONDS`.
2. Where a look-up fails, or takes longer than :data:`STALE_AFTER_SECONDS`, the previous addresses
   are used, for at most :data:`MAX_STALE_SECONDS` (RFC 8767). The answer that a name does not exist
   is no failure.
3. At most :data:`MAX_LOOKUPS` look-ups run, each in a daemon thread, which is not joined. At most
   :data:`MAX_NAMES` names are kept.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from math import inf
from threading import Thread
from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.logger import Logger
from zope.interface import implementer

FRESH_SECONDS = 5.0
"""For which the addresses of a name are used without another look-up."""

STALE_AFTER_SECONDS = 0.5
"""Wait for a look-up before the previous addresses are used."""

MAX_STALE_SECONDS = 600.0
"""Age up to which addresses replace a look-up that fails or is slow."""

RETRY_SECONDS = 1.0
"""Interval between look-ups of a name while its previous addresses are used."""

LOST_LOOKUP_SECONDS = 30.0
"""After which a look-up is no longer waited for, if another one can be started."""

MAX_LOOKUPS = 8
"""Look-ups that run at a time, of all names. Further names wait."""

MAX_LOOKUPS_PER_NAME = 2
"""The second one replaces a lost look-up."""

MAX_NAMES = 256
"""Names that are kept. A daemon has as many as upstreams and egress proxies."""

_DEFINITE_ERRORS = tuple(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)
)
"""Errors of ``getaddrinfo`` that are answers: the name, or an address of it, does not exist."""

_FAMILIES: dict[frozenset[type], int] = {
    frozenset((IPv4Address,)): socket.AF_INET,
    frozenset((IPv6Address,)): socket.AF_INET6,
}

_KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}

Query = tuple[str, int, str]
"""Host name, address family, ``"TCP"`` or ``"UDP"``."""

SocketAddress = tuple[Any, ...]

_log = Logger(namespace="goproxyai.egress")


def start_daemon_thread(call: Callable[[], None]) -> None:
    """Run *call* in a thread that does not delay the end of the process."""
    Thread(target=call, name="resolver", daemon=True).start()


@implementer(IHostResolution)
@attrs.define(eq=False)
class Resolution:
    """One request for the addresses of a name."""

    name: str
    _record: _Record
    _receiver: Any
    _port: int
    _kind: str

    def cancel(self) -> None:
        """Forget the receiver; the look-up goes on."""
        self._record.waiting.pop(self, None)

    def complete(self, addresses: Sequence[SocketAddress]) -> None:
        """Give *addresses* to the receiver."""
        try:
            for host, _, *scope in addresses:
                kind: Any = IPv6Address if scope else IPv4Address
                self._receiver.addressResolved(kind(self._kind, host, self._port, *scope))
            self._receiver.resolutionComplete()
        except Exception:  # the other receivers must get their addresses
            _log.failure("unhandled error in a name resolution")


@attrs.define(eq=False)
class _Record:
    """What is known about one query.

    :ivar failing: whether the last look-up failed, or is slow.
    :ivar lookups: the number of look-ups that run.
    :ivar started_at: time of the last start of a look-up.
    """

    addresses: tuple[SocketAddress, ...] = ()
    resolved_at: float = -inf
    failing: bool = False
    lookups: int = 0
    started_at: float = -inf
    waiting: dict[Resolution, None] = attrs.field(factory=dict)
    slow_timer: IDelayedCall | None = None

    def is_fresh(self, now: float) -> bool:
        return now < self.resolved_at + FRESH_SECONDS

    def is_usable(self, now: float) -> bool:
        """Return whether the addresses may replace a failed look-up."""
        return bool(self.addresses) and now < self.resolved_at + MAX_STALE_SECONDS

    def stop_timer(self) -> None:
        if self.slow_timer is not None:
            self.slow_timer.cancel()
            self.slow_timer = None

    def complete(self, addresses: Sequence[SocketAddress]) -> None:
        """Answer all requests that wait."""
        waiting, self.waiting = self.waiting, {}
        for resolution in waiting:
            resolution.complete(addresses)


@implementer(IHostnameResolver)
class SharedResolver:
    """Resolves names for a reactor; see ``reactor.installNameResolver``.

    :param reactor: keeps the time, and is called from the threads.
    :param run_in_thread: runs a look-up.
    """

    def __init__(
        self,
        reactor: Any,
        run_in_thread: Callable[[Callable[[], None]], None] = start_daemon_thread,
    ) -> None:
        self._reactor = reactor
        self._run_in_thread = run_in_thread
        self._records: dict[Query, _Record] = {}
        self._queue: dict[Query, None] = {}  # ordered: queries that wait for a free thread
        self._running = 0

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Resolve a name (``IHostnameResolver``); known addresses are delivered at once."""
        family = _FAMILIES.get(frozenset(addressTypes or ()), int(socket.AF_UNSPEC))
        query = (hostName, family, transportSemantics)
        record = self._record(query)
        resolution = Resolution(
            hostName, record, resolutionReceiver, portNumber, transportSemantics
        )
        resolutionReceiver.resolutionBegan(resolution)
        now = self._reactor.seconds()
        if record.is_fresh(now):
            resolution.complete(record.addresses)
        elif record.failing and record.is_usable(now):
            resolution.complete(record.addresses)
            if now >= record.started_at + RETRY_SECONDS:
                self._request_lookup(query, record)
        elif self._records.get(query) is not record:
            resolution.complete(())  # too many names are being looked up
        else:
            record.waiting[resolution] = None
            if record.slow_timer is None and record.is_usable(now):
                record.slow_timer = self._reactor.callLater(
                    STALE_AFTER_SECONDS, self._use_stale, query, record
                )
            self._request_lookup(query, record)
        return resolution

    def _record(self, query: Query) -> _Record:
        """Return the record of *query*; a new one is kept if there is room."""
        record = self._records.get(query)
        if record is None:
            record = _Record()
            if len(self._records) >= MAX_NAMES:
                unused = [q for q, r in self._records.items() if not (r.lookups or r.waiting)]
                if not unused:
                    return record
                del self._records[min(unused, key=lambda q: self._records[q].resolved_at)]
            self._records[query] = record
        return record

    def _request_lookup(self, query: Query, record: _Record) -> None:
        """Start a look-up, unless one runs that is to be shared."""
        lost = self._reactor.seconds() >= record.started_at + LOST_LOOKUP_SECONDS
        if not record.lookups or (lost and record.lookups < MAX_LOOKUPS_PER_NAME):
            if self._running < MAX_LOOKUPS:
                self._start_lookup(query, record)
            else:
                self._queue[query] = None

    def _start_lookup(self, query: Query, record: _Record) -> None:
        record.started_at = self._reactor.seconds()
        record.lookups += 1
        self._running += 1
        try:
            self._run_in_thread(lambda: self._look_up(query, record))
        except RuntimeError as error:  # the system has no thread left
            self._reactor.callLater(0, self._looked_up, query, record, error)

    def _look_up(self, query: Query, record: _Record) -> None:
        """Call ``getaddrinfo``, in a thread."""
        name, family, kind = query
        result: list[SocketAddress] | Exception
        try:
            found = socket.getaddrinfo(name, 0, family, _KINDS[kind])
            result = [at[4] for at in found if at[0] in (socket.AF_INET, socket.AF_INET6)]
        except Exception as error:
            result = error
        self._reactor.callFromThread(self._looked_up, query, record, result)

    def _looked_up(
        self, query: Query, record: _Record, result: list[SocketAddress] | Exception
    ) -> None:
        record.lookups -= 1
        self._running -= 1
        record.stop_timer()
        if isinstance(result, Exception) and not _is_definite(result):
            self._use_stale(query, record, result)
        else:
            record.failing = False
            record.addresses = () if isinstance(result, Exception) else tuple(result)
            record.resolved_at = self._reactor.seconds() if record.addresses else -inf
            record.complete(record.addresses)
        while self._queue and self._running < MAX_LOOKUPS:
            queued = next(iter(self._queue))
            del self._queue[queued]
            waiting = self._records.get(queued)
            if waiting is not None and waiting.waiting:
                self._start_lookup(queued, waiting)

    def _use_stale(self, query: Query, record: _Record, error: Exception | None = None) -> None:
        """Answer with the previous addresses: the look-up failed with *error*, or is slow."""
        record.slow_timer = None
        now = self._reactor.seconds()
        if record.is_usable(now):
            if not record.failing:
                _log.warn(
                    "{name} cannot be resolved ({problem}); its addresses of {age:.0f} s ago are "
                    "used for up to {limit:.0f} s",
                    name=query[0],
                    problem=error or f"no answer within {STALE_AFTER_SECONDS} s",
                    age=now - record.resolved_at,
                    limit=MAX_STALE_SECONDS,
                )
            record.failing = True
            record.complete(record.addresses)
        elif error is not None:
            record.complete(())


def _is_definite(error: Exception) -> bool:
    """Return whether *error* says that the name does not exist, or cannot exist."""
    if isinstance(error, socket.gaierror):
        return error.errno in _DEFINITE_ERRORS
    return isinstance(error, UnicodeError)
