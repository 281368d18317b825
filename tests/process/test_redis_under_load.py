"""Faults of Redis while two machines serve concurrent requests: no answer is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests.process.daemon_process import eventually
from tests.process.redis_faults import FAULTS, Site, redis_site
from tests.process.redis_services import (
    Serve,
    is_master,
    readiness,
    redis,
    sentinel_of,
    serve,
    serving,
    until_state,
)
from tests.process.state_load import LIMIT, Load
from tests.process.worker_service import Service, close_connections, upstream, upstream_server
from tests.support.authority import Authority
from tests.support.redis_server import RedisServer, needs_redis, redis_server

__all__ = ["close_connections", "redis", "serve", "upstream"]  # the fixtures

pytestmark = [pytest.mark.process, needs_redis]

SETTINGS = {"RATE_LIMIT": str(LIMIT)}


@attrs.frozen
class Shared:
    """Two services that share a state."""

    site: Site
    services: list[Service]


@contextmanager
def two_services(directory: Path, authority: Authority, secured: bool) -> Iterator[Shared]:
    with (
        redis_site(directory, authority, secured) as site,
        upstream_server() as upstream,
        serving(directory, upstream, site.redis) as serve,
    ):
        yield Shared(site, [serve(patient=False, **SETTINGS, **site.settings()) for _ in range(2)])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Shared]:
    with two_services(tmp_path_factory.mktemp("plain"), authority, secured=False) as shared:
        yield shared


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Shared]:
    with two_services(tmp_path_factory.mktemp("secured"), authority, secured=True) as shared:
        yield shared


def share(services: list[Service]) -> bool:
    """Return whether a response of one service is a hit in the other.

    Redis may be too slow for a look-up while the machine is busy.
    """
    path = f"/v1/after-{time.monotonic_ns()}"
    first, second = [each.ask(path) for each in services]
    return first.body == second.body


def until_away(services: list[Service]) -> None:
    for each in services:
        until_state(each, "degraded")


def until_shared(services: list[Service]) -> None:
    for each in services:
        until_state(each, "ok")


@pytest.mark.parametrize("name", FAULTS)
def test_no_answer_is_wrong_during_a_fault(request: pytest.FixtureRequest, name: str) -> None:
    fault = FAULTS[name]
    shared: Shared = request.getfixturevalue("secured" if fault.secured else "plain")
    site, services = shared.site, shared.services
    until_shared(services)
    began = time.monotonic()
    with Load(services) as load:
        load.wait_for(10)
        try:
            fault.begin(site)
            if not (fault.is_harmless or fault.passes):
                until_away(services)
            load.wait_for(20)
            if not (fault.is_harmless or fault.passes):
                assert {readiness(each) for each in services} == {"degraded"}
        finally:
            fault.end(site)
        until_shared(services)
        load.wait_for(10)
    assert load.problems == []
    buckets = len(services) + 2  # those of the services, and that of Redis, which may be lost
    refilled = buckets * LIMIT * (time.monotonic() - began) / 60
    leases = len(services) * LIMIT / 8
    assert load.admitted() <= buckets * LIMIT + leases + refilled + 1
    eventually(lambda: share(services))


def test_no_answer_is_wrong_during_a_failover(
    serve: Serve, redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "replica").mkdir()
    replicated = ("--replicaof", "127.0.0.1", str(redis.port))
    with redis_server(tmp_path / "replica", *replicated) as replica:
        eventually(lambda: b"master_link_status:up" in replica.command("INFO", "replication"))
        with sentinel_of(tmp_path, redis) as port:
            url = f"redis+sentinel://127.0.0.1:{port}/main/0"
            services = [serve(patient=False, **SETTINGS, STATE_URL=url) for _ in range(2)]
            until_shared(services)
            with Load(services) as load:
                load.wait_for(10)
                redis.kill()
                until_away(services)
                eventually(lambda: is_master(replica))
                until_shared(services)
                load.wait_for(10)
            assert load.problems == []
            eventually(lambda: share(services))
            eventually(lambda: any(b":limit:" in name for name in replica.all_keys()))
