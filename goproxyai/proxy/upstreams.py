"""The upstreams, in order of preference, each with a circuit breaker.

All upstreams serve the same API. A request goes to the first one whose circuit is closed, or
half-open without a trial under way. Where there is none, the request is refused at once. A trial
that cannot connect is retried with the next upstream, as any request is.
"""

from __future__ import annotations

from math import ceil, inf

from goproxyai.egress.routes import Route
from goproxyai.errors import ProxyError
from goproxyai.upstream.breaker import CircuitBreaker, CircuitState


class Upstream:
    """One upstream.

    :ivar rank: its place in the order of preference; 0 is the first.
    :ivar route: how it is reached.
    :ivar handshake_route: the same for WebSocket handshakes.
    :ivar base: its base path, to which a target is appended.
    :ivar url: its URL for logs and ``/stats``.
    """

    __slots__ = ("base", "breaker", "handshake_route", "rank", "route", "url")

    def __init__(
        self, rank: int, route: Route, base: bytes, url: str, breaker: CircuitBreaker
    ) -> None:
        self.rank = rank
        self.route = route
        self.handshake_route = route.for_handshakes or route
        self.base = base
        self.url = url
        self.breaker = breaker


class Upstreams:
    """All upstreams.

    :ivar all: at least one, in order of preference.
    :ivar first: the preferred one.
    """

    __slots__ = ("all", "first")

    def __init__(self, upstreams: tuple[Upstream, ...]) -> None:
        self.all = upstreams
        self.first = upstreams[0]

    def reachable(self, now: float) -> bool:
        """Return whether a request would be sent to any upstream now."""
        return any(upstream.breaker.state(now) is not CircuitState.OPEN for upstream in self.all)

    def choose(self, now: float, client: str, complete: bool) -> Upstream:
        """Return the upstream for a request.

        :param client: and *complete* as in :meth:`.CircuitBreaker.admit`.
        :raises ProxyError: ``circuit_open``.
        """
        for upstream in self.all:
            if upstream.breaker.admit(now, client, complete):
                return upstream
        raise self.refusal(now)

    def choose_for_retry(self, not_before: dict[Upstream, float]) -> Upstream | None:
        """Return the upstream for a retry: an untried one, else the one available earliest.

        :param not_before: for each tried upstream, the earliest time of the next attempt; infinity
            forbids one.
        """
        closed = [upstream for upstream in self.all if upstream.breaker.closed]
        untried = next((upstream for upstream in closed if upstream not in not_before), None)
        if untried is not None:
            return untried
        earliest = min(closed, key=lambda upstream: not_before[upstream], default=None)
        return None if earliest is None or not_before[earliest] == inf else earliest

    def refusal(self, now: float) -> ProxyError:
        """Return the error for a request while every circuit is open."""
        wait = min(upstream.breaker.seconds_until_retry(now) for upstream in self.all)
        return ProxyError(
            "circuit_open",
            "Upstream has failed too often in the last seconds, so no requests are sent to it for "
            "a moment; try again after Retry-After.",
            ((b"Retry-After", b"%d" % ceil(wait)),),
        )
