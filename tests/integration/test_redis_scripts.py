"""The Lua scripts, run by a real server."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from twisted.internet.task import Clock

from bench.simulated_redis import SimulatedRedis
from goproxyai.state.redis.scripts import LEASE, PUT_BACK, Script
from tests.support.redis_server import RedisServer, needs_redis, running, server

__all__ = ["running", "server"]  # the fixtures

pytestmark = needs_redis


def run(server: RedisServer, script: Script, keys: tuple[str, ...], *arguments: Any) -> Any:
    return server.command("EVAL", script.text, len(keys), *keys, *arguments)


def lease(server: RedisServer, per_minute: int, wanted: int) -> list[int]:
    return list(run(server, LEASE, ("b",), per_minute, wanted))


def test_digest_is_that_of_the_server(server: RedisServer) -> None:
    for script in (LEASE, PUT_BACK):
        assert server.command("SCRIPT", "LOAD", script.text) == script.digest.encode()


def test_new_bucket_is_full_and_a_grant_is_a_share_of_what_is_left(server: RedisServer) -> None:
    granted = [lease(server, 60, 7)[0] for _ in range(4)]
    assert granted == [7, 7, 7, 7]
    sizes = []
    while tokens := lease(server, 60, 7)[0]:
        sizes.append(tokens)
    assert sum(sizes) == 32
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


def test_empty_bucket_says_when_there_is_a_token(server: RedisServer) -> None:
    while lease(server, 6, 6)[0]:
        pass
    tokens, milliseconds = lease(server, 6, 6)
    assert tokens == 0
    assert 0 < milliseconds <= 10_000


def test_bucket_expires_when_it_is_full_again(server: RedisServer) -> None:
    lease(server, 60, 4)
    assert 4_000 < server.command("PTTL", "b") <= 5_000


def test_bucket_is_refilled_by_the_clock_of_the_server(server: RedisServer) -> None:
    seconds, microseconds = map(int, server.command("TIME"))
    now = seconds * 1000 + microseconds // 1000
    server.command("SET", "b", f"{60 * 60_000} {now - 10_000}")  # empty ten seconds ago
    granted = 0
    while tokens := lease(server, 60, 7)[0]:
        granted += tokens
    assert granted == 10


def test_clock_that_was_set_back_mints_nothing_and_delays_nothing(server: RedisServer) -> None:
    later = (int(server.command("TIME")[0]) + 3600) * 1000
    server.command("SET", "b", f"{60 * 60_000} {later}")
    assert lease(server, 60, 7)[0] == 0
    used, at = map(int, server.command("GET", "b").split())
    assert used == 60 * 60_000
    assert at < later


def test_bucket_does_not_exceed_its_depth(server: RedisServer) -> None:
    server.command("SET", "b", f"1 {0}")
    assert lease(server, 8, 1) == [1, 0]
    assert run(server, PUT_BACK, ("b",), 8, 5) == 1
    assert server.command("GET", "b") is None


def test_tokens_are_given_back_to_many_buckets(server: RedisServer) -> None:
    for name in ("a", "b"):
        run(server, LEASE, (name,), 60, 7)
    run(server, PUT_BACK, ("a", "b", "c"), 60, 7, 3, 2)
    assert server.command("EXISTS", "a", "c") == 0
    used, _ = server.command("GET", "b").split()
    assert 3 * 60_000 < int(used) <= 4 * 60_000


def test_smaller_limit_applies_to_a_bucket_in_use(server: RedisServer) -> None:
    for _ in range(7):
        lease(server, 600, 75)
    assert lease(server, 10, 1)[0] == 0
    assert lease(server, 10, 1)[1] <= 6_000


def test_value_that_is_no_bucket_is_replaced(server: RedisServer) -> None:
    server.command("SET", "b", "text")
    assert lease(server, 60, 7) == [7, 0]


@pytest.mark.parametrize("per_minute", [1, 7, 60, 999, 10**9])
def test_numbers_are_exact_for_all_limits(server: RedisServer, per_minute: int) -> None:
    wanted = max(1, per_minute // 8)
    granted, waited = lease(server, per_minute, wanted)
    assert (granted, waited) == (min(wanted, max(1, per_minute // 4)), 0)
    assert server.command("GET", "b").split()[0] == b"%d" % (granted * 60_000)


def test_full_server_refuses_a_lease_with_an_error(server: RedisServer) -> None:
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        reply = run(server, LEASE, ("b",), 60, 7)
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    assert "OOM" in str(reply)


@pytest.mark.parametrize("seed", range(3))
def test_simulated_server_does_the_same(server: RedisServer, seed: int) -> None:
    """:mod:`bench.simulated_redis`; a token takes a minute, so that none is added meanwhile."""
    random, model = Random(seed), SimulatedRedis(Clock())
    rate = 40
    for _ in range(60):
        wanted = random.randint(1, 9)
        script = random.choice([LEASE, LEASE, PUT_BACK])
        expected = model.run(script, (b"b",), (rate, wanted))
        found = run(server, script, ("b",), rate, wanted)
        if script is LEASE and expected[0] == 0:
            assert found[0] == 0
            assert expected[1] - 1_000 < found[1] <= expected[1]
        else:
            assert found == expected
