"""How an attempt at an upstream ends: with a complete answer, a broken one, or none."""

from __future__ import annotations

from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.python.failure import Failure

from goproxyai.http11.errors import Awaited, ConnectionBroken, UpstreamTimeout
from goproxyai.upstream.retries import RetryCause

WHOLE, BROKEN = "whole", "broken"

CAUSES = {
    "no connection": RetryCause.CONNECT,
    "slow to connect": RetryCause.CONNECT,
    "reset": RetryCause.RESET,
    "lost": None,
    "silent": None,
}
"""The endings without an answer, and the cause that the upstream client reports for each."""

WEIGHTS = (0.1, 0.05, 0.02, 0.05, 0.03, 0.03)
"""Probabilities of all endings except the first, relative to that of the first."""


def failure(ending: str) -> Failure:
    """The failure that the upstream client reports for one of :data:`CAUSES`."""
    match ending:
        case "no connection":
            return Failure(ConnectError())
        case "slow to connect":
            return Failure(ConnectTimeout())
        case "silent":
            return Failure(UpstreamTimeout(Awaited.RESPONSE_HEAD))
    return Failure(ConnectionBroken(Failure(ConnectionLost())))
