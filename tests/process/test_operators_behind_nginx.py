"""Operators' endpoints and client addresses behind a real nginx on the same machine.

The tests are skipped without nginx.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.process.daemon_process import ON_LOOPBACK, TIMEOUT_SECONDS, Start, eventually, start
from tests.support.ports import free_port

__all__ = ["start"]  # a fixture

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
]

CONFIGURATION = """
user root;
daemon off;
master_process off;
pid nginx.pid;
error_log error.log error;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {to};
            {settings}
        }}
    }}
}}
"""
APPEND = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"

Nginx = Callable[[str, str], int]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """Start nginx in front of a URL with the settings of its location, and return its port."""
    directory = tmp_path / "nginx"
    directory.mkdir()
    running = []

    def started(to: str, settings: str) -> int:
        port = free_port()
        text = CONFIGURATION.format(port=port, to=to, settings=settings)
        (directory / "nginx.conf").write_text(text)
        arguments = ["nginx", "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"]
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
        running.append(process)
        eventually(lambda: accepts(port))
        return port

    yield started
    for process in running:
        process.kill()
        process.wait(TIMEOUT_SECONDS)


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def status(port: int, method: str, path: str, forwarded_for: str = "") -> int:
    """Return the status of the response to one request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        headers = {"X-Forwarded-For": forwarded_for} if forwarded_for else {}
        connection.request(method, path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("settings", ["", APPEND], ids=["bare", "appending"])
def test_forged_address_gives_no_access_to_operator_endpoints(
    start: Start, nginx: Nginx, settings: str
) -> None:
    (direct,) = start().listening()
    port = nginx(f"http://127.0.0.1:{direct}", settings)
    for forged in ("127.0.0.1", "10.1.2.3", "::1"):
        assert status(port, "GET", "/stats", forged) == 403
        assert status(port, "DELETE", "/cache", forged) == 403
    if settings:
        assert status(port, "GET", "/stats") == 403
    assert status(direct, "GET", "/stats") == 200


def test_bare_proxy_pass_reaches_no_operator_endpoint_with_admin_listen(
    start: Start, nginx: Nginx
) -> None:
    direct, operators = start(ADMIN_LISTEN=ON_LOOPBACK).listening(2)
    port = nginx(f"http://127.0.0.1:{direct}", "")
    assert status(port, "GET", "/stats") == 404
    assert status(port, "DELETE", "/cache") == 404
    assert status(port, "GET", "/health") == 200
    assert status(operators, "GET", "/stats") == 200
    assert status(operators, "GET", "/v1/models") == 404


def test_clients_behind_a_trusted_unix_socket_have_their_own_rate_limit(
    start: Start, nginx: Nginx, tmp_path: Path
) -> None:
    path = tmp_path / "daemon.sock"
    process = start(LISTEN=f"unix:{path}", TRUSTED_PROXIES="unix 127.0.0.1", RATE_LIMIT="1")
    process.listening()
    port = nginx(f"http://unix:{path}:/", APPEND)
    seen = [status(port, "GET", "/stats", address) for address in ("192.0.2.1", "192.0.2.2") * 2]
    assert seen == [403, 403, 429, 429]
    process.until(lambda: len(process.requests) == 4)
    assert {line["client"] for line in process.requests} == {"192.0.2.1", "192.0.2.2"}
