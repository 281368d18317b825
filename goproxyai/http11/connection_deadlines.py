"""The deadlines of connections, as arithmetic: every time is passed in.

A connection is ticked a few times a second (:mod:`goproxyai.reactor.deadlines`) and asks what is
due. Times are seconds of the reactor's clock.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from goproxyai.http11.errors import Awaited
from goproxyai.reactor.deadlines import NEVER, postponed

HEAD_TIMEOUT_SECONDS = 20.0
"""For a complete head, from its first byte; for the first one from the start of the connection."""

BODY_GRACE_SECONDS = 30.0
"""Of a request body in which its rate does not matter."""

MIN_BODY_BYTES_PER_SECOND = 500.0
"""Rate of a request body after the grace period."""

READER_STALL_SECONDS = 60.0
"""In which a client must take at least one of the bytes that were written to it."""

LINGER_SECONDS = 2.0
"""In which input is discarded after the last response, so that a reset does not destroy it. The
time starts again while the client has yet to acknowledge a part of the response."""

POOLED_SECONDS = 55.0
"""For which an idle connection to an upstream is kept, unless the upstream announces less."""

KEEP_ALIVE_MARGIN_SECONDS = 1.0
"""End of the upstream's announced idle time in which a connection is not used: a request that is on
its way when the upstream closes gets no response."""

MAX_CONNECTION_AGE_SECONDS = 600.0
"""After which a connection to an upstream serves no further request, so that a change of the
upstream's address is noticed."""

CLOSE_SECONDS = 2.0
"""In which an upstream must agree to a close, which TLS waits for."""


_RESPONSE_BODY: Final = Awaited.RESPONSE_BODY
"""Python 3.11 takes 0.1 us to look up an enum member, and each frame of a stream needs it."""

_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[\s,;])timeout\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)


class ServerDeadlines:
    """Deadlines of one connection to a client.

    :ivar expires_at: end of the wait for a head, for the next request or for the client's close;
        :data:`.NEVER` while a request is handled.
    """

    __slots__ = (
        "_body_started_at", "_bytes_taken", "_last_tick", "_reported", "_stalls_at", "expires_at",
    )  # fmt: skip

    def __init__(self, now: float) -> None:
        self.expires_at = now + HEAD_TIMEOUT_SECONDS
        self._last_tick = now
        self._body_started_at = now
        self._bytes_taken = -1
        self._stalls_at = NEVER
        self._reported = NEVER

    def tick(self, now: float) -> float:
        """Return the seconds since the previous tick."""
        passed, self._last_tick = now - self._last_tick, now
        return passed

    def postpone(self, lost: float, now: float) -> None:
        """Move the deadlines after a standstill of *lost* seconds that ended before *now*."""
        self.expires_at = postponed(self.expires_at, lost, now)
        self._stalls_at = postponed(self._stalls_at, lost, now)
        self._body_started_at = min(self._body_started_at + lost, now)
        self._last_tick = now

    def start_body(self, now: float) -> None:
        """Measure the rate of a request body from *now* on."""
        self._body_started_at = now

    def postpone_body(self, seconds: float) -> None:
        """Do not count *seconds* in which the client could not send."""
        self._body_started_at += seconds

    def body_is_too_slow(self, received: int, now: float) -> bool:
        """Return whether a body of which *received* bytes are here is below the lowest rate."""
        seconds = received / MIN_BODY_BYTES_PER_SECOND
        if now > self._body_started_at + BODY_GRACE_SECONDS + seconds:
            return True
        # A fast start earns no silence that is longer than another grace period.
        self._body_started_at = min(self._body_started_at, now - seconds)
        return False

    def reader_is_stalled(self, written: int, undelivered: int, now: float) -> bool:
        """Return whether the client has taken nothing for too long.

        :param written: bytes that were written in all.
        :param undelivered: bytes of them that the client has yet to take; 0 where it has time.
        """
        taken = written - undelivered
        if not undelivered or taken != self._bytes_taken:
            self._bytes_taken = taken
            self._stalls_at = now + READER_STALL_SECONDS
            return False
        return now >= self._stalls_at

    def has_changed(self) -> bool:
        """Return whether :attr:`expires_at` differs from what it was at the previous call."""
        changed = self.expires_at != self._reported
        self._reported = self.expires_at
        return changed


@attrs.define(eq=False)
class Timeouts:
    """How long upstreams may take, in seconds. All connections share one object, which may change.

    A change does not affect a wait that has begun.

    :ivar head: from the last byte of the request that the upstream has taken to the response head.
    :ivar idle: without progress inside a body, of the request or of the response.
    :ivar generation: as *head*, for a POST; by default the same time.
    """

    head: float
    idle: float
    generation: float = attrs.field(default=attrs.Factory(lambda self: self.head, takes_self=True))


class ClientDeadlines:
    """Deadlines of one connection to an upstream.

    :ivar expires_at: end of the present wait, or :data:`.NEVER`.
    :ivar awaited: what the present wait is for.
    :ivar bytes_written: to the transport.
    :ivar is_post: whether the request is a POST, which may generate its response for minutes.
    :ivar sending: whether the upstream may have yet to take a part of the request.
    """

    __slots__ = (
        "_bytes_taken", "_retires_at", "_timeouts", "awaited", "bytes_written", "expires_at",
        "is_post", "sending",
    )  # fmt: skip

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self._timeouts = timeouts
        self._retires_at = now + MAX_CONNECTION_AGE_SECONDS
        self._bytes_taken = 0
        self.expires_at = NEVER
        self.awaited = Awaited.CONNECTION
        self.bytes_written = 0
        self.is_post = False
        self.sending = False

    def await_response_head(self, now: float) -> None:
        """Give the upstream time to answer the complete request."""
        self.awaited = Awaited.RESPONSE_HEAD
        timeouts = self._timeouts
        self.expires_at = now + (timeouts.generation if self.is_post else timeouts.head)

    def await_response_body(self, now: float) -> None:
        """Give the upstream time to send more of the response."""
        self.awaited = _RESPONSE_BODY
        self.expires_at = now + self._timeouts.idle

    def await_request_progress(self, now: float) -> None:
        """Give the upstream time to take more of the request."""
        self.awaited = Awaited.REQUEST_PROGRESS
        self.expires_at = now + self._timeouts.idle

    def check_request_progress(
        self, unsent: int, unacknowledged: int, uploading: bool, now: float
    ) -> None:
        """Start the wait that the progress of the request asks for.

        :param unsent: bytes that were written and that the kernel has not taken.
        :param unacknowledged: bytes that the kernel has taken, and the upstream has not.
        :param uploading: whether more of the request body will be written.
        """
        taken = self.bytes_written - unsent - unacknowledged
        has_progressed, self._bytes_taken = taken != self._bytes_taken, taken
        if not unsent and not uploading:
            self.sending = unacknowledged > 0
            if has_progressed or self.awaited is not Awaited.RESPONSE_HEAD:
                self.await_response_head(now)
        elif not unsent or has_progressed or self.awaited is not Awaited.REQUEST_PROGRESS:
            self.await_request_progress(now)  # the client's pace is checked on its connection

    def await_next_request(self, announced: bytes | None, now: float) -> bool:
        """Start the idle time of a kept connection; return whether it can be kept.

        :param announced: the ``Keep-Alive`` field of the response. Its ``timeout`` parameter is the
            number of seconds for which the upstream keeps an idle connection.
        """
        seconds = POOLED_SECONDS
        if announced is not None:
            timeout = _KEEP_ALIVE_TIMEOUT.search(announced)
            if timeout is not None:
                seconds = min(seconds, int(timeout[1]) - KEEP_ALIVE_MARGIN_SECONDS)
        expires_at = now + seconds
        self.expires_at = expires_at if expires_at < self._retires_at else self._retires_at
        return self.expires_at > now
