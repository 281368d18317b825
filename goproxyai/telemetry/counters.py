"""What happened, in numbers: plain integers, added to where it happens, read by ``/stats``.

Every table has a closed set of keys, so the memory is fixed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from goproxyai.errors import STATUS
from goproxyai.http11.connection_limits import ConnectionCounts
from goproxyai.upstream.retries import RetryCause
from goproxyai.usage.totals import UsageTotals

ROUTES = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/models",
    "/v1/files", "/v1/uploads", "/v1/batches", "/v1/images", "/v1/audio", "/v1/moderations",
    "/v1/fine_tuning", "/v1/assistants", "/v1/threads", "/v1/vector_stores", "/v1/conversations",
    "/v1/evals", "/v1/containers", "/v1/organization", "/v1/realtime", "/v1/videos",
    "/health", "/stats", "/metrics", "/cache", "/dashboard",
)  # fmt: skip
"""What requests are counted under, with all that lies below."""

MOST_OUTCOMES = 2_000
"""Combinations of route, method, status and cache that are counted apart."""

TIMED = ("HIT", "MISS", "COALESCED", "STALE", "BYPASS", "-")
"""What the cache had to do with a request, for its duration: ``-`` is nothing."""

SPARED = frozenset(("HIT", "COALESCED", "STALE"))
"""What the cache had to do with requests that upstream was not asked for."""

CLIENT_GONE = 499
"""The status of a request whose client left before there was one."""

_METHODS = {
    method.encode("ascii"): method
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
}

_BOUNDS = tuple(0.0001 * 2**step for step in range(24))
"""Upper bounds of the histogram's buckets, in seconds: 100 µs to about 14 minutes."""


class Histogram:
    """Durations in doubling buckets: enough for a percentile within a factor of two.

    :ivar count: of durations. :ivar total: their sum in seconds. :ivar longest: of them.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._buckets = [0] * (len(_BOUNDS) + 1)

    def add(self, durations: list[float]) -> None:
        """More of them; the list is sorted in place."""
        if not durations:
            return
        durations.sort()
        self.count += len(durations)
        self.total += sum(durations)
        self.longest = max(self.longest, durations[-1])
        buckets, below = self._buckets, 0
        for step, bound in enumerate(_BOUNDS):
            above = bisect_right(durations, bound, below)
            buckets[step] += above - below
            below = above
            if below == len(durations):
                return
        buckets[-1] += len(durations) - below

    def note(self, seconds: float) -> None:
        """One more, at once."""
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        """One of all their durations."""
        one = cls()
        for each in histograms:
            one.count += each.count
            one.total += each.total
            one.longest = max(one.longest, each.longest)
            one._buckets = [sum(pair) for pair in zip(one._buckets, each._buckets, strict=True)]
        return one

    def counts(self) -> tuple[int, ...]:
        """How many lie in each bucket, the last without a bound."""
        return tuple(self._buckets)

    def cumulative(self) -> list[tuple[float, int]]:
        """Of each bucket but the last: its upper bound, and how many durations lie below it."""
        return list(zip(_BOUNDS, accumulate(self._buckets), strict=False))

    def percentile(self, share: float) -> float:
        """The upper bound, in seconds, below which *share* (0 to 1) of the durations lie."""
        wanted = share * self.count
        seen = 0
        for bound, number in zip(_BOUNDS, self._buckets, strict=False):
            seen += number
            if number and seen >= wanted:
                return float(min(bound, self.longest))
        return self.longest

    def summary(self) -> dict[str, float]:
        """For ``/stats``: milliseconds."""
        mean = self.total / self.count if self.count else 0.0
        rows = {
            "mean_ms": mean,
            "p50_ms": self.percentile(0.5),
            "p95_ms": self.percentile(0.95),
            "p99_ms": self.percentile(0.99),
            "max_ms": self.longest,
        }
        return {name: round(value * 1000, 3) for name, value in rows.items()}


def percentile(counts: Sequence[int], share: float) -> float | None:
    """The duration, in seconds, below which *share* (0 to 1) of them lie; ``None``: of none.

    Within a bucket they are taken to be spread evenly.

    :param counts: of :meth:`Histogram.counts`, or a difference of two.
    """
    wanted = share * sum(counts)
    seen = 0
    for step, number in enumerate(counts):
        if number and seen + number >= wanted:
            upper = _BOUNDS[min(step, len(_BOUNDS) - 1)]
            lower = _BOUNDS[step - 1] if step else 0.0
            return float(lower + (upper - lower) * (wanted - seen) / number)
        seen += number
    return None


def route_of(target: bytes) -> str:
    """Which of the API's resources a target is of, of :data:`ROUTES`; other where of none."""
    path = target.partition(b"?")[0].decode("ascii", "replace")
    return next((r for r in ROUTES if path == r or path.startswith(r + "/")), "other")


class Counters:
    """All of them; see the attributes.

    :ivar requests: received, system endpoints included.
    :ivar finished: exchanges that ended, however.
    :ivar hits: answered from the cache. :ivar misses: cacheable, but forwarded.
    :ivar coalesced: answered by an upstream request that was under way.
    :ivar rescues: answered with what had expired, since upstream failed.
    :ivar bypasses: forwarded without a look into the cache.
    :ivar forwarded: requests sent upstream, each time they were.
    :ivar retries: of those, the second and third times, by cause.
    :ivar limited: refused by the rate limit.
    :ivar client_gone: clients that left before their answer was complete.
    :ivar cut: answers that upstream broke off.
    :ivar connections: of clients.
    :ivar bytes_in: of request bodies. :ivar bytes_out: of answer bodies.
    :ivar statuses: answers by the first digit of their status.
    :ivar errors: the proxy's own answers, by code.
    :ivar slow: answers whose first byte took long, see :class:`~goproxyai.telemetry.access_log.AccessLog`.
    :ivar open_streams: streams of events that are being sent to clients.
    :ivar tokens: of answers.
    :ivar times: from a request's head to its answer's end, by :data:`TIMED`.
    :ivar first_times: to its answer's first byte, of forwarded requests.
    :ivar overheads: of that, what was not upstream's.
    :ivar upstream_times: from forwarding to upstream's head.
    :ivar gaps: between two reads of a stream of upstream's.
    :ivar outcomes: requests that are over, by route, method, status and what the cache had to do
        with them: at most :data:`MOST_OUTCOMES` combinations.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.finished = 0
        self.hits = 0
        self.misses = 0
        self.coalesced = 0
        self.rescues = 0
        self.bypasses = 0
        self.forwarded = 0
        self.retries = {cause.value: 0 for cause in RetryCause}
        self.limited = 0
        self.client_gone = 0
        self.cut = 0
        self.connections = ConnectionCounts()
        self.bytes_in = 0
        self.bytes_out = 0
        self.statuses = [0] * 6
        self.errors = dict.fromkeys(STATUS, 0)
        self.outcomes: dict[tuple[str, str, int, str], int] = {}
        self.slow = 0
        self.open_streams = 0
        self.tokens = UsageTotals()
        self.times = {cache: Histogram() for cache in TIMED}
        self.first_times = Histogram()
        self.overheads = Histogram()
        self.upstream_times = Histogram()
        self.gaps = Histogram()

    def note(self, target: bytes, method: bytes, status: int, cache: str, count: int) -> None:
        """*count* requests of this kind are over."""
        outcome = (route_of(target), _METHODS.get(method, "other"), status, cache)
        outcomes = self.outcomes
        if outcome not in outcomes and len(outcomes) >= MOST_OUTCOMES:
            outcome = ("other", "other", status // 100 * 100, "other")
        outcomes[outcome] = outcomes.get(outcome, 0) + count

    def summary(self) -> dict[str, Any]:
        """For ``/stats``."""
        return {
            "requests": {
                "total": self.requests,
                "in_flight": self.requests - self.finished,
                "by_status": {f"{digit}xx": self.statuses[digit] for digit in range(2, 6)},
                "client_gone": self.client_gone,
                "cut_by_upstream": self.cut,
                "limited": self.limited,
                "forwarded": self.forwarded,
                "retries": dict(self.retries),
                "bytes_in": self.bytes_in,
                "bytes_out": self.bytes_out,
                "slow": self.slow,
                "open_streams": self.open_streams,
                "time": Histogram.merged(self.times.values()).summary(),
                "first_byte_time": self.first_times.summary(),
                "upstream_time": self.upstream_times.summary(),
                "overhead": self.overheads.summary(),
                "stream_gap": self.gaps.summary(),
            },
            "connections": {
                "open": self.connections.opened - self.connections.closed,
                "opened": self.connections.opened,
                "idle_closed": self.connections.idle_closed,
                "refused": dict(self.connections.refused),
            },
            "errors": {code: number for code, number in self.errors.items() if number},
            "tokens": self.tokens.summary(),
        }
