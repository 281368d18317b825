"""The server of each kind of ``STATE_URL``."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from goproxyai.config.state_url import StateURL, parse_state_url
from goproxyai.egress.state_server import login_of, state_server
from goproxyai.state.redis.servers import SentinelServers


def url_of(text: str) -> StateURL:
    url = parse_state_url(text)
    assert url is not None
    return url


class Hosts:
    """Records the hosts for which TLS is made."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def __call__(self, host: str) -> Any:
        self.hosts.append(host)
        return object()


@pytest.mark.parametrize(
    ("text", "connected", "secured"),
    [
        ("redis://192.0.2.1:7", ("192.0.2.1", 7), []),
        ("redis://[2001:db8::1]", ("2001:db8::1", 6379), []),
        ("rediss://192.0.2.1", ("192.0.2.1", 6379), ["192.0.2.1"]),
        ("unix:///run/redis.sock", "/run/redis.sock", []),
    ],
)
def test_fixed_server_is_connected_to(text: str, connected: Any, secured: list[str]) -> None:
    reactor, tls = MemoryReactorClock(), Hosts()
    found: list[Any] = []
    state_server(reactor, url_of(text), tls).find().addCallback(found.append)
    assert tls.hosts == secured
    if not secured:  # TLS needs a factory of real connections
        found[0].connect(None)
        tried = [client[:2] for client in reactor.tcpClients]
        tried += [client[0] for client in reactor.unixClients]
        assert tried == [connected]


def test_sentinels_get_the_credentials_of_the_server() -> None:
    reactor, tls = MemoryReactorClock(), Hosts()
    server = state_server(reactor, url_of("rediss+sentinel://u:w@a,b:7/main/2"), tls)
    assert isinstance(server, SentinelServers)
    assert server._sentinels == [("a", 26379), ("b", 7)]
    assert (server._service, server._password) == ("main", ("u", "w"))
    server._endpoint_to("c", 1)
    assert tls.hosts == ["c"]


def test_login_has_the_database_and_the_credentials() -> None:
    commands = login_of(url_of("redis://u:w@h/3")).commands()
    assert commands == [("AUTH", "u", "w"), ("SELECT", 3)]
    assert login_of(url_of("redis://h")).commands() == []
