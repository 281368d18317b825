"""Probe upstreams periodically, independent of clients' requests.

Every upstream is asked for one path without a credential. Any response but a 5xx and an egress
proxy's 407 shows that the upstream is available. :mod:`goproxyai.upstream.breaker` judges the
results.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.egress.treq_client import RelayClient
from goproxyai.http11.response import Response
from goproxyai.proxy.upstream_failure import is_local_error
from goproxyai.proxy.upstreams import Upstream, Upstreams

PROBE_INTERVAL_SECONDS = 5.0
"""Between two probes of an upstream; a probe that has no response by then has failed."""

_log = Logger(namespace="goproxyai.health_probe")


class HealthProbe:
    """Probes every upstream.

    :param path: the path to request, below an upstream's base path.
    :ivar pending: the probes under way.
    """

    def __init__(
        self, clock: IReactorTime, client: RelayClient, upstreams: Upstreams, path: bytes
    ) -> None:
        self._clock = clock
        self._client = client
        self._upstreams = upstreams
        self._path = path
        self.pending: dict[Upstream, Deferred[Response]] = {}
        self._loop = LoopingCall(self.probe_all)
        self._loop.clock = clock

    def start(self) -> None:
        self._loop.start(PROBE_INTERVAL_SECONDS)

    def stop(self) -> None:
        if self._loop.running:
            self._loop.stop()
        for pending in tuple(self.pending.values()):
            pending.cancel()

    def probe_all(self) -> None:
        """Send a probe to each upstream; one that is still pending has failed."""
        for upstream in self._upstreams.all:
            late = self.pending.pop(upstream, None)
            if late is not None:
                late.cancel()
                self._record(upstream, False)
            pending = self._client.request(
                b"GET", upstream.route.origin + upstream.base + self._path
            )
            self.pending[upstream] = pending
            pending.addBoth(self._probed, upstream, pending)
            pending.addErrback(lambda failure: _log.failure("a defect while probing", failure))

    def _probed(
        self, result: Response | Failure, upstream: Upstream, pending: Deferred[Response]
    ) -> None:
        if self.pending.get(upstream) is pending:
            del self.pending[upstream]
        if isinstance(result, Failure):
            if result.check(CancelledError) is None and not is_local_error(result):
                self._record(upstream, False)
            return
        result.abort()  # the status is enough
        self._record(upstream, result.code < 500 and result.code != 407)

    def _record(self, upstream: Upstream, succeeded: bool) -> None:
        upstream.breaker.record_probe(self._clock.seconds(), succeeded)
