"""Processes that share responses by a real Redis server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted

from goproxyai.state.redis import second_level
from goproxyai.state.redis.second_level import MAX_RECORD_BYTES
from tests.integration.redis_states import (
    KEY,
    OWNER,
    PATH,
    Process,
    entry,
    is_same,
    patient_redis,
    record,
)
from tests.support.redis_server import RedisServer, needs_redis, running, server

__all__ = ["patient_redis", "running", "server"]  # the fixtures

pytestmark = [needs_redis, pytest.mark.usefixtures("patient_redis")]


@pytest_twisted.async_yield_fixture
async def processes(server: RedisServer) -> AsyncIterator[tuple[Process, Process]]:
    from twisted.internet import reactor

    one, other = Process(reactor, server, 1), Process(reactor, server, 2)
    await one.start()
    await other.start()
    yield one, other
    one.stop()
    other.stop()


Pair = tuple[Process, Process]


@pytest.fixture
def claims_that_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no look-up ask again because the claim it waits for may have expired."""
    monkeypatch.setattr(second_level, "CLAIM_SECONDS", 1000.0)


@pytest_twisted.ensureDeferred
async def test_stored_response_is_found_by_another_process(processes: Pair) -> None:
    one, other = processes
    claim = (await one.look_up()).claim
    stored = record()
    claim.store(entry(stored))
    await one.settle()
    answer = await other.look_up()
    assert (is_same(answer.record, stored), answer.claim) == (True, None)
    assert is_same((await other.look_up(claims=False)).record, stored)


@pytest_twisted.ensureDeferred
async def test_look_up_waits_for_the_process_that_asks_upstream(processes: Pair) -> None:
    one, other = processes
    claim = (await one.look_up()).claim
    waiting = [other.ask(), other.ask()]
    without_wait = await other.look_up(claims=False)
    assert without_wait.claim is not None
    await other.settle()
    assert not any(each.given for each in waiting)
    stored = record()
    claim.store(entry(stored))
    await other.until(lambda: all(each.given for each in waiting))
    assert [is_same(each.record, stored) for each in waiting] == [True, True]
    assert len(other.level) == 0


@pytest_twisted.ensureDeferred
async def test_one_that_waits_gets_the_claim_when_it_is_given_up(processes: Pair) -> None:
    one, other = processes
    claim = (await one.look_up()).claim
    waiting = [other.ask(), other.ask()]
    await other.settle()
    claim.give_up()
    claim.give_up()
    claim.fail()
    await other.until(lambda: any(each.given for each in waiting))
    await other.settle()
    (given,) = [each for each in waiting if each.given]
    given.claim.store(entry(record()))
    await other.until(lambda: all(each.given for each in waiting))
    assert [each.record is None for each in waiting].count(True) == 1


@pytest_twisted.ensureDeferred
async def test_all_that_wait_go_upstream_when_the_claim_fails(processes: Pair) -> None:
    one, other = processes
    claim = (await one.look_up()).claim
    waiting = [other.ask(), other.ask()]
    await other.settle()
    claim.fail()
    await other.until(lambda: all(each.given for each in waiting))
    assert [each.record for each in waiting] == [None, None]
    stored = record()
    waiting[1].claim.store(entry(stored))  # not exclusive, and stores all the same
    await other.settle()
    assert is_same((await one.look_up()).record, stored)


@pytest_twisted.ensureDeferred
async def test_response_that_is_too_large_ends_the_claim(processes: Pair) -> None:
    one, other = processes
    claim = (await one.look_up()).claim
    waiting = other.ask()
    await other.settle()
    claim.store(entry(record(b"x" * (MAX_RECORD_BYTES + 1))))
    await other.until(lambda: waiting.given)
    assert waiting.record is None


@pytest_twisted.ensureDeferred
async def test_largest_response_is_shared(processes: Pair) -> None:
    one, other = processes
    stored = record(bytes(range(256)) * (MAX_RECORD_BYTES // 256))
    (await one.look_up()).claim.store(entry(stored))
    await one.settle()
    assert is_same((await other.look_up()).record, stored)


@pytest.mark.parametrize("what", ["write", "path", "everything"])
@pytest_twisted.ensureDeferred
async def test_announcement_drops_the_responses_of_all_processes(
    processes: Pair, what: str
) -> None:
    one, other = processes
    (await one.look_up()).claim.store(entry(record()))
    await one.settle()
    assert (await other.look_up()).record is not None
    if what == "write":
        one.state.announce_write(OWNER)
        expected: Any = ("invalidate", OWNER)
    else:
        path = PATH if what == "path" else None
        await one.state.announce_clearing(path)
        expected = ("clear", path)
    assert (await one.look_up(claims=False)).record is None
    await other.until(lambda: other.cache.calls)
    assert other.cache.calls == [expected]
    assert one.cache.calls == []
    assert (await other.look_up()).record is None


@pytest_twisted.ensureDeferred
async def test_announcement_for_others_drops_nothing(processes: Pair) -> None:
    one, other = processes
    (await one.look_up()).claim.store(entry(record()))
    one.state.announce_write(b"another owner of")
    await one.state.announce_clearing(b"/v1/files")
    assert (await other.look_up()).record is not None


@pytest_twisted.ensureDeferred
async def test_response_that_a_write_has_overtaken_is_not_stored(processes: Pair) -> None:
    one, other = processes
    claim = (await one.look_up()).claim
    waiting = other.ask()
    await other.settle()
    other.state.announce_write(OWNER)
    await other.settle()
    claim.store(entry(record()))
    await other.until(lambda: waiting.given)
    assert waiting.record is None
    waiting.claim.store(entry(record(b"newer")))  # the exclusive claim
    await other.settle()
    answer = await one.look_up()
    assert answer.record is not None
    assert answer.record.body == b"newer"


@pytest.mark.parametrize("what", ["write", "path", "everything"])
@pytest_twisted.ensureDeferred
async def test_look_up_takes_over_a_claim_that_is_overtaken(processes: Pair, what: str) -> None:
    one, other = processes
    old = (await one.look_up()).claim
    waiting = one.ask()
    await one.settle()
    if what == "write":
        one.state.announce_write(OWNER)
    else:
        await one.state.announce_clearing(PATH if what == "path" else None)
    await one.settle()
    new = (await other.look_up()).claim
    later = one.ask()
    old.store(entry(record(b"older")))
    await one.settle()
    assert [waiting.given, later.given] == [False, False]
    new.store(entry(record(b"newer")))
    await one.until(lambda: waiting.given and later.given)
    assert [each.record.body for each in (waiting, later) if each.record] == [b"newer"] * 2


@pytest_twisted.ensureDeferred
async def test_end_of_an_overtaken_claim_does_not_end_its_successor(processes: Pair) -> None:
    one, other = processes
    old = (await one.look_up()).claim
    one.state.announce_write(OWNER)
    await one.settle()
    new = (await other.look_up()).claim
    old.give_up()
    await one.settle()
    waiting = one.ask()
    await one.settle()
    assert not waiting.given
    new.fail()
    await one.until(lambda: waiting.given)


@pytest.mark.parametrize("lost", [b":claim:", b""])
@pytest.mark.usefixtures("claims_that_last")
@pytest_twisted.ensureDeferred
async def test_end_of_a_claim_that_redis_has_lost_is_told(
    processes: Pair, server: RedisServer, lost: bytes
) -> None:
    one, other = processes
    claim = (await one.look_up()).claim
    waiting = other.ask()
    await other.settle()
    server.command("DEL", *[name for name in server.all_keys() if lost in name])
    claim.store(entry(record()))
    await other.until(lambda: waiting.given)
    assert (waiting.record is None) is (lost == b"")


@pytest.mark.usefixtures("claims_that_last")
@pytest_twisted.ensureDeferred
async def test_look_up_that_waits_for_a_lost_claim_is_told_by_the_next(
    processes: Pair, server: RedisServer
) -> None:
    one, other = processes
    first = (await one.look_up()).claim
    waiting = other.ask()
    await other.settle()
    server.command("DEL", *[name for name in server.all_keys() if b":claim:" in name])
    second = (await one.look_up()).claim
    first.give_up()
    await one.settle()
    assert not waiting.given
    second.store(entry(record()))
    await other.until(lambda: waiting.given)
    assert waiting.record is not None


@pytest_twisted.ensureDeferred
async def test_evicted_epoch_invalidates_what_is_older(
    processes: Pair, server: RedisServer
) -> None:
    one, other = processes
    (await one.look_up()).claim.store(entry(record()))
    await one.settle()
    (owner,) = [name for name in server.all_keys() if b":owner:" in name]
    server.command("DEL", owner)
    assert (await other.look_up()).record is None


@pytest_twisted.ensureDeferred
async def test_entry_that_was_changed_or_moved_is_not_used(
    processes: Pair, server: RedisServer
) -> None:
    one, other = processes
    (await one.look_up()).claim.store(entry(record()))
    other_key = b"o" * 32
    (await one.look_up(key=other_key)).claim.store(entry(record(key=other_key)))
    await one.settle()
    first, second = [name for name in server.all_keys() if b":entry:" in name]
    value = server.command("GET", first)
    server.command("SET", first, server.command("GET", second), "KEEPTTL")
    server.command("SET", second, value[:-1] + bytes([value[-1] ^ 1]), "KEEPTTL")
    for key in (KEY, other_key):
        answer = await other.look_up(key=key)
        assert answer.record is None
        assert answer.claim is not None


@pytest_twisted.ensureDeferred
async def test_scan_shows_no_plain_text_and_each_key_expires(
    processes: Pair, server: RedisServer
) -> None:
    one, _ = processes
    (await one.look_up()).claim.store(entry(record()))
    await one.look_up(key=b"c" * 32)
    one.state.announce_write(b"a-writing-owner!")
    await one.state.announce_clearing(PATH)
    names = server.all_keys()
    kinds = {name.split(b":")[1] for name in names}
    assert kinds == {
        b"probe", b"secret", b"entry", b"claim", b"owner", b"path", b"clearing", b"announcements",
    }  # fmt: skip
    for name in names:
        assert name.startswith(b"goproxyai:")
        assert server.command("PTTL", name) > 0
        everything = name + server.command("GET", name)
        for secret in (b"text of a response", b"HTTP/1.1", KEY, OWNER, PATH, b"writing"):
            assert secret not in everything


@pytest_twisted.ensureDeferred
async def test_entry_expires_with_the_response(processes: Pair, server: RedisServer) -> None:
    one, _ = processes
    (await one.look_up()).claim.store(entry(record(seconds=30.0)))
    await one.settle()
    (name,) = [name for name in server.all_keys() if b":entry:" in name]
    assert 0 < server.command("PTTL", name) <= 30_000


@pytest.mark.parametrize("size", [10, MAX_RECORD_BYTES + 1], ids=["stored", "too large"])
@pytest_twisted.ensureDeferred
async def test_other_processes_drop_what_was_replaced(processes: Pair, size: int) -> None:
    one, other = processes
    (await one.look_up()).claim.store(entry(record(b"old")))
    await one.settle()
    new = record(b"x" * size)
    (await one.look_up(replaces=True)).claim.store(entry(new), replaces=True)
    await other.until(lambda: other.cache.calls)
    assert (one.cache.calls, other.cache.calls) == ([], [("drop", [KEY])])
    found = (await other.look_up()).record
    assert is_same(found, new) if size == 10 else found is None


@pytest_twisted.ensureDeferred
async def test_expired_response_is_not_stored(processes: Pair) -> None:
    one, other = processes
    claim = (await one.look_up()).claim
    waiting = other.ask()
    await other.settle()
    claim.store(entry(record(seconds=-1.0)))
    await other.until(lambda: waiting.given)
    assert waiting.record is None


@pytest_twisted.ensureDeferred
async def test_claim_is_renewed_while_its_process_responds(
    processes: Pair, server: RedisServer
) -> None:
    one, other = processes
    claim = (await one.look_up()).claim
    waiting = other.ask()
    await other.settle()
    (name,) = [name for name in server.all_keys() if b":claim:" in name]
    server.command("PEXPIRE", name, 2000)
    one.state.beat()
    await one.until(lambda: server.command("PTTL", name) > 3000)
    claim.give_up()
    await other.until(lambda: waiting.given)


@pytest_twisted.ensureDeferred
async def test_look_up_asks_again_if_the_process_with_the_claim_has_died(
    processes: Pair, server: RedisServer
) -> None:
    one, other = processes
    await one.look_up()
    (name,) = [name for name in server.all_keys() if b":claim:" in name]
    server.command("PEXPIRE", name, 500)  # it was last renewed long ago
    waiting = other.ask()
    await other.until(lambda: other.state.beat() or waiting.given)
    assert waiting.claim is not None


@pytest_twisted.ensureDeferred
async def test_cancelled_look_up_releases_its_claim(processes: Pair, server: RedisServer) -> None:
    one, other = processes
    look_up = one.level.look_up(KEY, OWNER, PATH, True, lambda *_: None)
    look_up.cancel()
    look_up.cancel()
    await one.settle()
    await one.settle()
    assert len(one.level) == 0
    assert (await other.look_up()).claim is not None


@pytest_twisted.ensureDeferred
async def test_lost_message_is_noticed(processes: Pair, server: RedisServer) -> None:
    one, other = processes
    server.command("INCR", "goproxyai:announcements")  # an announcement that was not published
    other.state.beat()
    await other.settle()
    assert other.cache.calls == []
    other.state.beat()
    await other.settle()
    assert other.cache.calls == [("clear", None)]
    one.state.announce_write(OWNER)
    await other.until(lambda: len(other.cache.calls) == 2)
    assert other.cache.calls[1] == ("invalidate", OWNER)


@pytest_twisted.ensureDeferred
async def test_gap_in_the_messages_is_noticed(processes: Pair, server: RedisServer) -> None:
    one, other = processes
    server.command("INCR", "goproxyai:announcements")
    one.state.announce_write(OWNER)
    await other.until(lambda: len(other.cache.calls) == 2)
    assert other.cache.calls == [("clear", None), ("invalidate", OWNER)]


@pytest_twisted.ensureDeferred
async def test_announcements_while_redis_is_away_are_made_later(
    processes: Pair, server: RedisServer
) -> None:
    one, other = processes
    (await one.look_up()).claim.store(entry(record()))
    await one.settle()
    one.client._give_up("planted")
    one.state.announce_write(OWNER)
    assert (await one.look_up()).record is None
    await one.until(lambda: one.state.up)
    await other.until(lambda: other.cache.calls)
    assert (await one.look_up()).record is None
    assert one.cache.calls == []


@pytest_twisted.ensureDeferred
async def test_process_that_was_away_clears_its_memory_if_it_missed_something(
    processes: Pair,
) -> None:
    one, other = processes
    other.client._give_up("planted")
    one.client._give_up("planted")
    await one.until(lambda: one.state.up and other.state.up)
    assert one.cache.calls == other.cache.calls == []
    other.client._give_up("planted")
    one.state.announce_write(OWNER)
    await other.until(lambda: other.state.up)
    assert other.cache.calls == [("clear", None)]


@pytest_twisted.ensureDeferred
async def test_look_ups_end_when_redis_goes_away(processes: Pair) -> None:
    one, other = processes
    await one.look_up()
    waiting = other.ask()
    await other.settle()
    unanswered = other.ask(claims=False)
    other.client._give_up("planted")
    assert (waiting.given, waiting.record, waiting.claim) == (True, None, None)
    assert unanswered.given
    assert len(other.level) == 0
    answer = other.ask()
    assert (answer.given, answer.claim) == (True, None)


@pytest_twisted.ensureDeferred
async def test_message_of_another_secret_is_ignored(processes: Pair, server: RedisServer) -> None:
    one, other = processes
    forged = b"\x01" * 60
    unknown = (b"", b"snothing", b"z")
    for payload in (b"a1:forged", b"ax:" + forged, b"a", b"r", b"r" + forged, *unknown):
        server.command("PUBLISH", "goproxyai:events:0", payload)
    one.state.announce_write(OWNER)
    await other.until(lambda: other.cache.calls)
    assert other.cache.calls == [("invalidate", OWNER)]
