"""Responses and single flights that services on several machines share by Redis."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.process.daemon_process import TIMEOUT_SECONDS, eventually
from tests.process.redis_services import (
    Serve,
    commands,
    readiness,
    redis,
    serve,
    state,
    until_state,
)
from tests.process.worker_service import Answer, Service, Upstream, close_connections, upstream
from tests.support.redis_server import NEVER_EXPIRES, RedisServer, needs_redis

__all__ = ["close_connections", "redis", "serve", "upstream"]  # the fixtures

pytestmark = [pytest.mark.process, needs_redis]

ALICE = {"Authorization": "Bearer sk-alice-key"}


class Asked:
    """A request in a thread of its own."""

    def __init__(self, service: Service, path: str) -> None:
        self.answer: Answer | None = None
        connection = service.connect()

        def ask() -> None:
            self.answer = connection.ask(path)

        self._thread = threading.Thread(target=ask)
        self._thread.start()

    def result(self) -> Answer:
        self._thread.join(TIMEOUT_SECONDS)
        assert self.answer is not None
        return self.answer


def shared(serve: Serve, count: int = 2, **settings: Any) -> list[Service]:
    """Start services, and wait until they use the shared state."""
    services = [serve(**settings) for _ in range(count)]
    for each in services:
        until_state(each, "ok")
    return services


def number(answer: Answer) -> Any:
    return answer.document["number"]


def test_response_of_one_machine_is_a_hit_in_another(serve: Serve, upstream: Upstream) -> None:
    one, other = shared(serve)
    first = one.ask("/v1/models", **ALICE)
    assert first.cache == "MISS"
    second = other.ask("/v1/models", **ALICE)
    assert (second.cache, second.body) == ("HIT", first.body)
    assert upstream.served == 1
    assert other.ask("/v1/models").cache == "MISS"  # of another credential


def test_refreshed_response_replaces_that_in_redis(serve: Serve) -> None:
    one, other, last = shared(serve, 3)
    old = one.ask("/v1/models")
    new = other.ask("/v1/models", **{"Cache-Control": "no-cache"})
    assert number(new) > number(old)
    eventually(lambda: commands(other, "store").get("ok") == 1)
    assert last.ask("/v1/models").body == new.body


def test_refreshed_response_replaces_that_in_the_memory_of_others(serve: Serve) -> None:
    one, other = shared(serve)
    one.ask("/v1/models")
    assert other.ask("/v1/models").cache == "HIT"
    new = one.ask("/v1/models", **{"Cache-Control": "no-cache"})
    eventually(lambda: other.ask("/v1/models").body == new.body)


def test_response_of_one_worker_is_a_hit_in_all(serve: Serve, upstream: Upstream) -> None:
    (service,) = shared(serve, 1, WORKERS="2")
    answers = [
        each.ask("/v1/models") for each in service.connection_to_each().values() for _ in range(2)
    ]
    assert [each.cache for each in answers] == ["MISS", "HIT", "HIT", "HIT"]
    assert upstream.served == 1
    assert service.stats()["workers"]["second_level"]["max_bytes"] == 0
    assert service.ask("/cache", "DELETE").status == 200
    eventually(lambda: service.stats()["cache"]["item_count"] == 0)


@pytest.mark.parametrize("query", ["", "?path=/v1/models"])
def test_clearing_reaches_all_machines(serve: Serve, query: str) -> None:
    one, other = shared(serve)
    first = one.ask("/v1/models")
    assert other.ask("/v1/models").cache == "HIT"
    assert one.ask(f"/cache{query}", "DELETE").status == 200
    eventually(lambda: other.stats()["cache"]["item_count"] == 0)
    second = other.ask("/v1/models")
    assert (second.cache, number(second) > number(first)) == ("MISS", True)
    assert number(one.ask("/v1/models")) == number(second)


def test_write_on_one_machine_is_followed_by_all(serve: Serve) -> None:
    one, other = shared(serve)
    first = one.ask("/v1/files", **ALICE)
    kept = one.ask("/v1/files")
    assert other.ask("/v1/files", **ALICE).cache == "HIT"
    assert other.ask("/v1/files").cache == "HIT"
    assert one.ask("/v1/files/1", "DELETE", **ALICE).status == 200
    eventually(lambda: other.stats()["cache"]["item_count"] == 1)
    second = other.ask("/v1/files", **ALICE)
    assert number(second) > number(first)
    assert number(other.ask("/v1/files")) == number(kept)


def asked_on_two_machines(serve: Serve, upstream: Upstream) -> tuple[Asked, Asked]:
    """Send identical requests, of which the second waits for the first."""
    one, other = shared(serve)
    first = Asked(one, "/v1/slow")
    eventually(lambda: upstream.waiting == 1)
    second = Asked(other, "/v1/slow")
    eventually(lambda: commands(other, "look_up").get("ok"))
    return first, second


def test_identical_requests_on_two_machines_share_one_upstream_request(
    serve: Serve, upstream: Upstream
) -> None:
    first, second = asked_on_two_machines(serve, upstream)
    upstream.released.set()
    assert first.result().body == second.result().body
    assert upstream.waiting == 1


def test_waiting_request_goes_upstream_when_redis_is_killed(
    serve: Serve, upstream: Upstream, redis: RedisServer
) -> None:
    first, second = asked_on_two_machines(serve, upstream)
    redis.kill()
    eventually(lambda: upstream.waiting == 2)
    upstream.released.set()
    assert {first.result().status, second.result().status} == {200}


def test_waiting_request_goes_upstream_when_its_process_is_killed(
    serve: Serve, upstream: Upstream
) -> None:
    one, other = shared(serve)
    connection = one.connect()
    connection._http.request("GET", "/v1/slow")
    eventually(lambda: upstream.waiting == 1)
    second = Asked(other, "/v1/slow")
    eventually(lambda: commands(other, "look_up").get("ok"))
    one.process.kill()
    eventually(lambda: upstream.waiting == 2)  # after the claim has expired
    upstream.released.set()
    assert second.result().status == 200


def test_scan_shows_no_plain_text(serve: Serve, redis: RedisServer) -> None:
    one, other = shared(serve, RATE_LIMIT="60")
    answer = one.ask("/v1/files/private-name", **ALICE)
    assert other.ask("/v1/files/private-name", **ALICE).cache == "HIT"
    one.ask("/v1/files/x", "DELETE", **ALICE)
    one.ask("/cache", "DELETE")
    kinds = {name.split(b":")[1] for name in redis.all_keys()}
    assert {b"entry", b"limit", b"owner", b"path", b"clearing", b"announcements"} <= kinds
    for name in redis.all_keys():
        assert name.startswith(b"goproxyai:")
        assert redis.command("PTTL", name) != NEVER_EXPIRES
        everything = name + (redis.command("GET", name) or b"")  # a claim may end meanwhile
        for secret in (b"private", b"alice", b"127.0.0.1", b"files", answer.body):
            assert secret not in everything


def test_no_request_fails_while_redis_is_killed_and_restarted(
    serve: Serve, redis: RedisServer
) -> None:
    (service,) = shared(serve, 1, patient=False, RATE_LIMIT="60000")
    connection = service.connect()
    statuses = []

    def ask(count: int) -> None:
        for _ in range(count):
            statuses.append(connection.ask(f"/v1/{len(statuses)}").status)

    ask(50)
    redis.kill()
    ask(50)
    assert readiness(service) == "degraded"
    redis.start()
    ask(10)
    until_state(service, "ok")
    redis.hang()
    ask(50)
    redis.go_on()
    until_state(service, "ok")
    ask(50)
    assert set(statuses) == {200}
    late = sum(
        results.get("late", 0) + results.get("lost", 0)
        for kind, results in state(service)["commands"].items()
        if kind in ("lease", "look_up")
    )
    assert late <= 4  # those in flight when the server was killed and when it hung
    assert state(service)["opened"] >= 2


def test_clearing_while_redis_is_away_is_made_later(serve: Serve, redis: RedisServer) -> None:
    one, other = shared(serve, patient=False)
    first = one.ask("/v1/models")
    assert other.ask("/v1/models").cache == "HIT"
    redis.hang()
    assert one.ask("/cache", "DELETE").status == 200
    redis.go_on()
    eventually(lambda: other.stats()["cache"]["item_count"] == 0)
    for each in (one, other):
        until_state(each, "ok")
    assert number(one.ask("/v1/models")) > number(first)


def test_large_response_stays_on_its_machine(serve: Serve, upstream: Upstream) -> None:
    upstream.padding = "x" * 1024 * 1024
    one, other = shared(serve)
    assert one.ask("/v1/large").cache == "MISS"
    assert one.ask("/v1/large").cache == "HIT"
    assert other.ask("/v1/large").cache == "MISS"
