"""A real HAProxy that balances connections and announces its clients by the PROXY protocol."""

from __future__ import annotations

import csv
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from tests.process.daemon_process import (
    TIMEOUT_SECONDS,
    DaemonProcess,
    Start,
    assert_clean,
    start,
)
from tests.process.programs import Run, check_configuration, needs, run
from tests.support.authority import Authority
from tests.support.ports import free_port

__all__ = ["run", "start"]  # the fixtures

pytestmark = [pytest.mark.process, needs("haproxy")]

CONFIGURATION = """
global
    stats socket {directory}/stats.sock

defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s

frontend openai
    bind 127.0.0.1:{port}
    bind {directory}/front.sock
    default_backend goproxyai

backend goproxyai
    option httpchk GET /health
    timeout check 20s
    default-server check inter 20s downinter 100ms fall 1 rise 1
    server a 127.0.0.1:{server_port} {options}
"""

VERSIONS = ["send-proxy", "send-proxy-v2"]

CLIENT = "127.0.0.9"
"""An address of loopback that is not HAProxy's."""

REQUEST = b"GET /health?client HTTP/1.1\r\nHost: a\r\n\r\n"


@attrs.define(eq=False)
class BalancedDaemon:
    """A daemon and the HAProxy in front of it.

    :ivar port: of HAProxy.
    """

    daemon: DaemonProcess
    directory: Path
    port: int

    def state(self) -> tuple[str, str]:
        """Return the state of the server and the result of its last check."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.directory / "stats.sock"))
                client.sendall(b"show stat\n")
                with client.makefile() as answer:
                    rows = list(csv.DictReader(answer.read().removeprefix("# ").splitlines()))
        except (FileNotFoundError, ConnectionRefusedError):
            return "", ""
        (row,) = [row for row in rows if row["svname"] == "a"]
        return row["status"], row["check_status"].removeprefix("* ")  # a check is running

    def connect(self) -> socket.socket:
        """Connect to HAProxy from :data:`CLIENT`."""
        return socket.create_connection(
            ("127.0.0.1", self.port), TIMEOUT_SECONDS, source_address=(CLIENT, 0)
        )

    def logged(self) -> dict[str, str]:
        """Return the client of each path in the access log, once the client's request is there."""
        self.daemon.until(lambda: any("client" in line["path"] for line in self.daemon.requests))
        return {line["path"]: line["client"] for line in self.daemon.requests}


Balance = Callable[..., BalancedDaemon]


@pytest.fixture
def balance(start: Start, run: Run, tmp_path: Path) -> Balance:
    """Start a daemon that listens at *listen*, and HAProxy with *options* for the server."""

    def started(options: str, listen: str = "haproxy:tcp:0", **settings: str) -> BalancedDaemon:
        daemon = start(LISTEN=f"{listen}:interface=127.0.0.1", **settings)
        (server_port,) = daemon.listening()
        port, file = free_port(), tmp_path / "haproxy.cfg"
        file.write_text(
            CONFIGURATION.format(
                directory=tmp_path, port=port, server_port=server_port, options=options
            )
        )
        check_configuration("haproxy", "-c", "-f", str(file), warning="WARNING")
        haproxy = run("haproxy", "-db", "-f", str(file), port=port)
        one = BalancedDaemon(daemon, tmp_path, port)
        haproxy.until(lambda: one.state()[1] not in ("", "INI"))
        return one

    return started


@pytest.mark.parametrize("options", VERSIONS)
def test_client_has_its_own_address_and_checks_that_of_haproxy(
    balance: Balance, options: str
) -> None:
    balanced = balance(options)
    assert balanced.state() == ("UP", "L7OK")
    with balanced.connect() as client:
        client.sendall(REQUEST)
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert balanced.logged() == {"/health": "127.0.0.1", "/health?client": CLIENT}
    balanced.daemon.send(signal.SIGTERM)
    balanced.daemon.ended()
    assert_clean(balanced.daemon)


@pytest.mark.parametrize("options", VERSIONS)
def test_client_on_haproxys_unix_socket_has_the_address_of_haproxy(
    balance: Balance, options: str
) -> None:
    balanced = balance(options)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(balanced.directory / "front.sock"))
        client.sendall(REQUEST)
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert set(balanced.logged().values()) == {"127.0.0.1"}
    assert_clean(balanced.daemon)


@pytest.mark.parametrize("options", VERSIONS)
def test_header_precedes_tls(
    balance: Balance, tmp_path: Path, authority: Authority, options: str
) -> None:
    (tmp_path / "own.pem").write_bytes(authority.good().pem)
    balanced = balance(f"{options} check-ssl verify none", "haproxy:ssl:0:privateKey=own.pem")
    assert balanced.state() == ("UP", "L7OK")
    context = ssl.create_default_context(cafile=str(authority.pem))
    with (
        balanced.connect() as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(REQUEST)
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert balanced.logged() == {"/health": "127.0.0.1", "/health?client": CLIENT}
    assert_clean(balanced.daemon)


def test_haproxy_that_is_not_trusted_is_served_nothing(balance: Balance) -> None:
    balanced = balance("send-proxy-v2", TRUSTED_PROXIES="192.0.2.1")
    assert balanced.state()[0] == "DOWN"
    with balanced.connect() as client:
        client.sendall(REQUEST)
        assert client.recv(100) == b""
    balanced.daemon.until(lambda: balanced.daemon.messages("warn"))
    (warning,) = balanced.daemon.messages("warn")
    assert "a connection from 127.0.0.1 to haproxy:tcp:0" in warning
    assert "the sender is not in TRUSTED_PROXIES" in warning
    assert balanced.daemon.requests == []


def test_haproxy_without_the_header_is_served_nothing(balance: Balance) -> None:
    balanced = balance("")
    assert balanced.state()[0] == "DOWN"
    balanced.daemon.until(lambda: balanced.daemon.messages("warn"))
    (warning,) = balanced.daemon.messages("warn")
    assert "turn the PROXY protocol on in the load balancer" in warning
    assert balanced.daemon.requests == []
