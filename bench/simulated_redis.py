"""A Redis server that knows the scripts of the rate limit, for simulations.

The arithmetic is that of the Lua scripts; a test compares it with a server. A client of the server
gives up as :class:`.RedisClient` does: after a command without a reply for
:data:`.client.COMMAND_SECONDS`, until it has connected again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.task import Clock

from goproxyai.state.redis.breaker import StateBreaker
from goproxyai.state.redis.client import COMMAND_SECONDS
from goproxyai.state.redis.connection import CommandFailed
from goproxyai.state.redis.scripts import LEASE, PUT_BACK, SHARES, UNITS_PER_TOKEN, Script


class Network(Protocol):
    """Carries messages; see :class:`bench.lease_simulation.Link`."""

    def send(self, way: int, arrive: Callable[[], None]) -> None: ...

    @property
    def is_cut(self) -> bool: ...


class SimulatedRedis:
    """The server.

    :ivar leases: leases that were asked for.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[bytes, tuple[int, int]] = {}
        self.leases = 0

    def client(self, network: Network) -> SimulatedClient:
        return SimulatedClient(self._clock, self, network)

    def run(self, script: Script, keys: tuple[bytes, ...], arguments: tuple[Any, ...]) -> Any:
        """Run *script*, and return its reply."""
        now = int(self._clock.seconds() * 1000)
        rate, *numbers = (int(each) for each in arguments)
        if script is LEASE:
            return self._lease(keys[0], rate, numbers[0], now)
        assert script is PUT_BACK, script.kind
        for key, tokens in zip(keys, numbers, strict=True):
            used = self._used(key, rate, now)
            self._keep(key, max(0, used - tokens * UNITS_PER_TOKEN), now)
        return 1

    def _lease(self, key: bytes, rate: int, wanted: int, now: int) -> list[int]:
        used = self._used(key, rate, now)
        left = (UNITS_PER_TOKEN * rate - used) // UNITS_PER_TOKEN
        granted = min(wanted, max(1, left // SHARES), left)
        if granted < 1:
            return [0, max(1, math.ceil((used - UNITS_PER_TOKEN * (rate - 1)) / rate))]
        self._keep(key, used + granted * UNITS_PER_TOKEN, now)
        return [granted, 0]

    def _used(self, key: bytes, rate: int, now: int) -> int:
        used, at = self._buckets.get(key, (0, now))
        return max(0, min(used, UNITS_PER_TOKEN * rate) - (now - at) * rate)

    def _keep(self, key: bytes, used: int, now: int) -> None:
        self._buckets[key] = used, now


class SimulatedClient:
    """What the rate limit uses of a :class:`.RedisClient`.

    :ivar up: whether commands are sent. :ivar lost: called when the server is given up.
    """

    def __init__(self, clock: Clock, redis: SimulatedRedis, network: Network) -> None:
        self._clock = clock
        self._redis = redis
        self._network = network
        self._breaker = StateBreaker()
        self._sent: dict[object, Callable[[Any], None]] = {}
        self.up = True
        self.lost: Callable[[], None] = lambda: None

    def run(
        self,
        _lane: object,
        script: Script,
        keys: tuple[bytes, ...],
        arguments: tuple[Any, ...],
        then: Callable[[Any], None],
    ) -> None:
        if not self.up:
            then(CommandFailed("there is no connection to Redis", "refused"))
            return
        self._redis.leases += script is LEASE
        command = object()
        self._sent[command] = then
        self._network.send(0, lambda: self._reply(command, script, keys, arguments))
        self._clock.callLater(COMMAND_SECONDS, self._late, command)

    def overdue(self, _kind: str) -> None:
        """Do nothing: a server that is slow is given up by the deadline of commands here."""

    def count_wait(self, _kind: str, _seconds: float) -> None:
        """Do nothing."""

    def _reply(
        self,
        command: object,
        script: Script,
        keys: tuple[bytes, ...],
        arguments: tuple[Any, ...],
    ) -> None:
        reply = self._redis.run(script, keys, arguments)
        self._network.send(1, lambda: self._received(command, reply))

    def _received(self, command: object, reply: Any) -> None:
        then = self._sent.pop(command, None)
        if then is not None:
            then(reply)

    def _late(self, command: object) -> None:
        if command not in self._sent:
            return
        self.up = False
        sent, self._sent = self._sent, {}
        self.lost()
        for then in sent.values():
            then(CommandFailed("Redis did not reply in time", "late"))
        self._connect_later()

    def _connect_later(self) -> None:
        self._clock.callLater(self._breaker.fail(self._clock.seconds()), self._connect)

    def _connect(self) -> None:
        self._breaker.attempt()
        if self._network.is_cut:
            self._connect_later()
        else:
            self.up = True
            self._breaker.succeed(self._clock.seconds())
