"""How a request that came upstream ends: with a whole answer, a broken one, or none."""

from __future__ import annotations

from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.python.failure import Failure

from goproxyai.http11.errors import ConnectionBroken, UpstreamTimeout
from goproxyai.upstream.retries import Cause

WHOLE, BROKEN = "whole", "broken"

CAUSES = {
    "no connection": Cause.CONNECT,
    "slow to connect": Cause.CONNECT,
    "reset": Cause.RESET,
    "lost": None,
    "silent": None,
}
"""How a request may go without an answer, and what the daemon's client says of the cause."""

WEIGHTS = (0.1, 0.05, 0.02, 0.05, 0.03, 0.03)
"""Of the endings but the first, which has most of what is left to 1."""


def failure(how: str) -> Failure:
    """What the daemon's client tells of one of :data:`CAUSES`."""
    match how:
        case "no connection":
            return Failure(ConnectError())
        case "slow to connect":
            return Failure(ConnectTimeout())
        case "silent":
            return Failure(UpstreamTimeout("an answer"))
    return Failure(ConnectionBroken(Failure(ConnectionLost())))
