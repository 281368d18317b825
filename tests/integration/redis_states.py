"""Several shared states in this process, as of several machines."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import attrs
import pytest
from msgspec import structs
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import deferLater

from goproxyai.cache.entry import Entry
from goproxyai.cache.record import Record
from goproxyai.state.redis.announcements import Announcements
from goproxyai.state.redis.client import RedisClient
from goproxyai.state.redis.counts import StateCounts
from goproxyai.state.redis.lanes import Lane, Login
from goproxyai.state.redis.limiter import RedisLimiter
from goproxyai.state.redis.names import Names
from goproxyai.state.redis.places import Places
from goproxyai.state.redis.second_level import RedisSecondLevel
from goproxyai.state.redis.secret_check import SecretCheck
from goproxyai.state.redis.servers import FixedServer
from goproxyai.state.redis.shared import RedisState
from goproxyai.state.shared_state import NO_SHARED_STATE
from tests.support.patient_redis import wait_long_for_redis
from tests.support.redis_server import RedisServer
from tests.unit.cache.snapshots import stored_entry

SECRET = "the-secret-of-the-shared-state"
NAMES = Names(SECRET, "goproxyai:", lambda size: time.monotonic_ns().to_bytes(size, "big"))

WAIT_SECONDS = 20.0


@pytest.fixture
def patient_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests wait for Redis on a busy machine, too."""
    wait_long_for_redis(monkeypatch.setattr)


KEY, OWNER, PATH = b"k" * 32, b"owner-of-entries", b"/v1/models"


def record(body: bytes = b"text of a response", key: bytes = KEY, seconds: float = 60.0) -> Record:
    """Return a record that is fresh for *seconds*."""
    now = time.time()
    return Record(key, 200, b"HTTP/1.1 200 OK\r\n", body, None, 0, now, now + seconds, PATH, OWNER)


def entry(one: Record) -> Entry:
    """Return the entry of *one*, which is in a store."""
    from twisted.internet import reactor

    now: float = reactor.seconds()  # type: ignore[attr-defined]
    return stored_entry(one, now, time.time(), stale_seconds=60.0)


def is_same(found: Record | None, stored: Record) -> bool:
    """Whether the responses are the same; the clocks differ by some microseconds."""
    return (
        found is not None
        and abs(found.stored - stored.stored) < 0.5
        and abs(found.expires - stored.expires) < 0.5
        and structs.replace(found, stored=stored.stored, expires=stored.expires) == stored
    )


class Cache:
    """The calls of a cache in memory."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def invalidate(self, owner: bytes) -> None:
        self.calls.append(("invalidate", owner))

    def clear(self, path: bytes | None = None) -> None:
        self.calls.append(("clear", path))

    def drop(self, keys: list[bytes]) -> None:
        self.calls.append(("drop", keys))


@attrs.define(eq=False)
class Answer:
    """The answer to a look-up.

    :ivar given: whether it was given.
    """

    given: bool = False
    record: Record | None = None
    claim: Any = None

    def give(self, record: Record | None, claim: Any) -> None:
        assert not self.given, "a look-up was answered twice"
        self.given, self.record, self.claim = True, record, claim


class Process:
    """A process with a shared state."""

    def __init__(self, reactor: Any, server: RedisServer, number: int) -> None:
        self._reactor = reactor
        self.cache = Cache()
        tokens, channel, places = count(1), NAMES.plain(b"events:0"), Places(NAMES)
        instance = b"%016d" % number

        def new_token() -> bytes:
            return b"%b-%d" % (instance, next(tokens))

        self.client = RedisClient(
            reactor,
            FixedServer(UNIXClientEndpoint(reactor, str(server.socket))),
            Login("", None, 0),
            NAMES.plain(b"probe"),
            channel,
            StateCounts(),
            lambda _: None,
        )
        self.announcements = Announcements(
            self.client, NAMES, places, self.cache, instance, new_token, channel
        )
        self.level = RedisSecondLevel(
            reactor, self.client, NAMES, places, new_token, time.time, channel,
            lambda: not self.announcements.owes, self.announcements.replaced,
        )  # fmt: skip
        limiter = RedisLimiter(reactor, 0, self.client, NAMES, None)
        self.state = RedisState(
            reactor,
            self.client,
            limiter,
            self.announcements,
            self.level,
            SecretCheck(self.client, NAMES),
            NO_SHARED_STATE,
        )

    async def start(self) -> None:
        self.state.startService()
        await self.until(lambda: self.state.up)

    def stop(self) -> None:
        self.state.stopService()

    async def until(self, condition: Any) -> None:
        """Return when *condition* holds."""
        deadline = self._reactor.seconds() + WAIT_SECONDS
        while not condition():
            assert self._reactor.seconds() < deadline, "the condition did not hold in time"
            await deferLater(self._reactor, 0.005)

    def ask(
        self,
        claims: bool = True,
        key: bytes = KEY,
        owner: bytes = OWNER,
        replaces: bool = False,
    ) -> Answer:
        answer = Answer()
        self.level.look_up(key, owner, PATH, claims, answer.give, replaces=replaces)
        return answer

    async def look_up(self, *question: Any, **options: Any) -> Answer:
        """Return the answer to :meth:`ask` when it is given."""
        answer = self.ask(*question, **options)
        await self.until(lambda: answer.given)
        return answer

    async def settle(self) -> None:
        """Return when Redis has carried out what this process has sent."""
        await self.client.call(Lane.CACHE, "probe", "PING")
