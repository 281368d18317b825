"""The state of an upstream request between two attempts, and while an attempt is sent."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall

from goproxyai.proxy.upstreams import Upstream
from goproxyai.reactor.deadlines import Deadline


class RetryTimer:
    """A request that waits for its next attempt."""

    def __init__(self, call: IDelayedCall) -> None:
        self._call = call

    def cancel(self) -> None:
        self._call.cancel()


class Sending:
    """A request that is inside the agent's call: there is nothing to cancel yet."""

    def cancel(self) -> None:
        pass


SENDING = Sending()


class RetryState:
    """What earlier attempts left behind; created by the first failure.

    :ivar not_before: for each upstream that was tried, the earliest time of the next attempt;
        infinity forbids one.
    :ivar deadline: ends the request when the client has waited as long as for one attempt.
    """

    __slots__ = ("deadline", "not_before")

    def __init__(self) -> None:
        self.not_before: dict[Upstream, float] = {}
        self.deadline: Deadline | None = None

    def stop(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = None
