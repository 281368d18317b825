"""The second level of the cache, and single flight across worker processes."""

from __future__ import annotations

import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from tests.process.daemon_process import Start, eventually, start
from tests.process.worker_service import (
    Answer,
    Connection,
    Serve,
    Service,
    Upstream,
    close_connections,
    serve,
    upstream,
)

__all__ = ["close_connections", "serve", "start", "upstream"]  # the fixtures

pytestmark = pytest.mark.process


class Asking:
    """A request that a thread sends on *connection*."""

    def __init__(self, connection: Connection, path: str) -> None:
        self._answers: list[Answer] = []
        self._thread = threading.Thread(
            target=lambda: self._answers.append(connection.ask(path)), daemon=True
        )
        self._thread.start()

    def answer(self) -> Answer:
        self._thread.join()
        return self._answers[0]


def second_level(service: Service) -> dict[str, int]:
    numbers: dict[str, int] = service.stats()["workers"]["second_level"]
    return numbers


def shared_bytes(service: Service) -> int:
    """The memory that the file of the workers takes."""
    directory = Path(f"/proc/{service.pids()[0]}/fd")
    file, *_ = [
        each for each in directory.iterdir() if "goproxyai workers" in os.path.realpath(each)
    ]
    return file.stat().st_blocks * 512


def test_entry_of_one_worker_is_a_hit_in_the_other(serve: Serve, upstream: Upstream) -> None:
    service = serve()
    one, other = service.connection_to_each().values()
    first, second = one.ask("/v1/a"), other.ask("/v1/a")
    assert (first.cache, second.cache) == ("MISS", "HIT")
    assert second.body == first.body
    assert upstream.served == 1
    numbers = second_level(service)
    assert (numbers["hits"], numbers["stores"], numbers["item_count"]) == (1, 1, 1)
    assert (
        b'goproxyai_second_level_look_ups_total{result="hit"} 1.0' in service.ask("/metrics").body
    )


def test_refreshed_response_replaces_that_of_the_second_level(serve: Serve) -> None:
    service = serve(3)
    one, other, last = service.connection_to_each().values()
    old = one.ask("/v1/a")
    new = other.ask("/v1/a", **{"Cache-Control": "no-cache"})
    assert (old.cache, new.cache) == ("MISS", "MISS")
    assert new.body != old.body
    eventually(lambda: second_level(service)["stores"] == 2)
    assert last.ask("/v1/a").body == new.body
    eventually(lambda: one.ask("/v1/a").body == new.body)  # in its own memory was the old one


def test_other_workers_are_told_where_the_response_cannot_be_stored(
    serve: Serve, upstream: Upstream
) -> None:
    service = serve(MAX_CACHE_SIZE="64000")
    one, other = service.pids()
    for pid in (one, other):
        resource.prlimit(pid, resource.RLIMIT_AS, (2 * 1024**3, resource.RLIM_INFINITY))
    first = Asking(service.connection_to(one), "/v1/slow")
    eventually(lambda: upstream.waiting == 1)
    second = Asking(service.connection_to(other), "/v1/slow")
    eventually(lambda: second_level(service)["waiting"] == 1)
    upstream.released.set()
    assert [each.answer().cache for each in (first, second)] == ["MISS", "MISS"]
    assert (second_level(service)["waiting"], second_level(service)["claims"]) == (0, 0)
    errors = service.process.messages("error")
    assert [each.count("cannot be mapped") for each in errors] == [1, 1]  # of each worker


def test_cleared_second_level_returns_its_memory(serve: Serve, upstream: Upstream) -> None:
    upstream.padding = "x" * 500_000
    service = serve()
    connection = service.connect()
    for number in range(20):
        connection.ask(f"/v1/{number}")
    eventually(lambda: second_level(service)["stores"] == 20)
    full = shared_bytes(service)
    assert full > 20 * 500_000
    connection.ask("/cache", "DELETE")
    eventually(lambda: shared_bytes(service) < full - 19 * 500_000)
    assert connection.ask("/v1/0").cache == "MISS"


def test_write_through_one_worker_drops_entries_of_the_others_before_its_answer(
    serve: Serve, upstream: Upstream
) -> None:
    service = serve()
    one, other = service.connection_to_each().values()
    for number in range(20):
        path = f"/v1/files/{number}"
        old = other.ask(path)
        written = one.ask("/v1/files", "POST")
        new = other.ask(path)
        assert old.document["number"] < written.document["number"] < new.document["number"]


def test_identical_requests_to_all_workers_make_one_upstream_request(
    serve: Serve, upstream: Upstream
) -> None:
    service = serve(3)
    per_worker = 4
    askings = []
    for pid in service.pids():
        askings += [Asking(service.connection_to(pid), "/v1/slow") for _ in range(per_worker)]
    eventually(lambda: second_level(service)["waiting"] == 2)
    upstream.released.set()
    answers = [asking.answer() for asking in askings]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert upstream.served == 1
    assert sorted(str(answer.cache) for answer in answers) == (
        ["HIT"] * 2 * per_worker + ["MISS"] * per_worker
    )
    assert (second_level(service)["waiting"], second_level(service)["claims"]) == (0, 0)


def test_killed_worker_lets_the_one_that_waits_go_on(serve: Serve, upstream: Upstream) -> None:
    service = serve()
    victim, survivor = service.pids()
    broken = service.connection_to(victim)
    broken._http.request("GET", "/v1/slow")
    eventually(lambda: upstream.waiting == 1)
    asking = Asking(service.connection_to(survivor), "/v1/slow")
    monitor = service.connection_to(survivor)
    eventually(lambda: monitor.ask("/stats").document["workers"]["second_level"]["waiting"] == 1)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: upstream.waiting == 2)  # asked by the survivor
    upstream.released.set()
    answer = asking.answer()
    assert (answer.status, answer.cache) == (200, "MISS")


def test_response_of_a_killed_worker_is_a_hit_in_all(serve: Serve, upstream: Upstream) -> None:
    service = serve()
    victim, survivor = service.pids()
    stored = service.connection_to(victim).ask("/v1/a")
    eventually(lambda: second_level(service)["stores"] == 1)  # after the answer has been sent
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in service.pids() and len(service.pids()) == 2)
    (replacement,) = set(service.pids()) - {survivor}
    for pid in (survivor, replacement):
        answer = service.connection_to(pid).ask("/v1/a")
        assert (answer.cache, answer.body) == ("HIT", stored.body)
    assert upstream.served == 1


def test_stopped_worker_lets_the_one_that_waits_go_on(serve: Serve, upstream: Upstream) -> None:
    service = serve()
    victim, survivor = service.pids()
    stopped = service.connection_to(victim)
    asking = Asking(stopped, "/v1/slow")
    eventually(lambda: upstream.waiting == 1)
    waiting = Asking(service.connection_to(survivor), "/v1/slow")
    eventually(lambda: second_level(service)["waiting"] == 1)
    os.kill(victim, signal.SIGSTOP)
    try:
        eventually(lambda: upstream.waiting == 2)
    finally:
        os.kill(victim, signal.SIGCONT)
    upstream.released.set()
    assert [each.answer().status for each in (asking, waiting)] == [200, 200]


def test_second_level_survives_a_restart(start: Start, upstream: Upstream, tmp_path: Path) -> None:
    settings = {
        "OPENAI_API_URL": f"http://127.0.0.1:{upstream.server_port}",
        "WORKERS": "2",
        "RATE_LIMIT": "0",
        "CACHE_SNAPSHOT": str(tmp_path / "cache.sealed"),
        "CACHE_SNAPSHOT_KEY": "correct-horse-battery",
    }
    answers = []
    for _ in range(2):
        process = start(**settings)
        (port,) = process.listening()
        assert not (tmp_path / "cache.sealed").exists()
        answers.append(Service(process, port).ask("/v1/a"))
        process.send(signal.SIGTERM)
        assert process.ended() in (0, -signal.SIGTERM)
        assert (tmp_path / "cache.sealed").stat().st_size
    assert [answer.cache for answer in answers] == ["MISS", "HIT"]
    assert answers[0].body == answers[1].body
