"""Faults of a real Redis server, and of the link to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.support.authority import Authority
from tests.support.faulty_link import Fault, FaultyLink, faulty_link
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server

LOGIN = ("other-password",)


@attrs.frozen
class Site:
    """A server, and the link by which the services reach it.

    :ivar url: of the link.
    """

    redis: RedisServer
    link: FaultyLink
    authority: Authority
    url: str

    def settings(self) -> dict[str, str]:
        """Return the settings of a service that uses the server."""
        return {"STATE_URL": self.url, "SSL_CERT_FILE": str(self.authority.pem)}

    def restart(self) -> None:
        self.redis.kill()
        self.redis.start()

    def use_certificate(self, host: str) -> None:
        """Use a certificate for *host* for new connections, and close the others."""
        (self.redis.directory / "own.pem").write_bytes(self.authority.issue(host).pem)
        self.redis.command("CONFIG", "SET", "tls-cert-file", "own.pem")
        self.close_connections()

    def close_connections(self, login: tuple[str, ...] = ()) -> None:
        """Close those of clients and of subscribers."""
        for kind in ("normal", "pubsub"):
            self.redis.command("CLIENT", "KILL", "TYPE", kind, login=login)

    def expect_password(self) -> None:
        self.redis.command("CONFIG", "SET", "requirepass", *LOGIN)
        self.close_connections(LOGIN)

    def expect_no_password(self) -> None:
        self.redis.command("CONFIG", "SET", "requirepass", "", login=LOGIN)


@attrs.frozen
class RedisFault:
    """A fault with a beginning and an end.

    :ivar secured: whether the services use TLS.
    :ivar is_harmless: whether the shared state stays in use.
    :ivar passes: whether the fault has ended when it has begun.
    """

    begin: Callable[[Site], object]
    end: Callable[[Site], object]
    secured: bool = False
    is_harmless: bool = False
    passes: bool = False


def _of_link(fault: Fault, is_harmless: bool = False) -> RedisFault:
    def use(chosen: Fault) -> Callable[[Site], None]:
        return lambda site: setattr(site.link, "fault", chosen)

    return RedisFault(use(fault), use(Fault.NONE), is_harmless=is_harmless)


FAULTS = {
    "killed": RedisFault(lambda site: site.redis.kill(), lambda site: site.redis.start()),
    "restarted": RedisFault(lambda site: site.restart(), lambda site: None, passes=True),
    "hung": RedisFault(lambda site: site.redis.hang(), lambda site: site.redis.go_on()),
    "full": RedisFault(
        lambda site: site.redis.command("CONFIG", "SET", "maxmemory", "1"),
        lambda site: site.redis.command("CONFIG", "SET", "maxmemory", "0"),
    ),
    "wrong password": RedisFault(
        lambda site: site.expect_password(), lambda site: site.expect_no_password()
    ),
    "wrong certificate": RedisFault(
        lambda site: site.use_certificate("other.test"),
        lambda site: site.use_certificate("localhost"),
        secured=True,
    ),
    "lag": _of_link(Fault.LAG, is_harmless=True),
    "delay": _of_link(Fault.DELAY),
    "throttle": _of_link(Fault.THROTTLE),
    "cut": _of_link(Fault.CUT),
    "garbage": _of_link(Fault.GARBAGE),
    "silence": _of_link(Fault.SILENCE),
}
"""By name. Those from ``lag`` on are of the link."""


@contextmanager
def redis_site(directory: Path, authority: Authority, secured: bool = False) -> Iterator[Site]:
    """Run a server, and a link to it, over TLS if *secured*."""
    (directory / "own.pem").write_bytes(authority.issue("localhost").pem)
    tls_port = free_port()
    with (
        redis_server(
            directory, "--tls-port", str(tls_port), "--tls-cert-file", "own.pem",
            "--tls-key-file", "own.pem", "--tls-ca-cert-file", str(authority.pem),
            "--tls-auth-clients", "no",
        ) as server,
        faulty_link(tls_port if secured else server.port) as link,
    ):  # fmt: skip
        scheme = "rediss" if secured else "redis"
        yield Site(server, link, authority, f"{scheme}://localhost:{link.port}/0")
