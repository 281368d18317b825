"""Counters since the start: plain integers, incremented where things happen.

Every table has a closed set of keys, so the memory is bounded.
"""

from __future__ import annotations

from typing import Any, Final

from goproxyai.cache.stateless_responses import STATE_REASONS
from goproxyai.errors import STATUS
from goproxyai.http11.connection_limits import ConnectionCounts
from goproxyai.state.redis.counts import OVERDUE, StateCounts
from goproxyai.telemetry.failure_cause import FailureCause
from goproxyai.telemetry.histogram import Histogram
from goproxyai.telemetry.outcome import CacheOutcome
from goproxyai.upstream.retries import RetryCause
from goproxyai.usage.totals import UsageTotals

ROUTES: Final = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/models",
    "/v1/files", "/v1/uploads", "/v1/batches", "/v1/images", "/v1/audio", "/v1/moderations",
    "/v1/fine_tuning", "/v1/assistants", "/v1/threads", "/v1/vector_stores", "/v1/conversations",
    "/v1/evals", "/v1/containers", "/v1/organization", "/v1/realtime", "/v1/videos",
    "/health", "/stats", "/metrics", "/cache", "/dashboard",
)  # fmt: skip
"""Resources by which requests are counted, subresources included."""

MAX_OUTCOMES: Final = 2_000
"""Combinations of route, method, status and cache label that are counted separately."""

BYPASS_REASONS: Final = (
    "method", "path", "range", "header", "header-size", "no-store", "size", "memory", "off",
    "upgrade",
    *STATE_REASONS,
)  # fmt: skip
"""Why requests bypass the cache."""

OWN_ROUTES: Final = frozenset(("/health", "/stats", "/metrics", "/cache", "/dashboard"))
"""Routes of the daemon's own pages, which are counted apart from the traffic of the API."""

LOOK_UP_RESULTS: Final = ("hit", "miss", "unavailable")
"""Results of look-ups in the second level of the cache."""

_ROUTES: Final = frozenset(ROUTES)
_METHODS: Final = {
    method.encode("ascii"): method
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
}


def route_of(path: str) -> str:
    """Return the resource of a path or target, one of :data:`ROUTES` or ``other``."""
    segments = path.partition("?")[0].split("/", 4)
    for length in (4, 3, 2):  # "/v1/chat/completions" has four segments, the first is empty
        route = "/".join(segments[:length])
        if route in _ROUTES:
            return route
    return "other"


def is_own_page(path: str) -> bool:
    """Whether a request is one for the daemon's own pages."""
    return path == "/" or route_of(path) in OWN_ROUTES


class FinishedRequests:
    """Counts of finished requests, in batches.

    :ivar count: requests, own pages included.
    :ivar own_pages: requests for the daemon's own pages, see :data:`OWN_ROUTES`.
    :ivar causes: failed requests of the API, by :class:`~.failure_cause.FailureCause`.
    :ivar outcomes: by route, method, status and cache label; at most :data:`MAX_OUTCOMES`
        combinations.
    :ivar statuses: by the first digit of the status.
    :ivar errors: the proxy's own error responses, by code.
    :ivar client_gone: clients that left before the end of their response.
    :ivar cut: responses that upstream broke off.
    :ivar slow: see :class:`~.access_log.AccessLog`.
    :ivar bytes_in: of request bodies.
    :ivar bytes_out: of response bodies.
    """

    def __init__(self) -> None:
        self.count = 0
        self.own_pages = 0
        self.causes = dict.fromkeys(map(str, FailureCause), 0)
        self.outcomes: dict[tuple[str, str, int, str], int] = {}
        self.statuses = [0] * 6
        self.errors = dict.fromkeys(STATUS, 0)
        self.client_gone = 0
        self.cut = 0
        self.slow = 0
        self.bytes_in = 0
        self.bytes_out = 0

    def add_outcome(self, path: str, method: bytes, status: int, cache: str, count: int) -> str:
        """Add *count* requests to :attr:`outcomes`; return their route.

        :param cache: label, see :attr:`goproxyai.telemetry.events.Event.cache_label`.
        """
        route = route_of(path)
        outcome = (route, _METHODS.get(method, "other"), status, cache)
        outcomes = self.outcomes
        if outcome not in outcomes and len(outcomes) >= MAX_OUTCOMES:
            outcome = ("other", "other", status // 100 * 100, "other")
        outcomes[outcome] = outcomes.get(outcome, 0) + count
        return route


class Durations:
    """Durations of requests and their parts.

    :ivar request: from the head of the request to the end of the response, by cache outcome.
    :ivar first_byte: from the head to the first byte of the response, of forwarded requests.
    :ivar upstream: from sending the request upstream to the head of upstream's response.
    :ivar overhead: ``first_byte`` less ``upstream``.
    :ivar stream_gap: between two reads of an event stream from upstream.
    :ivar state: from sending a command to the shared state to its reply.
    :ivar state_wait: for which a request waited for the shared state, by kind of the command.
    """

    def __init__(self) -> None:
        self.request = {cache: Histogram() for cache in CacheOutcome}
        self.first_byte = Histogram()
        self.upstream = Histogram()
        self.overhead = Histogram()
        self.stream_gap = Histogram()
        self.state = Histogram()
        self.state_wait = {kind: Histogram() for kind in OVERDUE}

    def add_state_wait(self, kind: str, seconds: float) -> None:
        """Count the time for which a request waited for the shared state."""
        self.state_wait[kind].add(seconds)


class Counters:
    """Everything that is counted.

    :ivar requests: received, own pages included.
    :ivar hits: answered from the cache.
    :ivar misses: cacheable, but forwarded.
    :ivar coalesced: answered by the upstream request of another client.
    :ivar stale_served: answered with an expired entry, since upstream failed.
    :ivar bypass_reasons: requests forwarded without a cache look-up, by :data:`BYPASS_REASONS`.
    :ivar forwarded: upstream requests, retries included.
    :ivar retries: by cause.
    :ivar limited: refused by the rate limit.
    :ivar shared_look_ups: in the second level of the cache, by :data:`LOOK_UP_RESULTS`.
    :ivar open_streams: event streams that are being sent to clients.
    :ivar open_tunnels: WebSockets that are relayed.
    :ivar tunnel_bytes: relayed in tunnels: ``in`` from clients, ``out`` to clients.
    :ivar connections: of clients.
    :ivar tokens: of responses.
    :ivar state: commands to the shared state.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.hits = 0
        self.misses = 0
        self.coalesced = 0
        self.stale_served = 0
        self.bypass_reasons = dict.fromkeys(BYPASS_REASONS, 0)
        self.forwarded = 0
        self.retries = {cause.value: 0 for cause in RetryCause}
        self.limited = 0
        self.shared_look_ups = dict.fromkeys(LOOK_UP_RESULTS, 0)
        self.open_streams = 0
        self.open_tunnels = 0
        self.tunnel_bytes = {"in": 0, "out": 0}
        self.connections = ConnectionCounts()
        self.tokens = UsageTotals()
        self.state = StateCounts()
        self.finished = FinishedRequests()
        self.durations = Durations()

    @property
    def bypasses(self) -> int:
        """Requests forwarded without a cache look-up."""
        return sum(self.bypass_reasons.values())

    @property
    def looked_up(self) -> int:
        """Requests that the cache was used for."""
        return self.hits + self.misses + self.coalesced

    @property
    def in_flight(self) -> int:
        """Requests that are not finished, or not counted yet."""
        return self.requests - self.finished.count

    def summary(self) -> dict[str, Any]:
        """Return the counted part of ``/stats``."""
        finished, durations, connections = self.finished, self.durations, self.connections
        return {
            "requests": {
                "total": self.requests,
                "own_pages": finished.own_pages,
                "in_flight": self.in_flight,
                "by_status": {f"{digit}xx": finished.statuses[digit] for digit in range(2, 6)},
                "client_gone": finished.client_gone,
                "cut_by_upstream": finished.cut,
                "limited": self.limited,
                "forwarded": self.forwarded,
                "retries": dict(self.retries),
                "bytes_in": finished.bytes_in,
                "bytes_out": finished.bytes_out,
                "slow": finished.slow,
                "open_streams": self.open_streams,
                "time": Histogram.merged(durations.request.values()).summary(),
                "first_byte_time": durations.first_byte.summary(),
                "upstream_time": durations.upstream.summary(),
                "overhead": durations.overhead.summary(),
                "stream_gap": durations.stream_gap.summary(),
            },
            "tunnels": {
                "open": self.open_tunnels,
                "bytes_in": self.tunnel_bytes["in"],
                "bytes_out": self.tunnel_bytes["out"],
            },
            "connections": {
                "open": connections.opened - connections.closed,
                "opened": connections.opened,
                "idle_closed": connections.idle_closed,
                "refused": dict(connections.refused),
            },
            "errors": {code: number for code, number in finished.errors.items() if number},
            "failures": {cause: number for cause, number in finished.causes.items() if number},
            "tokens": self.tokens.summary(),
        }
