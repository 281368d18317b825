"""Whether a request may be sent again, and after which time (RFC 9110 §9.2.2).

=================================== ================================= ===========================
the first attempt                   any method                        idempotent methods
=================================== ================================= ===========================
no connection: DNS, TCP, CONNECT,   retry: nothing was sent           retry
TLS
a reused connection was closed      no retry: the request may have    retry
before a byte of the response       been processed, and billed
a new connection was closed, or a   no retry                          no retry
timeout
a status in ``RETRY_STATUS``        no retry: the request was         retry after ``Retry-After``
                                    processed                         if that is soon enough
=================================== ================================= ===========================

Retries are limited by :data:`MAX_ATTEMPTS` for each request, by the request timeout, and by a
:class:`RetryBudget` of a tenth of all requests, so that retries do not double the load on a failing
upstream. The waits grow exponentially and are drawn at random from zero on ("full jitter"), so that
requests that failed together are not sent together again.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

MAX_ATTEMPTS: Final = 3
"""Attempts for each request, the first one included."""

INITIAL_BACKOFF_SECONDS: Final = 0.1
"""The longest first wait; it doubles with each attempt."""

MAX_BACKOFF_SECONDS: Final = 5.0

RETRIES_EARNED_PER_REQUEST: Final = 0.1

MAX_SAVED_RETRIES: Final = 10.0
"""The largest budget; also the budget at the start."""

IDEMPOTENT_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
"""Idempotent methods that are relayed; TRACE is not."""


class RetryCause(Enum):
    """Why a request is sent again; the values are used in metrics and logs."""

    CONNECT = "connect"
    RESET = "reset"
    STATUS = "status"


class RetryBudget:
    """The number of retries that all requests together may still use."""

    __slots__ = ("_left", "_requests")

    def __init__(self) -> None:
        self._left = MAX_SAVED_RETRIES
        self._requests = 0

    def try_spend(self, requests: int) -> bool:
        """Spend a retry if there is one.

        :param requests: the number of requests sent upstream since the start.
        """
        earned = RETRIES_EARNED_PER_REQUEST * (requests - self._requests)
        self._requests = requests
        self._left = min(self._left + earned, MAX_SAVED_RETRIES)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def may_retry(cause: RetryCause, method: bytes, replayable: bool) -> bool:
    """Whether sending the request again has no side effect.

    :param replayable: whether the whole body, if there is one, is in memory.
    """
    return cause is RetryCause.CONNECT or (replayable and method in IDEMPOTENT_METHODS)


def backoff_seconds(attempts: int, chance: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait before the next attempt.

    :param attempts: attempts so far, at least 1.
    :param chance: a random number from 0 to 1.
    :param retry_after: seconds that the upstream asked for; the wait is added to them.
    """
    wait = chance * min(INITIAL_BACKOFF_SECONDS * 2.0 ** (attempts - 1), MAX_BACKOFF_SECONDS)
    return wait if retry_after is None else retry_after + wait


def parse_retry_after(value: bytes | None) -> float | None:
    """Return the seconds of ``Retry-After`` (RFC 9110 §10.2.3); ``None`` for a date."""
    if value is None or not value.strip().isdigit() or len(value) > 10:
        return None
    return float(value)
