"""The exceptions of HTTP exchanges. The errors that clients see are in :mod:`goproxyai.errors`."""

from __future__ import annotations

from enum import StrEnum

from twisted.python.failure import Failure


class Awaited(StrEnum):
    """What is waited for when a timeout expires; completes "waiting for ..."."""

    CONNECTION = "a connection"
    RESPONSE_HEAD = "the response head"
    RESPONSE_BODY = "more of the response body"
    REQUEST_PROGRESS = "the upstream to read the request body"


class ClientGone(Exception):
    """The client closed its connection while its request body was being received."""


class UpstreamTimeout(Exception):
    """The upstream took too long."""

    def __init__(self, awaited: Awaited) -> None:
        super().__init__(awaited)
        self.awaited = awaited


class ProtocolViolation(Exception):
    """The upstream violated HTTP/1.1. The argument is a clause that says how."""


class ConnectionBroken(Exception):
    """The connection to the upstream was lost before the exchange was complete.

    :param reason: the failure that the transport reported.
    """

    def __init__(self, reason: Failure) -> None:
        super().__init__(reason.getErrorMessage())
        self.reason = reason
