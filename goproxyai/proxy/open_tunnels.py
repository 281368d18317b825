"""The open tunnels, and the end of those that have been silent for too long."""

from __future__ import annotations

from typing import Protocol

from goproxyai.reactor.deadlines import NEVER, postponed


class IdleTunnel(Protocol):
    """A tunnel, as its idle timeout sees it.

    :ivar is_active: bytes were relayed since the last tick.
    :ivar expires_at: when its silence is too long.
    """

    is_active: bool
    expires_at: float

    def __hash__(self) -> int: ...

    def expire(self) -> None:
        """End the tunnel."""


class OpenTunnels:
    """Ends tunnels that are silent in both directions; ticked by the ticker.

    A tunnel only sets a flag when it relays bytes: reading the clock for each read would cost more.

    :ivar idle_seconds: of silence; a reload may change it.
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
            if tunnel.is_active:
                tunnel.is_active = False
                tunnel.expires_at = now + self.idle_seconds
            elif now >= tunnel.expires_at:
                tunnel.expire()

    def postpone(self, lost: float, now: float) -> None:
        """Do not count a standstill as silence."""
        for tunnel in self._open:
            tunnel.expires_at = postponed(tunnel.expires_at, lost, now)
