"""The state of an upstream request between two attempts, and while an attempt is sent."""

from __future__ import annotations

from service_identity import VerificationError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from goproxyai.http11.errors import UpstreamTimeout
from goproxyai.messages.connect import ConnectRefused
from goproxyai.proxy.upstreams import Upstream

_RECURRING_FAILURES = (UpstreamTimeout, ConnectTimeout, DeferredTimeout, VerificationError)
"""Connect failures that the same upstream would repeat, or that have taken long enough."""


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
        self.deadline: IDelayedCall | None = None

    def stop(self) -> None:
        if self.deadline is not None and self.deadline.active():
            self.deadline.cancel()
        self.deadline = None


def would_recur(reason: Failure) -> bool:
    """Return whether the same upstream would fail to connect once more."""
    exception = reason.value
    if isinstance(exception, ConnectRefused):
        return exception.status < 500
    return reason.check(*_RECURRING_FAILURES) is not None
