"""The client: connecting, the breaker, scripts, counting."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from goproxyai.state.redis.client import (
    BEAT_SECONDS,
    CHECK_SECONDS,
    COMMAND_SECONDS,
    CONNECT_SECONDS,
    REQUEST_SECONDS,
    RedisClient,
)
from goproxyai.state.redis.connection import CommandFailed
from goproxyai.state.redis.counts import StateCounts
from goproxyai.state.redis.lanes import Lane, Login
from goproxyai.state.redis.scripts import Script
from goproxyai.state.redis.servers import FixedServer
from goproxyai.upstream.breaker import CircuitState
from tests.support.memory_redis import MemoryRedis, published, usual_answer

SCRIPT = Script("lease", "return 1")


class Fixture:
    def __init__(self, login: Login = Login("", None, 0)) -> None:  # noqa: B008  # frozen
        self.clock = Clock()
        self.redis = MemoryRedis(self.clock)
        self.calls: list[Any] = []
        self.replies: list[Any] = []
        self.seconds: list[float] = []
        self.logged: list[str] = []
        self.ready: Deferred[None] = succeed(None)
        self.client = RedisClient(
            self.clock, FixedServer(self.redis), login, b"p:probe", b"p:events", StateCounts(),
            self.seconds.append,
        )  # fmt: skip
        self.client.part = self

    def connected(self) -> Deferred[None]:
        self.calls.append("connected")
        return self.ready

    def lost(self) -> None:
        self.calls.append("lost")

    def message(self, payload: bytes) -> None:
        self.calls.append(payload)

    def beat(self) -> None:
        self.calls.append("beat")

    def start(self) -> None:
        self.client.start()
        self.redis.settle()

    def run(self) -> None:
        self.client.run(Lane.LIMITS, SCRIPT, (b"k",), (7,), self.replies.append)
        self.redis.settle()

    def results(self) -> dict[tuple[str, str], int]:
        return {labels: count for labels, count in self.client.counts.commands.items() if count}


@pytest.fixture
def fixture() -> Any:
    fixture = Fixture()

    def observe(event: Any) -> None:
        if event.get("log_namespace") == "goproxyai.state":
            fixture.logged.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    yield fixture
    globalLogPublisher.removeObserver(observe)
    fixture.client.stop()
    assert fixture.clock.getDelayedCalls() == []


def answer_with(reply: bytes | None, name: bytes) -> Any:
    return lambda command: reply if command[0] == name else usual_answer(command)


def test_client_opens_all_lanes_and_is_up_after_the_probes(fixture: Fixture) -> None:
    assert not fixture.client.up
    fixture.start()
    assert fixture.client.up
    assert len(fixture.redis.connections) == 3
    assert [each[0] for each in fixture.redis.commands] == [
        b"SET", b"SET", b"SUBSCRIBE", b"PING",
    ]  # fmt: skip
    assert fixture.redis.commands[0] == [b"SET", b"p:probe", b"1", b"PX", b"1000"]
    assert (fixture.calls, fixture.logged) == (["connected"], [])


def test_connections_authenticate_and_select_the_database() -> None:
    fixture = Fixture(Login("user", "word", 3))
    fixture.start()
    lane = [[b"AUTH", b"user", b"word"], [b"SELECT", b"3"]]
    assert fixture.redis.commands[:2] == lane
    assert len(fixture.redis.named(b"AUTH")) == len(fixture.redis.named(b"SELECT")) == 3
    fixture.client.stop()


def test_default_user_authenticates_with_the_password_alone() -> None:
    fixture = Fixture(Login("", "word", 0))
    fixture.start()
    assert fixture.redis.commands[0] == [b"AUTH", b"word"]
    fixture.client.stop()


def test_representation_of_a_login_has_no_secret() -> None:
    assert "word" not in repr(Login("user", "word", 0))


def test_script_is_run_by_its_digest(fixture: Fixture) -> None:
    fixture.start()
    fixture.redis.answer = lambda _: b":1\r\n"
    fixture.run()
    assert fixture.replies == [1]
    assert fixture.redis.commands[-1] == [
        b"EVALSHA", SCRIPT.digest.encode(), b"1", b"k", b"7",
    ]  # fmt: skip
    assert fixture.results()["lease", "ok"] == 1
    assert len(fixture.seconds) == 5  # with two probes and the subscription


def test_unknown_script_is_sent_once(fixture: Fixture) -> None:
    fixture.start()
    fixture.redis.answer = lambda command: (
        b"-NOSCRIPT No matching script.\r\n" if command[0] == b"EVALSHA" else b":1\r\n"
    )
    fixture.run()
    assert fixture.replies == [1]
    assert fixture.redis.commands[-1] == [b"EVAL", b"return 1", b"1", b"k", b"7"]
    assert fixture.results()["lease", "ok"] == 1


def test_late_reply_opens_the_breaker_and_later_commands_fail_at_once(fixture: Fixture) -> None:
    fixture.start()
    fixture.redis.answer = lambda _: None
    fixture.run()
    fixture.clock.advance(COMMAND_SECONDS)
    assert [str(each) for each in fixture.replies] == ["Redis did not reply in time"]
    assert not fixture.client.up
    assert fixture.client.breaker.state is CircuitState.OPEN
    assert fixture.client.counts.opened == 1
    assert not any(each.is_open for each in fixture.redis.connections)
    sent = len(fixture.redis.commands)
    fixture.run()
    assert isinstance(fixture.replies[1], CommandFailed)
    assert len(fixture.redis.commands) == sent
    assert fixture.results()["lease", "late"] == fixture.results()["lease", "refused"] == 1
    assert fixture.calls == ["connected", "lost"]


def test_lost_connection_ends_all_lanes_and_is_logged_once(fixture: Fixture) -> None:
    fixture.start()
    fixture.redis.error = ConnectError("refused")
    fixture.redis.lose()
    for _ in range(20):
        fixture.clock.advance(1)
    assert len(fixture.logged) == 1
    assert fixture.logged[0].startswith("the shared state in Redis is away: ConnectionDone: ")
    assert fixture.client.counts.opened == 1


def test_client_comes_back_by_itself(fixture: Fixture) -> None:
    fixture.redis.error = ConnectError("refused")
    fixture.start()
    assert not fixture.client.up
    assert "ConnectError" in fixture.logged[0]
    fixture.redis.error = None
    fixture.clock.advance(0.25)
    fixture.redis.settle()
    assert fixture.client.up
    assert fixture.client.breaker.state is CircuitState.CLOSED
    assert fixture.logged[1:] == ["the shared state in Redis is back"]
    fixture.run()
    assert fixture.replies == [b"OK"]


@pytest.mark.parametrize(
    ("name", "reply", "logged"),
    [
        (b"SET", b"-OOM command not allowed\r\n", "OOM command not allowed (the server is full)"),
        (b"SET", b"-READONLY You can't\r\n", "READONLY You can't (the server is a replica)"),
        (
            b"AUTH",
            b"-WRONGPASS invalid username-password pair\r\n",
            "check the user and the password in STATE_URL",
        ),
        (b"SELECT", b"-ERR DB index is out of range\r\n", "ERR DB index is out of range"),
        (b"SUBSCRIBE", b"-NOPERM no channel\r\n", "lacks a permission"),
    ],
)
def test_error_reply_while_connecting_is_logged_without_a_secret(
    name: bytes, reply: bytes, logged: str
) -> None:
    fixture = Fixture(Login("user", "word", 3))
    lines: list[str] = []

    def observe(event: Any) -> None:
        lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    fixture.redis.answer = answer_with(reply, name)
    fixture.start()
    globalLogPublisher.removeObserver(observe)
    assert not fixture.client.up
    assert logged in lines[0]
    assert "word" not in lines[0].replace("password", "")
    fixture.client.stop()
    assert fixture.clock.getDelayedCalls() == []


def test_full_server_opens_the_breaker(fixture: Fixture) -> None:
    fixture.start()
    fixture.redis.answer = lambda _: b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
    fixture.run()
    assert not fixture.client.up
    assert fixture.results()["lease", "error"] == 1


def test_error_of_one_command_does_not_open_the_breaker(fixture: Fixture) -> None:
    fixture.start()
    fixture.redis.answer = lambda _: b"-WRONGTYPE Operation against a key\r\n"
    fixture.run()
    assert fixture.client.up
    assert fixture.results()["lease", "error"] == 1


def test_server_that_accepts_and_does_not_answer_is_given_up(fixture: Fixture) -> None:
    fixture.redis.answer = lambda _: None
    fixture.start()
    fixture.clock.advance(CONNECT_SECONDS)
    assert fixture.client.breaker.state is CircuitState.OPEN
    assert len(fixture.logged) == 1


def test_endpoint_that_does_not_connect_is_given_up(fixture: Fixture) -> None:
    endings: list[str] = []
    fixture.redis.connect = lambda _: Deferred(  # type: ignore[method-assign]
        lambda _: endings.append("cancelled")
    )
    fixture.start()
    fixture.clock.advance(CONNECT_SECONDS)
    assert endings == ["cancelled"] * 3
    assert fixture.logged == ["the shared state in Redis is away: no connection within 2 s"]


def test_lane_that_connects_while_another_fails_is_closed(fixture: Fixture) -> None:
    connect, count = fixture.redis.connect, iter(range(3))

    def fails_at_last(factory: Any) -> Deferred[Any]:
        if next(count) == 2:
            fixture.redis.error = ConnectError("refused")
        return connect(factory)

    fixture.redis.connect = fails_at_last  # type: ignore[method-assign]
    fixture.start()
    assert [each.is_open for each in fixture.redis.connections] == [False, False]
    assert not fixture.client.up


def test_idle_lanes_are_checked_each_second(fixture: Fixture) -> None:
    fixture.start()
    fixture.clock.advance(BEAT_SECONDS)
    fixture.redis.settle()
    assert len(fixture.redis.named(b"PING")) == 1 + 2
    assert fixture.calls == ["connected", "beat"]
    fixture.redis.answer = answer_with(None, b"PING")
    fixture.clock.advance(BEAT_SECONDS)
    fixture.clock.advance(COMMAND_SECONDS)
    assert fixture.client.up
    fixture.clock.advance(CHECK_SECONDS - COMMAND_SECONDS)
    assert not fixture.client.up


def delayed(fixture: Fixture, seconds: float) -> None:
    """Let the server reply after *seconds*."""

    def received(protocol: Any, command: list[bytes]) -> None:
        fixture.redis.commands.append(command)
        reply = fixture.redis.answer(command)
        fixture.clock.callLater(seconds, protocol.dataReceived, reply)

    fixture.redis.received = received  # type: ignore[method-assign]


def test_breaker_opens_if_requests_wait_too_long_for_some_time(fixture: Fixture) -> None:
    fixture.start()
    delayed(fixture, 0.07)
    for number in range(7):
        assert fixture.client.up or number == 6
        fixture.client.run(Lane.LIMITS, SCRIPT, (), (), fixture.replies.append)
        fixture.clock.advance(REQUEST_SECONDS)
        fixture.client.overdue("lease")
        fixture.clock.advance(0.05)
    assert not fixture.client.up
    assert fixture.logged == ["the shared state in Redis is away: Redis responds too slowly"]
    assert fixture.client.counts.overdue == {"lease": 7, "look_up": 0}


def test_breaker_stays_closed_if_some_replies_are_in_time(fixture: Fixture) -> None:
    fixture.start()
    for _ in range(20):
        fixture.client.overdue("look_up")
        fixture.clock.advance(0.1)
        fixture.run()
    assert fixture.client.up


def test_server_that_is_too_slow_is_not_used(fixture: Fixture) -> None:
    delayed(fixture, 0.07)
    fixture.client.start()
    for _ in range(10):
        fixture.clock.advance(0.07)
    assert not fixture.client.up
    assert fixture.logged == ["the shared state in Redis is away: Redis responds too slowly"]
    delayed(fixture, 0.01)
    fixture.clock.pump([0.01] * 200)
    assert fixture.client.up


def test_server_that_is_slow_only_at_first_is_used(fixture: Fixture) -> None:
    delayed(fixture, 0.07)
    fixture.client.start()
    fixture.clock.advance(0.07)
    delayed(fixture, 0.01)
    fixture.clock.pump([0.01] * 20)
    assert fixture.client.up


def test_messages_are_passed_on(fixture: Fixture) -> None:
    fixture.start()
    fixture.redis.connections[2].dataReceived(published(b"text"))
    assert fixture.calls == ["connected", b"text"]


def test_part_that_cannot_prepare_gives_the_connections_up(fixture: Fixture) -> None:
    fixture.ready = Deferred()
    fixture.start()
    assert not fixture.client.up
    fixture.ready.errback(CommandFailed("planted", "lost"))
    assert fixture.logged == ["the shared state in Redis is away: planted"]


def test_first_attempt_is_told_whether_it_succeeds_or_fails(fixture: Fixture) -> None:
    fixture.client.after_first_attempt(lambda: fixture.calls.append("attempted"))
    fixture.redis.error = ConnectError("refused")
    fixture.start()
    fixture.client.after_first_attempt(lambda: fixture.calls.append("at once"))
    assert fixture.calls == ["lost", "attempted", "at once"]


def test_stop_closes_the_connections_after_what_was_sent(fixture: Fixture) -> None:
    fixture.start()
    fixture.client.run(Lane.LIMITS, SCRIPT, (b"k",), (), fixture.replies.append)
    fixture.client.stop()
    assert all(each.transport.disconnecting for each in fixture.redis.connections)
    assert not any(each.transport.aborted for each in fixture.redis.connections)
    assert fixture.replies[0].result == "lost"
    fixture.redis.settle()


def test_stop_ends_an_attempt(fixture: Fixture) -> None:
    fixture.client.start()
    fixture.client.stop()
    fixture.redis.settle()
    assert not fixture.client.up
    assert not any(each.is_open for each in fixture.redis.connections)


class MovingServer(FixedServer):
    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        super().__init__(endpoint)
        self.moved: Any = None

    def start(self, moved: Any) -> None:
        self.moved = moved


def test_client_follows_a_server_that_moves(fixture: Fixture) -> None:
    server = MovingServer(fixture.redis)
    fixture.client._server = server
    fixture.start()
    server.moved("there is another master")
    assert not fixture.client.up
    server.moved("said while it is away")
    fixture.clock.advance(0.25)
    fixture.redis.settle()
    assert fixture.client.up
    assert fixture.logged[0] == "the shared state in Redis is away: there is another master"
