"""What a process shares by Redis, and the parts that do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from goproxyai.state.redis.client import Login, RedisClient, Server
from goproxyai.state.redis.counts import StateCounts
from goproxyai.state.redis.limiter import RedisLimiter
from goproxyai.state.redis.names import Names
from goproxyai.state.shared_state import RateLimiter
from goproxyai.upstream.breaker import CircuitState

START_SECONDS: Final = 1.0
"""The longest time that connections are not accepted at the start, while Redis is connected to.
Requests before that would be decided by the fallback, in addition to the shared limit."""


class RedisState(Service):
    """The shared state of a process: starts and stops its parts.

    :param fallback: limits the rate while Redis is away; ``None``: requests are refused.
    :ivar limiter: the rate limit.
    """

    def __init__(
        self,
        clock: IReactorTime,
        server: Server,
        login: Login,
        names: Names,
        per_minute: int,
        fallback: RateLimiter | None,
        counts: StateCounts,
        count_seconds: Callable[[float], None],
    ) -> None:
        self._clock = clock
        self._client = RedisClient(
            clock,
            server,
            login,
            names.plain(b"probe"),
            names.plain(b"events:%d" % login.database),
            counts,
            count_seconds,
        )
        self._client.part = self
        self.limiter = RedisLimiter(clock, per_minute, self._client, names, fallback)

    @property
    def up(self) -> bool:
        """Whether the shared state is in use."""
        return self._client.up

    @property
    def circuit(self) -> CircuitState:
        """The state of the circuit breaker."""
        return self._client.breaker.state

    def startService(self) -> None:
        super().startService()
        self._client.start()

    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        self._client.stop()
        return None

    def when_ready(self, then: Callable[[], None]) -> None:
        """Call *then* once: when Redis is connected to, cannot be, or does not respond for long."""
        timer: IDelayedCall = self._clock.callLater(START_SECONDS, then)

        def attempted() -> None:
            if timer.active():
                timer.cancel()
                then()

        self._client.after_first_attempt(attempted)

    # Part of the client

    def connected(self) -> Deferred[None]:
        return succeed(None)

    def lost(self) -> None:
        self.limiter.lost()

    def message(self, payload: bytes) -> None:
        """Do nothing: no process announces anything."""

    def beat(self) -> None:
        """Do nothing."""
