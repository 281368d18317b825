"""Where the server is, according to Sentinels."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from goproxyai.state.redis.connection import CommandFailed
from goproxyai.state.redis.servers import SENTINEL_SECONDS, WATCH_SECONDS, SentinelServers
from tests.support.memory_redis import Command, MemoryRedis

MASTER = b"*2\r\n$9\r\n192.0.2.9\r\n$4\r\n6379\r\n"
OTHER = b"*2\r\n$9\r\n192.0.2.8\r\n$4\r\n6380\r\n"

FIRST, SECOND = ("a", 26379), ("b", 26380)


class Fixture:
    def __init__(self, password: tuple[str, ...] = ()) -> None:
        self.clock = Clock()
        self.sentinels = {FIRST: MemoryRedis(self.clock), SECOND: MemoryRedis(self.clock)}
        for each in self.sentinels.values():
            each.answer = lambda _: MASTER
        self.moved: list[str] = []
        self.servers = SentinelServers(
            self.clock, (FIRST, SECOND), "main", password, self.endpoint_to
        )

    def endpoint_to(self, host: str, port: int) -> Any:
        return self.sentinels.get((host, port), (host, port))

    def find(self) -> Any:
        found: list[Any] = []
        self.servers.find().addBoth(found.append)
        for each in self.sentinels.values():
            each.settle()
        return found[0] if found else None

    def watch(self) -> None:
        self.clock.advance(WATCH_SECONDS)
        self.sentinels[FIRST].settle()


@pytest.fixture
def fixture() -> Any:
    fixture = Fixture()
    yield fixture
    fixture.servers.stop()
    assert fixture.clock.getDelayedCalls() == []


def test_master_is_at_the_address_that_a_sentinel_says(fixture: Fixture) -> None:
    assert fixture.find() == ("192.0.2.9", 6379)
    assert fixture.sentinels[FIRST].commands == [[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"main"]]
    assert fixture.sentinels[SECOND].commands == []
    assert not fixture.sentinels[FIRST].connections[0].is_open


@pytest.mark.parametrize("reply", [b"*-1\r\n", b"-ERR unknown command\r\n", b"*1\r\n:1\r\n"])
def test_next_sentinel_is_asked_if_one_does_not_know(fixture: Fixture, reply: bytes) -> None:
    fixture.sentinels[FIRST].answer = lambda _: reply
    assert fixture.find() == ("192.0.2.9", 6379)
    fixture.sentinels[FIRST].commands.clear()
    assert fixture.find() == ("192.0.2.9", 6379)
    assert fixture.sentinels[FIRST].commands == []  # the one that knew is asked first


def test_next_sentinel_is_asked_if_one_cannot_be_connected_to(fixture: Fixture) -> None:
    fixture.sentinels[FIRST].error = ConnectError("refused")
    assert fixture.find() == ("192.0.2.9", 6379)


def test_next_sentinel_is_asked_if_one_hangs(fixture: Fixture) -> None:
    fixture.sentinels[FIRST].answer = lambda _: None
    found: list[Any] = []
    fixture.servers.find().addBoth(found.append)
    fixture.clock.advance(SENTINEL_SECONDS)
    fixture.sentinels[SECOND].settle()
    assert found == [("192.0.2.9", 6379)]


def test_next_sentinel_is_asked_if_a_connection_attempt_hangs(fixture: Fixture) -> None:
    fixture.sentinels[FIRST].connect = lambda _: Deferred()  # type: ignore[method-assign]
    found: list[Any] = []
    fixture.servers.find().addBoth(found.append)
    fixture.clock.advance(SENTINEL_SECONDS)
    fixture.sentinels[SECOND].settle()
    assert found == [("192.0.2.9", 6379)]


def test_error_names_the_service_if_no_sentinel_knows_it(fixture: Fixture) -> None:
    for each in fixture.sentinels.values():
        each.answer = lambda _: b"*-1\r\n"
    failure = fixture.find()
    assert isinstance(failure, Failure)
    assert failure.check(CommandFailed)
    assert str(failure.value) == (
        "no Sentinel knows the master of main: it does not know the service"
    )


def test_sentinel_that_expects_a_password_gets_that_of_the_server() -> None:
    fixture = Fixture(("user", "word"))

    def answer(command: Command) -> bytes:
        if command[0] == b"AUTH":
            return b"+OK\r\n"
        asked = fixture.sentinels[FIRST].named(b"SENTINEL")
        return MASTER if len(asked) == 2 else b"-NOAUTH Authentication required.\r\n"

    fixture.sentinels[FIRST].answer = answer
    assert fixture.find() == ("192.0.2.9", 6379)
    assert fixture.sentinels[FIRST].named(b"AUTH") == [[b"AUTH", b"user", b"word"]]


def test_moved_master_is_noticed(fixture: Fixture) -> None:
    fixture.find()
    fixture.servers.start(fixture.moved.append)
    fixture.watch()
    assert fixture.moved == []
    fixture.sentinels[FIRST].answer = lambda _: OTHER
    fixture.watch()
    assert fixture.moved == ["Sentinel has another master"]


def test_failing_sentinels_do_not_mean_that_the_master_has_moved(fixture: Fixture) -> None:
    fixture.find()
    fixture.servers.start(fixture.moved.append)
    for each in fixture.sentinels.values():
        each.error = ConnectError("refused")
    fixture.watch()
    fixture.watch()
    assert fixture.moved == []


def test_stop_ends_a_question(fixture: Fixture) -> None:
    fixture.sentinels[FIRST].answer = lambda _: None
    fixture.servers.start(fixture.moved.append)
    fixture.clock.advance(WATCH_SECONDS)
    fixture.servers.stop()
    fixture.sentinels[FIRST].settle()
    assert not any(each.is_open for each in fixture.sentinels[FIRST].connections)
