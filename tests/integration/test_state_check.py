"""``goproxyai check``: each step to the server of ``STATE_URL``, and how it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from goproxyai.cli.findings import Finding, Result, report
from goproxyai.cli.state_check import StateCheck, judge_server
from goproxyai.config.sources import ConfigSources
from goproxyai.config.state_url import parse_state_url
from goproxyai.egress.state_server import state_server
from goproxyai.egress.tls import ClientTLS
from tests.support.authority import Authority
from tests.support.ports import free_port
from tests.support.redis_server import (
    RedisServer,
    needs_redis,
    redis_server,
    running,
    server,
)

__all__ = ["running", "server"]  # the fixtures

PASSWORD = "hunter2/of:redis"
LOGIN = "hunter2%2Fof%3Aredis"

STEPS = ["CONNECT", "AUTH", "PING", "SCRIPT", "SERVER", "SUBSCRIBE"]


async def check(url: str, authority: Authority | None = None) -> dict[str, Finding]:
    """Return the findings by the names of the steps."""
    texts = {"STATE_URL": url, "STATE_SECRET": "the-secret-of-the-shared-state"}
    settings = ConfigSources({}, texts, "/").read().settings
    assert settings.state_url is not None
    checked = StateCheck(reactor, settings, settings.state_url)
    if authority is not None:
        root = authority.trust_root()
        checked = StateCheck(
            reactor, settings, settings.state_url, lambda host: ClientTLS(host, root)
        )
    found = await checked.run()
    text = report(found, 200)
    assert PASSWORD not in text
    assert LOGIN not in text
    assert [each.name for each in found] == STEPS
    return {each.name: each for each in found}


def failed_at(found: dict[str, Finding]) -> str:
    """Return the step that failed; those before are fine, and those after were not reached."""
    results = [each.result for each in found.values()]
    position = results.index(Result.FAILED)
    assert set(results[:position]) <= {Result.OK}
    assert set(results[position + 1 :]) <= {Result.NOT_REACHED}
    return STEPS[position]


@needs_redis
@pytest_twisted.ensureDeferred
async def test_every_step_to_a_good_server_has_its_time(server: RedisServer) -> None:
    server.command("CONFIG", "SET", "maxmemory", "100mb")
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    found = await check(f"unix://{server.socket}?db=2")
    assert {each.result for each in found.values()} == {Result.OK}
    assert all(each.seconds is not None for each in found.values())
    assert found["AUTH"].detail == "no password in STATE_URL; database 2"
    assert found["SERVER"].detail.endswith("maxmemory-policy allkeys-lru")
    for name in server.all_keys():
        assert server.command("PTTL", name) > 0


@needs_redis
@pytest.mark.parametrize(("maxmemory", "detail"), [("0", "without"), ("100mb", "noeviction")])
@pytest_twisted.ensureDeferred
async def test_server_that_does_not_evict_is_warned_about(
    server: RedisServer, maxmemory: str, detail: str
) -> None:
    server.command("CONFIG", "SET", "maxmemory", maxmemory)
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    found = await check(server.url)
    assert found["SERVER"].result is Result.WARNING
    assert detail in found["SERVER"].detail
    assert "allkeys-lru" in found["SERVER"].advice
    assert found["SUBSCRIBE"].result is Result.OK


class _Client(Protocol):
    """Tells when it has ended."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


@needs_redis
@pytest_twisted.ensureDeferred
async def test_small_commands_are_sent_at_once(server: RedisServer) -> None:
    url = parse_state_url(server.url)
    assert url is not None
    endpoint = await state_server(reactor, url).find()
    client: Any = await endpoint.connect(Factory.forProtocol(_Client))
    assert client.transport.getTcpNoDelay()
    client.transport.loseConnection()
    await client.ended


@needs_redis
@pytest_twisted.ensureDeferred
async def test_wrong_password_fails_the_login(server: RedisServer) -> None:
    found = await check(f"redis://:{LOGIN}@127.0.0.1:{server.port}/0")
    assert failed_at(found) == "AUTH"
    found = await check(f"redis://nobody:{LOGIN}@127.0.0.1:{server.port}/0")
    assert failed_at(found) == "AUTH"
    assert "the user and the password in STATE_URL" in found["AUTH"].detail


@needs_redis
@pytest_twisted.ensureDeferred
async def test_missing_permissions_are_named(server: RedisServer) -> None:
    rules = ["on", f">{PASSWORD}", "~goproxyai:*", "-@all", "+ping"]
    server.command("ACL", "SETUSER", "limited", *rules)
    url = f"redis://limited:{LOGIN}@127.0.0.1:{server.port}/0"
    found = await check(url)
    assert failed_at(found) == "SCRIPT"
    assert "eval" in found["SCRIPT"].detail
    rest = ["+eval", "+get", "+set", "+del", "+time", "+subscribe", "&goproxyai:*"]
    server.command("ACL", "SETUSER", "limited", *rest)
    found = await check(url)
    assert {each.result for each in found.values()} == {Result.OK}
    assert "no permission for INFO" in found["SERVER"].detail


@pytest_twisted.ensureDeferred
async def test_refused_connection_names_the_address() -> None:
    port = free_port()
    found = await check(f"redis://127.0.0.1:{port}/0")
    assert failed_at(found) == "CONNECT"
    assert found["CONNECT"].detail == f"127.0.0.1:{port} refuses connections"
    assert "STATE_URL" in found["CONNECT"].advice


@pytest_twisted.ensureDeferred
async def test_sentinels_that_are_away_fail_the_connection() -> None:
    found = await check(f"redis+sentinel://127.0.0.1:{free_port()}/main/0")
    assert failed_at(found) == "CONNECT"
    assert "no Sentinel knows the master of main" in found["CONNECT"].detail


@pytest.fixture(scope="module")
def tls_port(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[int]:
    """The port of a server with a certificate for ``localhost``."""
    directory: Path = tmp_path_factory.mktemp("tls")
    (directory / "own.pem").write_bytes(authority.issue("localhost").pem)
    port = free_port()
    with redis_server(
        directory, "--port", "0", "--tls-port", str(port), "--tls-cert-file", "own.pem",
        "--tls-key-file", "own.pem", "--tls-ca-cert-file", str(authority.pem),
        "--tls-auth-clients", "no",
    ):  # fmt: skip
        yield port


@needs_redis
@pytest_twisted.ensureDeferred
async def test_certificate_is_verified(tls_port: int, authority: Authority) -> None:
    found = await check(f"rediss://localhost:{tls_port}/0", authority)
    assert found["CONNECT"].detail == "TLS, the certificate is valid"
    assert found["SUBSCRIBE"].result is Result.OK
    for host, trusted in (("127.0.0.1", authority), ("localhost", None)):
        found = await check(f"rediss://{host}:{tls_port}/0", trusted)
        assert failed_at(found) == "CONNECT"
        assert "SSL_CERT_FILE" in found["CONNECT"].advice


@pytest.mark.parametrize(
    ("info", "result", "detail"),
    [
        ("redis_version:5.0.14", Result.FAILED, "Redis 5.0.14"),
        ("redis_version:7.2.4\r\nserver_name:valkey", Result.OK, "valkey 7.2.4"),
        ("redis_version:7.0.15\r\ncluster_enabled:1", Result.FAILED, "part of a cluster"),
        ("", Result.OK, "of an unknown version"),
    ],
)
def test_server_is_judged_by_its_version(info: str, result: Result, detail: str) -> None:
    found, text, _ = judge_server(info)
    assert found is result
    assert detail in text
