"""TLS sessions that later connections of the same route resume (RFC 8446 §2.2).

A resumed handshake takes the client 0.4 ms of CPU time, a full one 1.0 ms (TLS 1.3, chain of two
ECDSA certificates): no certificate is sent or verified. Therefore:

1. Sessions belong to one route and one OpenSSL context: one host, one way to it, one set of roots.
2. OpenSSL does not verify a resumed session. The name in its certificate is verified again. No
   session is used after its certificate has expired, nor :data:`MAX_SESSION_SECONDS` after the
   full handshake that it stems from.
3. A session is used once, as RFC 8446 §C.4 asks.
4. A handshake that fails after a session was offered ends resumption for the route: a peer may not
   understand the offer.
5. OpenSSL forgets the session of a connection that ends without ``close_notify`` of this side.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from OpenSSL.SSL import Session

MAX_SESSIONS: Final = 32
"""Kept of one route; each takes about 12 KB with a chain of two certificates.

One turn of the reactor accepts up to 32 connections from clients. Each may need a connection to the
upstream, and all these handshakes begin before the first one has received another session."""

MAX_SESSION_SECONDS: Final = 600.0


class SessionVerifier(Protocol):
    """What verifies the certificates of a route."""

    def verify_resumed(self, connection: Any) -> None:
        """Verify the name in the certificate of a resumed connection.

        :raises Exception: the certificate is not acceptable.
        """

    def valid_seconds(self, connection: Any) -> float:
        """Return how long the certificate of the connection is valid."""


class TLSSessions:
    """The sessions of one route, the newest last.

    :param seconds: a monotonic clock.
    """

    def __init__(
        self, verifier: SessionVerifier, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._verifier = verifier
        self._seconds = seconds
        self._kept: deque[tuple[Session, float]] = deque(maxlen=MAX_SESSIONS)
        self._enabled = True

    def __len__(self) -> int:
        return len(self._kept)

    def offer(self, connection: Any) -> float | None:
        """Let *connection* offer a session.

        :returns: when the session ends; ``None`` if there is none to offer.
        """
        now = self._seconds()
        while self._kept:
            session, ends_at = self._kept.pop()
            if now < ends_at:
                connection.set_session(session)
                return ends_at
        return None

    def begin(self, connection: Any) -> float:
        """Return when the sessions of *connection* end, after a full handshake."""
        valid = self._verifier.valid_seconds(connection)
        return self._seconds() + min(valid, MAX_SESSION_SECONDS)

    def verify(self, connection: Any) -> None:
        """Verify a resumed connection.

        :raises Exception: the certificate is not acceptable.
        """
        self._verifier.verify_resumed(connection)

    def keep(self, session: Session, ends_at: float) -> None:
        """Keep *session* for a later connection."""
        if self._enabled:
            self._kept.append((session, ends_at))

    def end(self) -> None:
        """End resumption."""
        self._enabled = False
        self._kept.clear()
