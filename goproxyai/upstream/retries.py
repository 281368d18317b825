"""May a request be sent once more, and when? (RFC 9110 §9.2.2)

=================================== ================================= ===========================
what happened                       any method                        idempotent methods
=================================== ================================= ===========================
no connection: DNS, TCP, CONNECT,   again: nothing of it has gone out again
TLS
a connection that had served before no: it may have been taken, and   again
was closed before a byte came back  be billed
a new connection was, or upstream   no                                no
took too long
an answer of a status in            no: it was taken                  again, after ``Retry-After``
``RETRY_STATUS``                                                      if that is soon enough
=================================== ================================= ===========================

Everything is bounded: :data:`MAX_ATTEMPTS` a request; a budget of a tenth of all requests, that an
upstream which is down is not asked twice as much; and the client's patience, after which it would
rather have the error. Waits grow exponentially and are drawn at random from zero on ("full
jitter"), that clients which failed together do not come back together.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

MAX_ATTEMPTS: Final = 3
"""Times that a request is sent, the first one counted."""

INITIAL_BACKOFF_SECONDS: Final = 0.1
"""Seconds that a first wait may last; twice as long each time."""

MAX_BACKOFF_SECONDS: Final = 5.0
"""Seconds that a wait may last."""

RETRIES_EARNED_PER_REQUEST: Final = 0.1
"""Of a retry, by each request."""

MAX_SAVED_RETRIES: Final = 10.0
"""Retries that may be saved up, and are there at the start."""

IDEMPOTENT_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
"""Methods that may be sent twice; TRACE is not relayed."""


class RetryCause(Enum):
    """What a request is sent again for; the values are for counters and logs."""

    CONNECT = "connect"
    RESET = "reset"
    STATUS = "status"


class RetryBudget:
    """How many retries all requests together may have."""

    __slots__ = ("_left", "_requests")

    def __init__(self) -> None:
        self._left = MAX_SAVED_RETRIES
        self._requests = 0

    def try_spend(self, requests: int) -> bool:
        """Whether there is a retry left; it is spent then.

        :param requests: that were sent upstream since the start.
        """
        earned = RETRIES_EARNED_PER_REQUEST * (requests - self._requests)
        self._requests = requests
        self._left = min(self._left + earned, MAX_SAVED_RETRIES)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def may_retry(cause: RetryCause, method: bytes, replayable: bool) -> bool:
    """Whether sending again can do no harm.

    :param replayable: whether the body is all here, or there is none.
    """
    return cause is RetryCause.CONNECT or (replayable and method in IDEMPOTENT_METHODS)


def backoff_seconds(tries: int, chance: float, parse_retry_after: float | None = None) -> float:
    """Seconds to wait before the next try.

    :param tries: that were made, at least 1.
    :param chance: a random number from 0 up to 1.
    :param parse_retry_after: seconds that upstream asked for.
    """
    wait = chance * min(INITIAL_BACKOFF_SECONDS * 2.0 ** (tries - 1), MAX_BACKOFF_SECONDS)
    return wait if parse_retry_after is None else parse_retry_after + wait


def parse_retry_after(value: bytes | None) -> float | None:
    """The seconds in a ``Retry-After`` (RFC 9110 §10.2.3); a date, or junk, says nothing."""
    if value is None or not value.strip().isdigit() or len(value) > 10:
        return None
    return float(value)
