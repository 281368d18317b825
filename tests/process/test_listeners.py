"""Each kind of endpoint with curl, and certificates that are replaced under load."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection, RemoteDisconnected
from pathlib import Path

import attrs
import pytest

from tests.integration.test_dual_stack import needs_ipv6
from tests.process.daemon_process import (
    TIMEOUT_SECONDS,
    DaemonProcess,
    Start,
    assert_clean,
    start,
)
from tests.process.programs import needs
from tests.process.test_restart import SocketUnit, unit, wait_until_listening
from tests.support.authority import Authority

__all__ = ["start", "unit"]  # the fixtures

pytestmark = pytest.mark.process

curl_is_needed = needs("curl")


def curl(*arguments: str) -> str:
    """Return the status of the response, or an empty text where curl fails."""
    done = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS * 2,
        check=False,
    )
    return "" if done.returncode else done.stdout


def clients(process: DaemonProcess, count: int) -> list[str]:
    """Return the addresses in the access log, once it has *count* lines."""
    process.until(lambda: len(process.requests) >= count)
    return [line["client"] for line in process.requests]


@needs_ipv6
@curl_is_needed
def test_tcp6(start: Start) -> None:
    process = start(LISTEN=r"tcp6:0:interface=\:\:1")
    (port,) = process.listening()
    assert curl(f"http://[::1]:{port}/health") == "200"
    assert clients(process, 1) == ["::1"]


@curl_is_needed
def test_unix(start: Start, tmp_path: Path) -> None:
    process = start(LISTEN="unix:web.sock")
    wait_until_listening(process)
    path = str(tmp_path / "web.sock")
    assert curl("--unix-socket", path, "http://localhost/health") == "200"
    assert clients(process, 1) == ["local"]


@curl_is_needed
def test_ssl(start: Start, tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "own.pem").write_bytes(authority.good().pem)
    process = start(LISTEN="ssl:0:interface=127.0.0.1:privateKey=own.pem")
    (port,) = process.listening()
    trusted = ("--cacert", str(authority.pem))
    for versions in ((), ("--tls-max", "1.2"), ("--tlsv1.3",), ("--http2",)):
        assert curl(*trusted, *versions, f"https://localhost:{port}/health") == "200"
    assert curl("--tls-max", "1.1", *trusted, f"https://localhost:{port}/health") == ""
    assert curl(f"https://localhost:{port}/health") == ""
    assert_clean(process)


@curl_is_needed
def test_ssl_with_client_certificate(start: Start, tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "own.pem").write_bytes(authority.good().pem)
    (tmp_path / "client.pem").write_bytes(authority.issue_unchecked("client.test").pem)
    process = start(
        LISTEN="ssl:0:interface=127.0.0.1:privateKey=own.pem", TLS_CLIENT_CA=str(authority.pem)
    )
    (port,) = process.listening()
    arguments = ("--cacert", str(authority.pem), f"https://localhost:{port}/health")
    assert curl("--cert", str(tmp_path / "client.pem"), *arguments) == "200"
    assert curl(*arguments) == ""
    process.until(lambda: process.requests)
    assert [line["client_subject"] for line in process.requests] == ["CN=leaf"]
    assert_clean(process)


@curl_is_needed
def test_proxy_protocol(start: Start, tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "own.pem").write_bytes(authority.good().pem)
    listen = (
        "haproxy:tcp:0:interface=127.0.0.1 "
        "haproxy:ssl:0:interface=127.0.0.1:privateKey=own.pem "
        r"haproxy:tcp46:0"
    )
    process = start(LISTEN=listen)
    plain, secured, dual = process.listening(3)
    header = "--haproxy-protocol"
    assert curl(header, f"http://127.0.0.1:{plain}/health") == "200"
    assert curl(header, f"http://127.0.0.1:{dual}/health") == "200"
    trusted = ("--cacert", str(authority.pem), "--ipv4")
    assert curl(header, *trusted, f"https://localhost:{secured}/health") == "200"
    assert clients(process, 3) == ["127.0.0.1"] * 3
    assert_clean(process)
    assert curl(f"http://127.0.0.1:{plain}/health") == ""


def test_passed_socket_with_proxy_protocol(unit: SocketUnit) -> None:
    process = unit.start("haproxy:systemd:domain=INET:index=0")
    assert process.listening() == [unit.port]
    with socket.create_connection(("127.0.0.1", unit.port), TIMEOUT_SECONDS) as client:
        client.sendall(b"PROXY TCP6 2001:db8::7 ::1 5 443\r\nGET /health HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert clients(process, 1) == ["2001:db8::7"]
    process.send(signal.SIGTERM)
    process.ended()
    assert_clean(process)


# Certificates that are replaced under load.


@attrs.define
class TLSClient:
    """Sends requests until told to stop.

    :ivar keeps: whether the client keeps its connection.
    :ivar served: the certificates of its connections.
    """

    port: int
    context: ssl.SSLContext
    keeps: bool
    answered: int = 0
    served: set[bytes] = attrs.field(factory=set)
    failures: list[str] = attrs.field(factory=list)

    def run(self, stop: threading.Event) -> None:
        connection: HTTPSConnection | None = None
        while not stop.is_set():
            try:
                if connection is None:
                    connection = HTTPSConnection(
                        "localhost", self.port, context=self.context, timeout=TIMEOUT_SECONDS
                    )
                connection.request("GET", "/health")
                answer = connection.getresponse()
                answer.read()
                certificate = connection.sock.getpeercert(True) if connection.sock else None
                self.served.add(certificate or b"")
                self.answered += answer.status == 200
            except (OSError, RemoteDisconnected) as error:
                self.failures.append(repr(error))
                connection = None
                continue
            if not self.keeps:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


@contextmanager
def tls_load(port: int, roots: Path, count: int) -> Iterator[list[TLSClient]]:
    """Run *count* clients; every second one keeps its connection."""
    stop = threading.Event()
    context = ssl.create_default_context(cafile=str(roots))
    running = [TLSClient(port, context, number % 2 == 0) for number in range(count)]
    threads = [threading.Thread(target=each.run, args=(stop,)) for each in running]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT_SECONDS)


@pytest.mark.parametrize("by_signal", [True, False])
def test_certificate_is_replaced_under_load_without_a_failure(
    start: Start, tmp_path: Path, authority: Authority, by_signal: bool
) -> None:
    file, new = tmp_path / "own.pem", tmp_path / "new.pem"
    file.write_bytes(authority.good().pem)
    process = start(LISTEN="ssl:0:interface=127.0.0.1:privateKey=own.pem", LOG_LEVEL="info")
    (port,) = process.listening()
    swaps = 3 if by_signal else 1
    with tls_load(port, authority.pem, 6) as running:
        for number in range(swaps):
            process.until(lambda: all(each.answered or each.failures for each in running))
            new.write_bytes(authority.good().pem)
            new.rename(file)
            if by_signal:
                process.send(signal.SIGHUP)
            process.until(lambda n=number: process.out.count("certificate reloaded") > n)
            before = [each.answered for each in running]
            process.until(
                lambda seen=before: all(
                    each.answered > count + 5 or each.failures
                    for each, count in zip(running, seen, strict=True)
                )
            )
    assert [each.failures for each in running] == [[]] * 6
    for each in running:
        assert len(each.served) == (1 if each.keeps else swaps + 1)
    assert_clean(process)
