"""Notices that Redis is silent while look-ups wait for the end of another process's claim.

Such a look-up has no reply to wait for, so no command is late. While there are any, a small command
is sent every :data:`WATCH_SECONDS` on the lane of the messages that tell of the end. A look-up that
has waited too long without a sign of Redis ends, so that its request goes upstream.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from goproxyai.state.redis.client import RedisClient
from goproxyai.state.redis.lanes import Lane
from goproxyai.state.reply_timer import NEVER, ReplyTimer

WATCH_SECONDS: Final = 0.04
"""Between two commands. A thousand processes with look-ups that wait send 25,000 a second, which
take a Redis server less than a twentieth of its time."""

Waiting = TypeVar("Waiting", bound=Hashable)


class ClaimWatch(Generic[Waiting]):
    """Watches Redis while look-ups wait.

    :param silent: is called with a look-up for which Redis was silent too long, and the seconds.
    """

    def __init__(
        self, clock: IReactorTime, client: RedisClient, silent: Callable[[Waiting, float], None]
    ) -> None:
        self._clock = clock
        self._client = client
        self._silent = silent
        self._limits: dict[Waiting, float] = {}
        self._heard_at = 0.0
        self._has_asked = False
        self._call: IDelayedCall | None = None
        self._timer = ReplyTimer(clock, self._judge)

    def add(self, look_up: Waiting, seconds: float) -> None:
        """Redis has just said that *look_up* must wait.

        :param seconds: the longest time without a sign of Redis.
        """
        self._heard_at = self._clock.seconds()
        self._limits[look_up] = seconds
        self._timer.expect(self._heard_at + seconds)
        if self._call is None:
            self._call = self._clock.callLater(WATCH_SECONDS, self._ask)

    def discard(self, look_up: Waiting) -> None:
        """*look_up* waits no longer, if it did."""
        self._limits.pop(look_up, None)

    def stop(self) -> None:
        """Forget all look-ups."""
        self._limits.clear()
        self._timer.stop()
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _ask(self) -> None:
        self._call = None
        if not self._limits:
            return
        self._call = self._clock.callLater(WATCH_SECONDS, self._ask)
        if not self._has_asked:
            self._has_asked = True
            self._client.check(Lane.EVENTS, "PING").addCallbacks(self._heard, self._failed)

    def _heard(self, _: object) -> None:
        self._has_asked = False
        self._heard_at = self._clock.seconds()

    def _failed(self, _: object) -> None:
        self._has_asked = False

    def _judge(self, read_until: float) -> float:
        """Tell of look-ups for which Redis was silent; return when it is too long for the next."""
        heard_at = self._heard_at
        overdue = [
            each for each, seconds in self._limits.items() if heard_at + seconds <= read_until
        ]
        for look_up in overdue:
            if self._limits.pop(look_up, None) is not None:
                self._silent(look_up, self._clock.seconds() - heard_at)
        return min([heard_at + seconds for seconds in self._limits.values()], default=NEVER)
