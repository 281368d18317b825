"""Look-ups, claims and announcements against a server that the test plays: deadlines and bounds."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from goproxyai.cache.record import Record
from goproxyai.state.redis import announcements as announcements_module
from goproxyai.state.redis import second_level as second_level_module
from goproxyai.state.redis.announcements import Announcements
from goproxyai.state.redis.claim_watch import WATCH_SECONDS
from goproxyai.state.redis.client import (
    BEAT_SECONDS,
    LEAST_SECONDS,
    REQUEST_SECONDS,
    TOTAL_SECONDS,
    RedisClient,
)
from goproxyai.state.redis.counts import StateCounts
from goproxyai.state.redis.lanes import Login
from goproxyai.state.redis.limiter import RedisLimiter
from goproxyai.state.redis.names import Names
from goproxyai.state.redis.places import Places
from goproxyai.state.redis.scripts import ANNOUNCE, END_CLAIM, LOOK_UP, RENEW, STORE, Script
from goproxyai.state.redis.second_level import RedisSecondLevel
from goproxyai.state.redis.secret_check import SecretCheck
from goproxyai.state.redis.servers import FixedServer
from goproxyai.state.redis.shared import START_SECONDS, RedisState
from goproxyai.state.shared_state import NO_SHARED_STATE
from tests.support.memory_redis import Command, MemoryRedis, published, usual_answer
from tests.unit.cache.snapshots import stored_entry

NAMES = Names("a passphrase of some length", "p:", bytes)
KEY, OWNER, PATH = b"k" * 32, b"o" * 16, b"/v1/models"
NOW = 1000.0
CHANNEL = b"p:events:0"


def looked_up(state: int, milliseconds: int = 0) -> bytes:
    """Return the reply to a look-up that finds nothing."""
    return b"*4\r\n$-1\r\n$1\r\ne\r\n:%d\r\n:%d\r\n" % (state, milliseconds)


MISS, CLAIMED, WAITS = looked_up(0), looked_up(1), looked_up(2, milliseconds=4000)


class Fixture:
    def __init__(self) -> None:
        self.clock = Clock()
        self.redis = MemoryRedis(self.clock)
        self.redis.answer = self.answer
        self.replies: dict[str, bytes | None] = {}
        self.answers: list[Any] = []
        self.cache_calls: list[Any] = []
        self.waits: list[tuple[str, float]] = []
        tokens, places = count(1), Places(NAMES)

        def new_token() -> bytes:
            return b"t%d" % next(tokens)

        self.client = RedisClient(
            self.clock, FixedServer(self.redis), Login("", None, 0), b"p:probe", CHANNEL,
            StateCounts(), lambda _: None, lambda *wait: self.waits.append(wait),
        )  # fmt: skip
        self.announcements = Announcements(
            self.client, NAMES, places, self, b"i" * 16, new_token, CHANNEL
        )
        self.level = RedisSecondLevel(
            self.clock, self.client, NAMES, places, new_token, lambda: NOW, CHANNEL,
            lambda: not self.announcements.owes, self.announcements.replaced,
        )  # fmt: skip
        self.limiter = RedisLimiter(self.clock, 0, self.client, NAMES, None)
        self.state = RedisState(
            self.clock,
            self.client,
            self.limiter,
            self.announcements,
            self.level,
            SecretCheck(self.client, NAMES),
            NO_SHARED_STATE,
        )

    def invalidate(self, owner: bytes) -> None:
        self.cache_calls.append(owner)

    def clear(self, path: bytes | None = None) -> None:
        self.cache_calls.append(("clear", path))

    def answer(self, command: Command) -> bytes | None:
        if command == [b"GET", b"p:secret"]:
            return self.replies.get("secret", b"$-1\r\n")
        if command[0] == b"GET":
            return self.replies.get("get", b"$-1\r\n")
        for script in (LOOK_UP, STORE, END_CLAIM, RENEW, ANNOUNCE):
            if command[1:2] and command[1] in (script.digest.encode(), script.text.encode()):
                return self.replies.get(script.kind, b":1\r\n")
        return usual_answer(command)

    def sent(self, script: Script) -> list[Command]:
        known = (script.digest.encode(), script.text.encode())
        return [each for each in self.redis.commands if each[1:2] and each[1] in known]

    def start(self) -> None:
        self.state.startService()
        self.redis.settle()
        assert self.state.up

    def ask(self, claims: bool = True, waited: float = 0.0) -> Any:
        look_up = self.level.look_up(
            KEY, OWNER, PATH, claims, lambda *answer: self.answers.append(answer), waited
        )
        self.redis.settle()
        return look_up

    def claim(self) -> Any:
        """Return an exclusive claim."""
        self.replies["look_up"] = CLAIMED
        self.ask()
        return self.answers.pop()[1]

    def tell(self, payload: bytes) -> None:
        self.redis.connections[2].dataReceived(published(payload))
        self.redis.settle()


@pytest.fixture
def fixture() -> Any:
    fixture = Fixture()
    fixture.start()
    yield fixture
    fixture.redis.settle()
    fixture.state.stopService()
    assert fixture.clock.getDelayedCalls() == []


def record(body: bytes = b"text") -> Record:
    return Record(KEY, 200, b"", body, None, 0, NOW, NOW + 60, PATH, OWNER)


def test_another_secret_is_warned_about_once() -> None:
    fixture = Fixture()
    fixture.replies["secret"] = b"$5\r\nother\r\n"
    lines: list[str] = []

    def observe(event: Any) -> None:
        lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    fixture.start()
    fixture.client._give_up("planted")
    fixture.clock.advance(0.25)
    fixture.redis.settle()
    globalLogPublisher.removeObserver(observe)
    assert [line for line in lines if "STATE_SECRET" in line] == lines[:1]
    ((_, name, kept, *_), _) = [
        each for each in fixture.redis.named(b"SET") if each[1] == b"p:secret"
    ]
    assert (name, kept) == (b"p:secret", NAMES.hashed(b"secret", b""))
    fixture.state.stopService()


def test_own_secret_is_not_warned_about() -> None:
    fixture = Fixture()
    own = NAMES.hashed(b"secret", b"")
    fixture.replies["secret"] = b"$%d\r\n%b\r\n" % (len(own), own)
    lines: list[Any] = []
    globalLogPublisher.addObserver(lines.append)
    fixture.start()
    globalLogPublisher.removeObserver(lines.append)
    assert lines == []
    fixture.state.stopService()


def test_look_up_without_an_answer_ends_before_the_breaker_opens(fixture: Fixture) -> None:
    fixture.replies["look_up"] = None
    fixture.ask()
    fixture.clock.advance(REQUEST_SECONDS / 2)
    fixture.ask()
    fixture.clock.advance(REQUEST_SECONDS / 2)
    assert fixture.answers == [(None, None)]
    assert fixture.state.up
    fixture.clock.advance(REQUEST_SECONDS / 2)
    assert fixture.answers == [(None, None)] * 2


def test_second_question_of_a_look_up_delays_no_other(fixture: Fixture) -> None:
    fixture.replies["look_up"] = WAITS
    first = fixture.ask()
    fixture.replies["look_up"] = None
    fixture.clock.advance(REQUEST_SECONDS / 4)
    fixture.ask()
    fixture.clock.advance(REQUEST_SECONDS / 2)
    fixture.tell(b"s" + first.place.claim)
    assert len(fixture.sent(LOOK_UP)) == 3
    fixture.clock.advance(REQUEST_SECONDS * 0.6)
    assert fixture.answers == [(None, None)]
    fixture.clock.advance(REQUEST_SECONDS * 0.6)
    assert fixture.answers == [(None, None)] * 2


def test_look_up_asks_again_when_the_claim_may_have_expired(fixture: Fixture) -> None:
    fixture.replies["look_up"] = looked_up(2, milliseconds=1500)
    fixture.ask()
    for asked in (1, 2, 2, 3):  # the second reply says 1.5 s more
        for _ in range(25):
            fixture.clock.advance(0.04)  # Redis gives signs of life
            fixture.redis.settle()
        fixture.state.beat()
        fixture.redis.settle()
        assert len(fixture.sent(LOOK_UP)) == asked


def test_claim_that_arrives_too_late_is_given_up(fixture: Fixture) -> None:
    fixture.replies["look_up"] = None
    fixture.ask()
    fixture.clock.advance(REQUEST_SECONDS)
    assert fixture.answers == [(None, None)]
    fixture.redis.connections[1].dataReceived(CLAIMED)
    ((*_, token, channel, message),) = fixture.sent(END_CLAIM)
    assert (token, channel, message[:1]) == (b"t1", CHANNEL, b"g")
    fixture.redis.settle()


def test_reply_that_arrives_in_the_read_after_the_deadline_counts(fixture: Fixture) -> None:
    fixture.replies["look_up"] = None
    fixture.ask()
    fixture.clock.callLater(REQUEST_SECONDS, fixture.redis.connections[1].dataReceived, MISS)
    fixture.clock.advance(REQUEST_SECONDS)
    ((found, claim),) = fixture.answers
    assert found is None
    assert claim is not None


def test_error_reply_ends_a_look_up(fixture: Fixture) -> None:
    fixture.replies["look_up"] = b"-ERR script\r\n"
    fixture.ask()
    assert fixture.answers == [(None, None)]
    assert fixture.state.up


def test_message_before_the_reply_that_says_to_wait_counts(fixture: Fixture) -> None:
    fixture.replies["look_up"] = None
    look_up = fixture.ask()
    fixture.tell(b"f" + look_up.place.claim)
    assert fixture.answers == []
    fixture.redis.connections[1].dataReceived(WAITS)
    ((found, claim),) = fixture.answers
    assert found is None
    claim.give_up()  # not exclusive: nothing is sent
    assert fixture.sent(END_CLAIM) == []


@pytest.mark.parametrize(
    ("waited", "left"), [(0.02, REQUEST_SECONDS), (0.065, 0.025), (30.0, LEAST_SECONDS)]
)
def test_request_that_has_waited_for_redis_waits_less_for_its_look_up(
    fixture: Fixture, waited: float, left: float
) -> None:
    fixture.replies["look_up"] = None
    fixture.ask(waited=waited)
    fixture.clock.advance(left * 0.9)
    assert fixture.answers == []
    fixture.clock.advance(left * 0.2)
    assert fixture.answers == [(None, None)]
    assert fixture.waits == [("look_up", pytest.approx(left * 1.1))]


def test_look_up_that_waits_ends_when_redis_is_silent(fixture: Fixture) -> None:
    fixture.replies["look_up"] = WAITS
    fixture.ask()
    fixture.clock.pump([WATCH_SECONDS] * 2)
    fixture.redis.answer = lambda _: None
    fixture.clock.pump([WATCH_SECONDS] * 2)
    assert fixture.answers == []
    fixture.clock.advance(TOTAL_SECONDS - 2 * WATCH_SECONDS + 0.001)
    assert fixture.answers == [(None, None)]
    assert fixture.client.counts.overdue["look_up"] == 1
    assert fixture.waits == [("look_up", pytest.approx(TOTAL_SECONDS, abs=0.002))]
    assert fixture.state.up  # commands of other requests may be answered


def test_look_up_does_not_wait_for_another_process_if_redis_is_slow(fixture: Fixture) -> None:
    fixture.replies["look_up"] = None
    fixture.ask()
    fixture.ask(waited=0.05)
    fixture.clock.advance(0.02)
    for _ in range(2):
        fixture.redis.connections[1].dataReceived(WAITS)
    ((found, claim),) = fixture.answers  # of the request that has waited before
    assert (found, claim.token) == (None, b"")


def test_redis_is_watched_only_while_look_ups_wait(fixture: Fixture) -> None:
    fixture.replies["look_up"] = WAITS
    look_up = fixture.ask()
    fixture.redis.commands.clear()
    fixture.clock.pump([WATCH_SECONDS] * 3)
    assert len(fixture.redis.named(b"PING")) == 3
    look_up.cancel()
    fixture.clock.pump([WATCH_SECONDS] * 3)
    assert len(fixture.redis.named(b"PING")) == 3


def test_look_up_that_waits_does_not_end_by_itself(fixture: Fixture) -> None:
    fixture.replies["look_up"] = WAITS
    fixture.ask()
    fixture.clock.pump([WATCH_SECONDS] * 10)
    assert fixture.answers == []
    assert len(fixture.level) == 1
    fixture.client._give_up("planted")
    assert fixture.answers == [(None, None)]


def test_cancelled_look_up_is_not_answered(fixture: Fixture) -> None:
    fixture.replies["look_up"] = WAITS
    look_up = fixture.ask()
    look_up.cancel()
    fixture.tell(b"f" + look_up.place.claim)
    assert (fixture.answers, len(fixture.level)) == ([], 0)


def test_look_ups_beyond_the_bound_end_at_once(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_level_module, "MAX_LOOK_UPS", 2)
    fixture.replies["look_up"] = WAITS
    for _ in range(3):
        fixture.ask()
    assert fixture.answers == [(None, None)]


def test_claims_beyond_the_bound_are_not_exclusive(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_level_module, "MAX_CLAIMS", 1)
    fixture.claim()
    fixture.replies["look_up"] = MISS
    fixture.ask()
    assert [each[-3] for each in fixture.sent(LOOK_UP)] == [b"1", b"0"]


def test_claims_are_renewed_by_few_commands(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_level_module, "MAX_RENEWED", 2)
    claims = [fixture.claim() for _ in range(3)]
    claims[0].give_up()
    fixture.claim()
    fixture.clock.advance(BEAT_SECONDS)
    fixture.redis.settle()
    assert [each[2] for each in fixture.sent(RENEW)] == [b"2", b"1"]


def test_claim_ends_if_its_response_cannot_be_stored(fixture: Fixture) -> None:
    claim = fixture.claim()
    fixture.replies["store"] = b"-ERR too large\r\n"
    entry = stored_entry(record(), fixture.clock.seconds(), NOW)
    claim.store(entry)
    claim.store(entry)
    fixture.redis.settle()
    assert len(fixture.sent(STORE)) == 1
    ((*_, message),) = fixture.sent(END_CLAIM)
    assert message.startswith(b"f")


def test_refused_announcement_is_owed_and_hides_the_second_level(fixture: Fixture) -> None:
    fixture.replies["announce"] = b"-ERR planted\r\n"
    fixture.state.announce_write(OWNER)
    fixture.redis.settle()
    fixture.ask()
    assert fixture.answers == [(None, None)]
    assert fixture.sent(LOOK_UP) == []
    del fixture.replies["announce"]
    fixture.clock.advance(BEAT_SECONDS)
    fixture.redis.settle()
    assert not fixture.announcements.owes
    fixture.ask()
    assert len(fixture.sent(LOOK_UP)) == 1


def test_many_owed_announcements_become_one(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements_module, "MAX_OWED", 2)
    fixture.client._give_up("planted")
    for number in range(3):
        fixture.state.announce_write(b"%d" % number)
    fixture.clock.advance(0.25)
    fixture.redis.settle()
    assert fixture.state.up
    ((*_, keys, epoch, number, _, _, _, _, _),) = fixture.sent(ANNOUNCE)
    assert (keys, epoch, number) == (b"2", b"p:clearing", b"p:announcements")


def test_connections_are_given_up_if_an_owed_announcement_fails(fixture: Fixture) -> None:
    fixture.client._give_up("planted")
    fixture.state.announce_write(OWNER)
    fixture.replies["announce"] = b"-ERR planted\r\n"
    fixture.clock.advance(0.25)
    fixture.redis.settle()
    assert not fixture.state.up


def test_number_that_redis_has_lost_clears_the_memory(fixture: Fixture) -> None:
    content = NAMES.seal(b"j" * 16 + b"w" + OWNER, CHANNEL)
    fixture.tell(b"a1:" + content)
    fixture.tell(b"a2:" + content)
    assert fixture.cache_calls == [OWNER, OWNER]
    fixture.clock.advance(BEAT_SECONDS)
    fixture.redis.settle()
    assert fixture.cache_calls[2:] == [("clear", None)]
    fixture.tell(b"a1:" + content)
    assert fixture.cache_calls[3:] == [OWNER]


def test_clearing_of_a_path_has_no_trailing_slash(fixture: Fixture) -> None:
    fixture.state.announce_clearing(PATH + b"/")
    assert fixture.sent(ANNOUNCE)[0][3] == Places(NAMES).path(PATH)


def test_connections_are_accepted_after_a_second_if_redis_hangs() -> None:
    fixture = Fixture()
    fixture.redis.answer = lambda _: None
    accepted: list[bool] = []
    fixture.state.startService()
    fixture.state.when_ready(lambda: accepted.append(True))
    fixture.redis.settle()
    assert accepted == []
    fixture.clock.advance(START_SECONDS)
    assert accepted == [True]
    fixture.clock.advance(5)
    assert accepted == [True]
    fixture.state.stopService()


def test_connections_are_accepted_when_redis_is_connected_to() -> None:
    fixture = Fixture()
    accepted: list[bool] = []
    fixture.state.startService()
    fixture.state.when_ready(lambda: accepted.append(fixture.state.up))
    fixture.redis.settle()
    assert accepted == [True]
    fixture.state.stopService()
    assert fixture.clock.getDelayedCalls() == []
