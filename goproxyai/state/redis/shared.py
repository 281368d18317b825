"""What a process shares by Redis, and the parts that do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from goproxyai.state.redis.announcements import KIND, REPLACED, Announcements
from goproxyai.state.redis.client import RedisClient
from goproxyai.state.redis.limiter import RedisLimiter
from goproxyai.state.redis.second_level import RedisSecondLevel
from goproxyai.state.redis.secret_check import SecretCheck
from goproxyai.state.shared_state import SharedState
from goproxyai.upstream.breaker import CircuitState

START_SECONDS: Final = 1.0
"""The longest time that connections are not accepted at the start, while Redis is connected to.
Requests before that would be decided by the fallback, in addition to the shared limit."""


class RedisState(Service):
    """The shared state of a process: a :class:`~goproxyai.state.shared_state.SharedState`.

    :param others: the processes of this machine, which are told of announcements as well: Redis
        may be away.
    :ivar limiter: the rate limit.
    :ivar second_level: the responses in Redis.
    """

    def __init__(
        self,
        clock: IReactorTime,
        client: RedisClient,
        limiter: RedisLimiter,
        announcements: Announcements,
        second_level: RedisSecondLevel,
        secret: SecretCheck,
        others: SharedState,
    ) -> None:
        self.limiter = limiter
        self.second_level = second_level
        self._clock = clock
        self._client = client
        self._announcements = announcements
        self._secret = secret
        self._others = others
        client.part = self

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

    # SharedState

    def announce_write(self, owner: bytes) -> None:
        self._announcements.write(owner)
        self._others.announce_write(owner)

    def announce_clearing(self, path: bytes | None) -> Deferred[None]:
        announced = [self._announcements.clearing(path), self._others.announce_clearing(path)]
        return gatherResults(announced).addCallback(lambda _: None)

    # Part of the client

    def connected(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._prepare())

    async def _prepare(self) -> None:
        await self._secret.run()
        await self._announcements.catch_up()

    def lost(self) -> None:
        self.limiter.lost()
        self.second_level.lost()

    def message(self, payload: bytes) -> None:
        kind, content = payload[:1], payload[1:]
        if kind == KIND:
            self._announcements.received(content)
        elif kind == REPLACED:
            self._announcements.received_replaced(content)
        else:
            self.second_level.claim_ended(kind, content)

    def beat(self) -> None:
        self._announcements.beat()
        self.second_level.beat()
