"""The rate limit by Redis, and what decides without it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError
from twisted.internet.task import Clock

from goproxyai.state.leases import UNDECIDED
from goproxyai.state.redis.client import COMMAND_SECONDS, REQUEST_SECONDS, RedisClient
from goproxyai.state.redis.counts import StateCounts
from goproxyai.state.redis.lanes import Login
from goproxyai.state.redis.limiter import MAX_BUCKETS, RedisLimiter
from goproxyai.state.redis.names import Names
from goproxyai.state.redis.servers import FixedServer
from goproxyai.state.refilled_buckets import RefilledBuckets
from goproxyai.state.shared_state import RateLimiter
from tests.support.memory_redis import MemoryRedis, usual_answer

NAMES = Names("a passphrase of some length", "p:", bytes)

_MISSING = object()


class Fixture:
    def __init__(self, per_minute: int = 16, fallback: Any = _MISSING) -> None:
        self.clock = Clock()
        self.redis = MemoryRedis(self.clock)
        self.decisions: list[float] = []
        self.client = RedisClient(
            self.clock, FixedServer(self.redis), Login("", None, 0), b"p:probe", b"p:events",
            StateCounts(), lambda _: None,
        )  # fmt: skip
        self.client.part = self
        self.fallback: RateLimiter | None = RefilledBuckets(self.clock, per_minute)
        if fallback is not _MISSING:
            self.fallback = fallback
        self.limiter = RedisLimiter(self.clock, per_minute, self.client, NAMES, self.fallback)
        self.limiter.start()

    def connected(self) -> Deferred[None]:
        return succeed(None)

    def lost(self) -> None:
        self.limiter.lost()

    def message(self, payload: bytes) -> None: ...
    def beat(self) -> None: ...

    def connect(self) -> None:
        self.client.start()
        self.redis.settle()
        self.redis.commands.clear()

    def grant(self, tokens: int, milliseconds: int = 0) -> None:
        reply = b"*2\r\n:%d\r\n:%d\r\n" % (tokens, milliseconds)
        self.redis.answer = lambda command: (
            reply if command[0] == b"EVALSHA" else usual_answer(command)
        )

    def ask(self, client: str = "a") -> float | None:
        """Return the decision about a request, ``None`` if there is none yet."""
        decision = self.limiter.take(client)
        if decision >= 0:
            return decision
        before = len(self.decisions)
        self.limiter.when_decided(client, self.decisions.append)
        self.redis.settle()
        return self.decisions[before] if len(self.decisions) > before else None

    def stop(self) -> None:
        self.limiter.stop()
        self.client.stop()
        self.redis.settle()
        assert self.clock.getDelayedCalls() == []


@pytest.fixture
def fixture() -> Any:
    fixture = Fixture()
    yield fixture
    fixture.stop()


def test_request_without_a_token_waits_for_redis(fixture: Fixture) -> None:
    fixture.connect()
    fixture.grant(2)
    assert [fixture.ask(), fixture.ask()] == [0.0, 0.0]
    ((*_, limit, wanted),) = fixture.redis.named(b"EVALSHA")
    assert (limit, wanted) == (b"16", b"2")
    assert fixture.limiter.lease == 2
    assert len(fixture.limiter.buckets) == 1


def test_no_client_is_named_in_a_command(fixture: Fixture) -> None:
    fixture.connect()
    fixture.grant(1)
    fixture.ask("192.0.2.77")
    assert not [each for each in fixture.redis.commands if b"192.0.2.77" in b" ".join(each)]


def test_refused_client_waits_as_long_as_redis_says(fixture: Fixture) -> None:
    fixture.connect()
    fixture.grant(0, 3750)
    assert fixture.ask() == 3.75
    fixture.clock.advance(1)
    assert fixture.ask() == 2.75
    assert len(fixture.redis.named(b"EVALSHA")) == 1


def test_unused_tokens_are_given_back(fixture: Fixture) -> None:
    fixture.connect()
    fixture.grant(2)
    fixture.ask("a")
    fixture.ask("b")
    for _ in range(4):
        fixture.clock.advance(1)
        fixture.redis.settle()
    back = fixture.redis.named(b"EVALSHA")[-1]
    assert back[2] == b"2"
    assert back[-3:] == [b"16", b"1", b"1"]


def test_tokens_of_many_clients_are_given_back_by_few_commands() -> None:
    fixture = Fixture()
    fixture.connect()
    fixture.grant(2)
    for number in range(MAX_BUCKETS + 1):
        fixture.ask(str(number))
    asked = len(fixture.redis.named(b"EVALSHA"))
    fixture.limiter.stop()
    assert len(fixture.redis.named(b"EVALSHA")) == asked + 2
    fixture.stop()


def test_fallback_decides_while_redis_is_away(fixture: Fixture) -> None:
    fixture.redis.error = ConnectError("refused")
    fixture.connect()
    assert [fixture.ask() for _ in range(16)] == [0.0] * 16
    assert (fixture.ask() or 0) > 0
    assert len(fixture.limiter.buckets) == 1


def test_request_is_decided_without_redis_after_the_deadline(fixture: Fixture) -> None:
    fixture.connect()
    fixture.redis.answer = lambda _: None
    assert fixture.ask() is None
    fixture.clock.advance(REQUEST_SECONDS)
    assert fixture.decisions == [0.0]
    assert fixture.client.up
    fixture.clock.advance(COMMAND_SECONDS - REQUEST_SECONDS)
    assert not fixture.client.up


def test_request_waits_no_longer_than_the_deadline_for_several_answers(fixture: Fixture) -> None:
    """Each answer is in time, and has a token for one of the requests that wait."""
    fixture.connect()
    fixture.redis.answer = lambda _: None
    assert [fixture.ask() for _ in range(5)] == [None] * 5
    limits = fixture.redis.connections[0]
    fixture.clock.advance(0.04)
    limits.dataReceived(b"*2\r\n:1\r\n:0\r\n")
    assert fixture.decisions == [0.0]
    fixture.clock.advance(0.01)
    assert fixture.decisions == [0.0] * 5
    assert fixture.client.up
    assert len(fixture.fallback.buckets) == 1  # type: ignore[union-attr]


def test_error_reply_is_decided_by_the_fallback(fixture: Fixture) -> None:
    fixture.connect()
    fixture.redis.answer = lambda _: b"-ERR script\r\n"
    assert fixture.ask() == 0.0
    assert fixture.client.up
    assert fixture.ask() == 0.0  # asks again: no refusal is noted


def test_requests_that_wait_are_decided_when_the_connection_is_lost(fixture: Fixture) -> None:
    fixture.connect()
    fixture.redis.answer = lambda _: None
    fixture.ask()
    fixture.redis.lose()
    assert fixture.decisions == [0.0]


def test_limit_is_shared_again_when_redis_is_back(fixture: Fixture) -> None:
    fixture.redis.error = ConnectError("refused")
    fixture.connect()
    assert fixture.ask() == 0.0
    fixture.redis.error = None
    fixture.clock.advance(1)
    fixture.redis.settle()
    fixture.grant(0, 1000)
    assert fixture.ask() == 1.0


def test_strict_limit_refuses_while_redis_is_away() -> None:
    fixture = Fixture(fallback=None)
    fixture.redis.error = ConnectError("refused")
    fixture.connect()
    assert fixture.limiter.take("a") == UNDECIDED
    assert fixture.ask() == UNDECIDED
    assert len(fixture.limiter.buckets) == 0
    fixture.limiter.set_rate(0)
    assert fixture.limiter.take("a") == UNDECIDED
    fixture.stop()


def test_fallback_may_decide_later() -> None:
    class Later:
        def start(self) -> None: ...
        def stop(self) -> None: ...
        def take(self, _: str) -> float:
            return UNDECIDED

        def when_decided(self, client: str, then: Any) -> None:
            waiting.append((client, then))

    waiting: list[Any] = []
    fixture = Fixture(fallback=Later())
    assert fixture.ask() is None
    ((client, then),) = waiting
    then(2.0)
    assert (client, fixture.decisions) == ("a", [2.0])
    fixture.stop()


def test_rate_can_be_changed_and_turned_off(fixture: Fixture) -> None:
    fixture.connect()
    fixture.grant(2)
    fixture.ask()
    fixture.limiter.set_rate(0)
    assert fixture.limiter.take("a") == 0.0
    assert fixture.limiter.lease == 0
    assert fixture.redis.named(b"EVALSHA")[-1][-2:] == [b"16", b"1"]  # given back
    fixture.limiter.set_rate(32)
    fixture.ask()
    assert fixture.redis.named(b"EVALSHA")[-1][-2:] == [b"32", b"4"]


def test_tokens_are_those_of_the_lease_or_of_the_fallback(fixture: Fixture) -> None:
    assert fixture.limiter.tokens("a") == (16, True)
    fixture.connect()
    fixture.grant(2)
    assert fixture.ask() == 0.0
    assert fixture.limiter.tokens("a") == (1, False)
