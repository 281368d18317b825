"""Whom to ask: the upstreams, in order of preference, each behind a circuit breaker.

All of them are the same API. The first is asked whose circuit is closed, or half-open, if no
request probes it yet; where there is none, the request is refused at once. A probe that cannot even
connect goes on to the next, as any request does.
"""

from __future__ import annotations

from math import ceil, inf

from goproxyai.egress.routes import Route
from goproxyai.errors import ProxyError
from goproxyai.upstream.breaker import CircuitBreaker, CircuitState


class Upstream:
    """One of them.

    :param route: to it. :param base: its base path; a target is appended as it is.
    :param url: for people.
    :ivar rank: its place in the order of preference.
    """

    __slots__ = ("base", "breaker", "rank", "route", "url")

    def __init__(
        self, rank: int, route: Route, base: bytes, url: str, breaker: CircuitBreaker
    ) -> None:
        self.rank = rank
        self.route = route
        self.base = base
        self.url = url
        self.breaker = breaker


class Upstreams:
    """All of them.

    :param each: at least one, in order of preference.
    :ivar first: of them.
    """

    __slots__ = ("each", "first")

    def __init__(self, each: tuple[Upstream, ...]) -> None:
        self.each = each
        self.first = each[0]

    def reachable(self, now: float) -> bool:
        """Whether any of them would be asked now, be it for a probe."""
        return any(upstream.breaker.state(now) is not CircuitState.OPEN for upstream in self.each)

    def choose(self, now: float) -> Upstream:
        """Whom to ask now.

        :raises Problem: ``circuit_open``.
        """
        for upstream in self.each:
            if upstream.breaker.admit(now):
                return upstream
        raise self.refusal(now)

    def instead(self, not_before: dict[Upstream, float]) -> Upstream | None:
        """Whom to ask once more: who was not asked yet, or else who may be asked again first.

        :param not_before: of each that was asked, when it may be asked again; infinity: never.
        """
        closed = [upstream for upstream in self.each if upstream.breaker.closed]
        fresh = next((upstream for upstream in closed if upstream not in not_before), None)
        if fresh is not None:
            return fresh
        soonest = min(closed, key=lambda upstream: not_before[upstream], default=None)
        return None if soonest is None or not_before[soonest] == inf else soonest

    def refusal(self, now: float) -> ProxyError:
        """What a request is told that nobody takes."""
        wait = min(upstream.breaker.seconds_until_retry(now) for upstream in self.each)
        return ProxyError(
            "circuit_open",
            "Upstream has failed too often in the last seconds and is left alone for a moment; "
            "try again after Retry-After.",
            ((b"Retry-After", b"%d" % ceil(wait)),),
        )
