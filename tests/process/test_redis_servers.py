"""Redis servers of all kinds, and those that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.process.daemon_process import eventually
from tests.process.redis_services import (
    Serve,
    is_master,
    readiness,
    redis,
    sentinel_of,
    serve,
    state,
    until_state,
)
from tests.process.worker_service import Service, close_connections, upstream
from tests.support.authority import Authority
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, needs_redis, redis_server

__all__ = ["close_connections", "redis", "serve", "upstream"]  # the fixtures

pytestmark = [pytest.mark.process, needs_redis]

USER, PASSWORD = "goproxyai", "p@ss:word/of redis"

RULES = (
    "~goproxyai:*", "&goproxyai:*", "-@all", "+auth", "+select", "+ping", "+subscribe",
    "+eval", "+evalsha", "+get", "+set", "+del", "+incr", "+pexpire", "+pttl",
    "+publish", "+time",
)  # fmt: skip
"""The permissions that docs/explanation/scaling.md names."""


def away_line(service: Service) -> str:
    """Return the line that says why the shared state is away."""
    service.process.until(lambda: "shared state" in service.process.out)
    (line,) = [line for line in service.process.messages("warn") if "shared state" in line]
    assert PASSWORD not in service.process.out
    assert quote(PASSWORD, safe="") not in service.process.out
    return line


def test_unix_socket_with_user_and_database(serve: Serve, redis: RedisServer) -> None:
    assert redis.command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *RULES) == b"OK"
    login = f"{USER}:{quote(PASSWORD, safe='')}"
    service = serve(STATE_URL=f"unix://{login}@{redis.socket}?db=3", RATE_LIMIT="60")
    assert service.ask("/v1/a").status == 200
    assert state(service)["state"] == "ok"
    assert state(service)["url"] == f"unix://***:***@{redis.socket}?db=3"
    assert redis.all_keys() == []
    config = service.stats()["config"]
    assert config["STATE_URL"]["value"] == state(service)["url"]
    assert config["STATE_SECRET"]["value"] == "***"
    assert service.process.messages("warn") == []


def test_wrong_password_is_logged_and_can_be_corrected(serve: Serve, redis: RedisServer) -> None:
    login = f"{USER}:{quote(PASSWORD, safe='')}"
    service = serve(STATE_URL=f"redis://{login}@127.0.0.1:{redis.port}/0", RATE_LIMIT="60")
    assert service.ask("/v1/a").status == 200
    assert readiness(service) == "degraded"
    assert "check the user and the password in STATE_URL" in away_line(service)
    redis.command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *RULES)
    until_state(service, "ok")


def test_missing_permission_is_logged(serve: Serve, redis: RedisServer) -> None:
    redis.command("ACL", "SETUSER", USER, "on", ">word", *RULES, "-subscribe")
    service = serve(STATE_URL=f"redis://{USER}:word@127.0.0.1:{redis.port}/0")
    assert "lacks a permission" in away_line(service)
    assert service.ask("/v1/a").status == 200


def test_service_starts_while_the_server_is_away(serve: Serve, redis: RedisServer) -> None:
    redis.kill()
    service = serve(RATE_LIMIT="60")
    assert service.ask("/v1/a").status == 200
    assert readiness(service) == "degraded"
    redis.start()
    until_state(service, "ok")


def test_server_that_speaks_another_protocol_is_not_used(serve: Serve, upstream: object) -> None:
    port = upstream.server_port  # type: ignore[attr-defined]
    service = serve(STATE_URL=f"redis://127.0.0.1:{port}")
    assert "the server does not speak the protocol of Redis" in away_line(service)


@pytest.fixture
def tls_redis(authority: Authority, tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "own.pem").write_bytes(authority.issue("localhost").pem)
    port = free_port()
    with redis_server(
        tmp_path, "--port", "0", "--tls-port", str(port), "--tls-cert-file", "own.pem",
        "--tls-key-file", "own.pem", "--tls-ca-cert-file", str(authority.pem),
        "--tls-auth-clients", "no",
    ) as server:  # fmt: skip
        server.port = port
        yield server


def test_tls_is_verified_with_the_given_roots(
    serve: Serve, tls_redis: RedisServer, authority: Authority
) -> None:
    url = f"rediss://localhost:{tls_redis.port}/0"
    service = serve(STATE_URL=url, SSL_CERT_FILE=str(authority.pem), RATE_LIMIT="60")
    assert service.ask("/v1/a").status == 200
    assert state(service)["state"] == "ok"


@pytest.mark.parametrize("trusted", [True, False])
def test_wrong_certificate_is_refused(
    serve: Serve, tls_redis: RedisServer, authority: Authority, trusted: bool
) -> None:
    host = "127.0.0.1" if trusted else "localhost"
    roots = {"SSL_CERT_FILE": str(authority.pem)} if trusted else {}
    service = serve(STATE_URL=f"rediss://:word@{host}:{tls_redis.port}/0", **roots)
    assert service.ask("/v1/a").status == 200
    assert readiness(service) == "degraded"
    reason = "VerificationError" if trusted else "root certificate that is not trusted"
    assert reason in away_line(service)


def test_failover_by_sentinel_is_followed(serve: Serve, redis: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "replica").mkdir()
    with redis_server(tmp_path / "replica", "--replicaof", "127.0.0.1", str(redis.port)) as replica:
        eventually(lambda: b"master_link_status:up" in replica.command("INFO", "replication"))
        with sentinel_of(tmp_path, redis) as port:
            url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/main/0"
            service = serve(STATE_URL=url, RATE_LIMIT="600")
            until_state(service, "ok")
            assert service.ask("/v1/a").status == 200
            redis.kill()
            asked = [service.ask(f"/v1/{number}").status for number in range(20)]
            assert set(asked) == {200}
            eventually(lambda: is_master(replica))
            until_state(service, "ok")
            assert service.ask("/v1/b").status == 200
            eventually(lambda: any(b":limit:" in name for name in replica.all_keys()))
