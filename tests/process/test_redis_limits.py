"""Rate limits that services on several machines share by Redis."""

from __future__ import annotations

import time

import pytest

from tests.process.daemon_process import eventually
from tests.process.redis_services import (
    Serve,
    commands,
    readiness,
    redis,
    serve,
    state,
    until_state,
)
from tests.process.worker_service import Service, close_connections, upstream
from tests.support.redis_server import NEVER_EXPIRES, RedisServer, needs_redis

__all__ = ["close_connections", "redis", "serve", "upstream"]  # the fixtures

pytestmark = [pytest.mark.process, needs_redis]


def ask_undisturbed(services: list[Service], count: int) -> tuple[list[int], float]:
    """Do as :func:`ask_in_turn` does, until Redis responded in time all the while.

    On a busy machine it may not. Each repetition is of another client.
    """
    for number in range(5):
        for each in services:
            until_state(each, "ok")
        before = disturbances(services)
        statuses, seconds = ask_in_turn(services, count, f"198.51.100.{number}")
        if disturbances(services) == before:
            return statuses, seconds
    raise AssertionError("Redis did not respond in time")


def disturbances(services: list[Service]) -> int:
    """Return how often Redis did not respond in time."""
    documents = [state(each) for each in services]
    return sum(each["opened"] + each["overdue"]["lease"] for each in documents)


def ask_in_turn(
    services: list[Service], count: int, client: str = "192.0.2.1"
) -> tuple[list[int], float]:
    """Send *count* requests of one client to each service; return statuses and seconds."""
    connections = [each.connect() for each in services]
    headers = {"X-Forwarded-For": client}
    began = time.monotonic()
    statuses = [
        each.ask(f"/v1/{n}", **headers).status for n in range(count) for each in connections
    ]
    return statuses, time.monotonic() - began


@pytest.mark.parametrize("machines", [2, 4])
def test_client_gets_its_limit_whichever_machines_it_uses(serve: Serve, machines: int) -> None:
    limit = 40
    services = [serve(RATE_LIMIT=str(limit)) for _ in range(machines)]
    lease = state(services[0])["lease"]
    assert lease == limit // 8
    statuses, seconds = ask_undisturbed(services, 2 * limit // machines)
    admitted = statuses.count(200)
    refilled = limit * seconds / 60 + 1
    assert limit - machines * lease <= admitted <= limit + machines * lease + refilled
    assert set(statuses) == {200, 429}


def test_client_that_uses_one_machine_gets_all_but_a_lease(serve: Serve) -> None:
    services = [serve(RATE_LIMIT="24") for _ in range(2)]
    statuses, seconds = ask_undisturbed(services[:1], 40)
    assert 24 - 3 <= statuses.count(200) <= 24 + 3 + 24 * seconds / 60 + 1


def test_workers_on_two_machines_share_the_limit(serve: Serve) -> None:
    limit = 40
    services = [serve(RATE_LIMIT=str(limit), WORKERS="2") for _ in range(2)]
    statuses, seconds = ask_undisturbed(services, limit)
    assert limit - 4 * 5 <= statuses.count(200) <= limit + 4 * 5 + limit * seconds / 60 + 1
    document = state(services[0])
    assert (document["processes"], document["connected"], document["lease"]) == (2, 2, 5)
    assert b"goproxyai_state_up 1.0" in services[0].ask("/metrics").body


def test_unused_tokens_return_when_a_service_stops(serve: Serve, redis: RedisServer) -> None:
    service = serve(RATE_LIMIT="8")
    assert service.ask("/v1/a").status == 200
    service.process.terminate()
    names = [name for name in redis.all_keys() if b":limit:" in name]
    used = int(redis.command("GET", names[0]).split()[0])
    assert used <= 60_000


def test_scan_shows_no_client_and_each_key_expires(serve: Serve, redis: RedisServer) -> None:
    service = serve(RATE_LIMIT="30", STATE_PREFIX="team:")
    service.ask("/v1/models")
    eventually(lambda: any(b":limit:" in name for name in redis.all_keys()))
    for name in redis.all_keys():
        assert name.startswith(b"team:")
        assert redis.command("PTTL", name) != NEVER_EXPIRES
        assert b"127.0.0.1" not in name + (redis.command("GET", name) or b"")  # a claim may end


def test_local_limit_takes_over_and_is_shared_again(serve: Serve, redis: RedisServer) -> None:
    one, other = services = [serve(RATE_LIMIT="16") for _ in range(2)]
    redis.kill()
    statuses, _ = ask_in_turn(services, 30)
    assert statuses.count(200) >= 32  # as two services without a shared state
    assert readiness(one) == readiness(other) == "degraded"
    assert one.process.messages("warn") != []
    redis.start()
    for each in services:
        until_state(each, "ok")
        assert readiness(each) == "ok"
        away, back = [
            [line for line in each.process.messages(level) if "shared state" in line]
            for level in ("warn", "info")
        ]
        assert (len(away), len(back)) == (1, 1)
    statuses, seconds = ask_undisturbed(services, 20)
    assert statuses.count(200) <= 16 + 2 * 2 + 16 * seconds / 60 + 1


def test_hanging_server_delays_one_request_at_most(serve: Serve, redis: RedisServer) -> None:
    service = serve(patient=False, RATE_LIMIT="6000")
    assert service.ask("/v1/a").status == 200
    redis.hang()
    try:
        statuses, _ = ask_in_turn([service], 900)
        assert set(statuses) == {200}
        sent = commands(service, "lease")
        assert sent.get("late", 0) + sent.get("lost", 0) <= 2
        assert state(service)["circuit"] != "closed"
        ask_in_turn([service], 20)
        assert commands(service, "lease") == sent  # while it is open, no command is sent
    finally:
        redis.go_on()
    until_state(service, "ok")


def test_full_server_is_not_used_until_it_has_room(serve: Serve, redis: RedisServer) -> None:
    service = serve(RATE_LIMIT="600")
    redis.command("CONFIG", "SET", "maxmemory", "1")
    statuses, _ = ask_in_turn([service], 100)
    assert set(statuses) == {200}
    assert state(service)["state"] == "degraded"
    (line,) = [line for line in service.process.messages("warn") if "shared state" in line]
    assert "the server is full" in line
    redis.command("CONFIG", "SET", "maxmemory", "0")
    until_state(service, "ok")


def test_strict_service_refuses_while_redis_is_away(serve: Serve, redis: RedisServer) -> None:
    for limit in ("60", "0"):
        service = serve(RATE_LIMIT=limit, STATE_STRICT="1")
        assert service.ask("/v1/a").status == 200
        redis.kill()
        eventually(lambda service=service: state(service)["state"] == "degraded")
        answer = service.ask("/v1/b")
        assert (answer.status, answer.document["error"]["code"]) == (503, "overloaded")
        assert "STATE_STRICT" in answer.document["error"]["message"]
        assert service.ask("/nowhere").status == 503
        assert readiness(service) == "degraded"
        redis.start()
        until_state(service, "ok")
        assert service.ask("/v1/b").status == 200
