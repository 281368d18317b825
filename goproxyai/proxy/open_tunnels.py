"""The open tunnels, and the end of those that have been silent for too long."""

from __future__ import annotations

from typing import Protocol

from goproxyai.reactor.deadlines import NEVER, postponed

HALF_CLOSED_SECONDS = 30.0
"""Silence after which a tunnel ends that one peer has ended by a FIN.

A peer that has received a FIN closes as well, or goes on sending. One that does neither would hold
both connections until ``TUNNEL_IDLE_TIMEOUT``.
"""


class IdleTunnel(Protocol):
    """A tunnel, as its idle timeout sees it.

    :ivar is_active: bytes or a FIN were relayed since the last tick.
    :ivar is_half_closed: one peer has sent its FIN.
    :ivar expires_at: when its silence is too long.
    """

    is_active: bool
    is_half_closed: bool
    expires_at: float

    def __hash__(self) -> int: ...

    def is_delivering(self) -> bool:
        """Return whether a peer has yet to take bytes that were relayed."""

    def expire(self) -> None:
        """End the tunnel."""


class OpenTunnels:
    """Ends tunnels that are silent in both directions; ticked by the ticker.

    A tunnel only sets a flag when it relays bytes: reading the clock for each read would cost more.
    A tunnel is not silent while a slow peer takes what was relayed; a peer that takes nothing has a
    deadline of its own (:mod:`goproxyai.http11.tunnel_end`).

    :ivar idle_seconds: of silence; a reload may change it. :data:`HALF_CLOSED_SECONDS` apply
        instead, if that is less, after the FIN of one peer.
    """

    def __init__(self, idle_seconds: float) -> None:
        self.idle_seconds = idle_seconds
        self._open: set[IdleTunnel] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, tunnel: IdleTunnel) -> None:
        """Watch *tunnel*, which is not ended before its first tick."""
        tunnel.is_active, tunnel.expires_at = True, NEVER
        self._open.add(tunnel)

    def discard(self, tunnel: IdleTunnel) -> None:
        """Forget *tunnel*, which has ended; may be repeated."""
        self._open.discard(tunnel)

    def tick(self, now: float) -> None:
        """Note which tunnels were silent, and end those that were for too long."""
        for tunnel in tuple(self._open):
            if tunnel.is_active or (now >= tunnel.expires_at and tunnel.is_delivering()):
                tunnel.is_active = False
                tunnel.expires_at = now + self._seconds_for(tunnel)
            elif now >= tunnel.expires_at:
                tunnel.expire()

    def postpone(self, lost: float, now: float) -> None:
        """Do not count a standstill as silence."""
        for tunnel in self._open:
            tunnel.expires_at = postponed(tunnel.expires_at, lost, now)

    def _seconds_for(self, tunnel: IdleTunnel) -> float:
        if tunnel.is_half_closed:
            return min(HALF_CLOSED_SECONDS, self.idle_seconds)
        return self.idle_seconds
