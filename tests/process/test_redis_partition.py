"""Two hosts in network namespaces share a Redis server, and one is cut off from it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.process.daemon_process import DaemonProcess, command, eventually
from tests.process.redis_services import SECRET, readiness, state, until_state
from tests.process.worker_service import Answer, Service, close_connections, upstream_server
from tests.support.network_hosts import Host, network_hosts, skip_without_namespaces
from tests.support.redis_server import needs_redis, redis_server

__all__ = ["close_connections"]  # the fixture

pytestmark = [pytest.mark.process, needs_redis]

LIMIT = 40
LEASE = LIMIT // 8

ALICE = {"Authorization": "Bearer sk-alice-key"}


@attrs.frozen
class Hosts:
    """A service that keeps its link to Redis, and one whose link is cut.

    :ivar cut_host: of :attr:`cut`.
    """

    kept: Service
    cut: Service
    cut_host: Host

    def heal(self) -> None:
        """Restore the link, and wait until both services use Redis."""
        self.cut_host.heal()
        for each in (self.kept, self.cut):
            until_state(each, "ok")


def number(answer: Answer) -> Any:
    """Return the number of a response: later ones have greater ones."""
    assert answer.status == 200
    return answer.document["number"]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    skip_without_namespaces()
    running: list[DaemonProcess] = []
    with network_hosts(2) as made:
        bound = ("--bind", "127.0.0.1", *[each.state_gateway for each in made])
        with (
            redis_server(tmp_path, *bound, "--protected-mode", "no") as redis,
            upstream_server("0.0.0.0") as upstream,  # reached from the namespaces
        ):
            try:
                services = []
                for host in made:
                    directory = tmp_path / host.name
                    directory.mkdir()
                    settings = {
                        "LISTEN": f"tcp:0:interface={host.address}",
                        "ADMIN_ALLOW": host.gateway,
                        "TRUSTED_PROXIES": host.gateway,
                        "MAX_CONNECTIONS": "100",
                        "OPENAI_API_URL": f"http://{host.gateway}:{upstream.server_port}",
                        "STATE_URL": f"redis://{host.state_gateway}:{redis.port}",
                        "STATE_SECRET": SECRET,
                        "RATE_LIMIT": str(LIMIT),
                    }
                    process = DaemonProcess(directory, host.command(command()), settings)
                    running.append(process)
                    (port,) = process.listening()
                    services.append(Service(process, (host.address, port)))
                for each in services:
                    until_state(each, "ok")
                yield Hosts(*services, made[1])
            finally:
                for process in running:
                    process.kill()


def cut_off(hosts: Hosts) -> None:
    """Cut the link, and wait until the service has noticed."""
    hosts.cut_host.cut()
    until_state(hosts.cut, "degraded")


def admitted(service: Service, count: int) -> int:
    """Return how many of *count* requests of one client are admitted."""
    connection = service.connect()
    client = {"X-Forwarded-For": "192.0.2.1"}
    statuses = [connection.ask(f"/v1/{n}", **client).status for n in range(count)]
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


def decided_alone(services: list[Service]) -> int:
    """Return how many requests the services may have admitted without Redis, since the start.

    On a busy machine Redis may be late at any time.
    """
    states = [state(each) for each in services]
    return sum(each["overdue"]["lease"] + each["opened"] * LIMIT for each in states)


def test_partition_gives_each_side_its_limit_and_heals(hosts: Hosts) -> None:
    began, alone = time.monotonic(), decided_alone([hosts.kept])
    cut_off(hosts)
    on_cut, on_kept = [admitted(each, 2 * LIMIT) for each in (hosts.cut, hosts.kept)]
    refilled = LIMIT * (time.monotonic() - began) / 60 + 1
    assert LIMIT - LEASE <= on_cut <= LIMIT + LEASE + refilled
    alone = decided_alone([hosts.kept]) - alone
    assert LIMIT - LEASE <= on_kept <= LIMIT + LEASE + refilled + alone
    hosts.heal()
    both = [hosts.cut, hosts.kept]
    alone = decided_alone(both)
    together = sum(admitted(each, LIMIT) for each in both)
    refilled = LIMIT * (time.monotonic() - began) / 60 + 1
    assert together <= 2 * LEASE + refilled + decided_alone(both) - alone


def test_clearing_during_a_partition_leaves_no_outdated_response(hosts: Hosts) -> None:
    old = number(hosts.kept.ask("/v1/models"))
    assert number(hosts.cut.ask("/v1/models")) == old
    cut_off(hosts)
    assert hosts.kept.ask("/cache?path=/v1/models", "DELETE").status == 200
    new = number(hosts.kept.ask("/v1/models"))
    assert new > old
    assert number(hosts.cut.ask("/v1/models")) == old  # until it expires, or the link is back
    hosts.heal()
    assert number(hosts.cut.ask("/v1/models")) >= new
    assert number(hosts.kept.ask("/v1/models")) >= new


def test_write_on_the_side_that_is_cut_off_reaches_the_other_later(hosts: Hosts) -> None:
    old = number(hosts.kept.ask("/v1/files", **ALICE))
    assert number(hosts.cut.ask("/v1/files", **ALICE)) == old
    cut_off(hosts)
    assert hosts.cut.ask("/v1/files/1", "DELETE", **ALICE).status == 200
    new = number(hosts.cut.ask("/v1/files", **ALICE))
    assert new > old
    hosts.heal()
    eventually(lambda: number(hosts.kept.ask("/v1/files", **ALICE)) > old)
    assert number(hosts.cut.ask("/v1/files", **ALICE)) > old


def test_responses_are_shared_again_after_a_partition(hosts: Hosts) -> None:
    cut_off(hosts)
    assert readiness(hosts.cut) == "degraded"
    before = hosts.cut.ask("/v1/during")
    hosts.heal()

    def is_shared() -> bool:
        path = f"/v1/after-{time.monotonic_ns()}"
        return hosts.cut.ask(path).body == hosts.kept.ask(path).body

    eventually(is_shared)
    assert before.status == 200
