"""Whom to ask: the upstreams, in order of preference, each behind a circuit breaker.

All of them are the same API. The first whose circuit is closed is asked; where none is, one that
is half-open gets the request as its probe; where none takes it, the request is refused at once.
"""

from __future__ import annotations

from math import ceil

from goproxyai.egress.routes import Route
from goproxyai.policy.breaker import Breaker, State
from goproxyai.problems import Problem


class Upstream:
    """One of them.

    :param route: to it. :param base: its base path; a target is appended as it is.
    :param url: for people.
    :ivar rank: its place in the order of preference.
    """

    __slots__ = ("base", "breaker", "rank", "route", "url")

    def __init__(self, rank: int, route: Route, base: bytes, url: str, breaker: Breaker) -> None:
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
        return any(upstream.breaker.state(now) is not State.OPEN for upstream in self.each)

    def choose(self, now: float) -> Upstream:
        """Whom to ask now.

        :raises Problem: ``circuit_open``.
        """
        for upstream in self.each:
            if upstream.breaker.closed:
                return upstream
        for upstream in self.each:
            if upstream.breaker.admits(now):
                return upstream
        raise self.refusal(now)

    def instead_of(self, failed: Upstream) -> Upstream | None:
        """Whom to ask once more: somebody else, if there is somebody, whose circuit is closed."""
        others = [upstream for upstream in self.each if upstream is not failed]
        return next((one for one in (*others, failed) if one.breaker.closed), None)

    def refusal(self, now: float) -> Problem:
        """What a request is told that nobody takes."""
        wait = min(upstream.breaker.wait(now) for upstream in self.each)
        return Problem(
            "circuit_open",
            "Upstream has failed too often in the last seconds and is left alone for a moment; "
            "try again after Retry-After.",
            ((b"Retry-After", b"%d" % ceil(wait)),),
        )
