"""Asking upstreams whether they are there, beside what clients ask of them.

Every upstream is asked for one path, without any credential: whatever it answers, but for a 5xx or
the 407 of a proxy, shows that it is there, and closes its circuit. :data:`IN_A_ROW` failures open
it.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.egress.treq_client import RelayClient
from goproxyai.http11.response import Response
from goproxyai.proxy.upstreams import Upstream, Upstreams
from goproxyai.upstream.breaker import CircuitState

PROBE_SECONDS = 5.0
"""Between two probes of an upstream; one that was not answered by then has failed."""

IN_A_ROW = 3
"""Failed probes that open a circuit."""

_log = Logger(namespace="goproxyai.probing")


class HealthProbe:
    """Probes every upstream.

    :param path: that is asked for, below the base path.
    """

    def __init__(
        self, clock: IReactorTime, client: RelayClient, upstreams: Upstreams, path: bytes
    ) -> None:
        self._clock = clock
        self._client = client
        self._upstreams = upstreams
        self._path = path
        self._asking: dict[Upstream, Deferred[Response]] = {}
        self._in_a_row = dict.fromkeys(upstreams.each, 0)
        self._call = LoopingCall(self._probe)
        self._call.clock = clock

    def start(self) -> None:
        """Begin."""
        self._call.start(PROBE_SECONDS)

    def stop(self) -> None:
        """End."""
        if self._call.running:
            self._call.stop()
        for asking in tuple(self._asking.values()):
            asking.cancel()

    def _probe(self) -> None:
        for upstream in self._upstreams.each:
            late = self._asking.pop(upstream, None)
            if late is not None:
                late.cancel()
                self._failed(upstream)
            asking = self._client.request(
                b"GET", upstream.route.origin + upstream.base + self._path
            )
            self._asking[upstream] = asking
            asking.addBoth(self._came, upstream, asking)
            asking.addErrback(lambda failure: _log.failure("a defect while probing", failure))

    def _came(
        self, result: Response | Failure, upstream: Upstream, asking: Deferred[Response]
    ) -> None:
        if self._asking.get(upstream) is asking:
            del self._asking[upstream]
        if isinstance(result, Failure):
            if result.check(CancelledError) is None:
                self._failed(upstream)
            return
        result.abort()  # its head said enough
        if result.code >= 500 or result.code == 407:
            self._failed(upstream)
        else:
            self._in_a_row[upstream] = 0
            upstream.breaker.record_success()

    def _failed(self, upstream: Upstream) -> None:
        breaker, now = upstream.breaker, self._clock.seconds()
        breaker.record_failure(now, breaker.state(now) is CircuitState.HALF_OPEN)
        self._in_a_row[upstream] += 1
        if self._in_a_row[upstream] >= IN_A_ROW:
            breaker.trip(now)
