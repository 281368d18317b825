"""``TLS_CLIENT_CA``: certificates of clients, with Python's own TLS client."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, globalLogPublisher

from goproxyai.config.settings import Settings
from goproxyai.config.variable import SettingError
from goproxyai.daemon.endpoints import ListenError, parse_endpoints
from goproxyai.daemon.listeners import Listeners
from tests.support.authority import Authority, Identity, self_signed
from tests.support.harness import ProxyHarness, eventually, lines, request

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects is deprecated")

TIMEOUT_SECONDS = 10.0

TLS_VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@attrs.define(eq=False)
class Clients:
    """TLS clients of a daemon that trusts client certificates of *authority*."""

    harness: ProxyHarness
    authority: Authority
    directory: Path

    async def start(self, **texts: str) -> None:
        file = self.directory / "own.pem"
        file.write_bytes(self.harness.authority.good().pem)
        listen = f"ssl:0:interface=127.0.0.1:privateKey={file}"
        texts.setdefault("TLS_CLIENT_CA", str(self.authority.pem))
        await self.harness.start(LISTEN=listen, **texts)

    async def ask(
        self, identity: Identity | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> bytes:
        """Return the status line; empty if TLS fails or the connection is closed."""
        context = ssl.create_default_context(cafile=str(self.harness.authority.pem))
        context.minimum_version = context.maximum_version = version
        if identity is not None:
            file = self.directory / "client.pem"
            file.write_bytes(identity.pem)
            context.load_cert_chain(file)
        return await deferToThread(ask, context, self.harness.port)


def ask(context: ssl.SSLContext, port: int) -> bytes:
    try:
        with (
            socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            secured.sendall(request("/health"))
            return secured.recv(100).partition(b"\r\n")[0]
    except (ssl.SSLError, ConnectionError):
        return b""


@pytest.fixture
def clients(
    harness: ProxyHarness, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> Clients:
    return Clients(harness, Authority(tmp_path_factory.mktemp("clients")), tmp_path)


@pytest.fixture
def debug_lines() -> Iterator[Callable[[], list[str]]]:
    """Return the log of all levels."""
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield lambda: [line for line in lines(events) if "TLS with" in line]
    globalLogPublisher.removeObserver(events.append)


@pytest.mark.parametrize("version", TLS_VERSIONS)
@pytest_twisted.ensureDeferred
async def test_certificate_of_the_ca_is_admitted_and_logged(
    clients: Clients, version: ssl.TLSVersion
) -> None:
    await clients.start()
    identity = clients.authority.issue_unchecked("client.test")
    assert await clients.ask(identity, version) == b"HTTP/1.1 200 OK"
    (event,) = await clients.harness.logged()
    assert event["client_subject"] == "CN=leaf"


@pytest.mark.parametrize("version", TLS_VERSIONS)
@pytest.mark.parametrize("kind", ["none", "self-signed", "of another CA", "expired"])
@pytest_twisted.ensureDeferred
async def test_other_client_is_refused_and_reported_at_the_level_debug(
    clients: Clients,
    kind: str,
    version: ssl.TLSVersion,
    debug_lines: Callable[[], list[str]],
) -> None:
    await clients.start()
    identity = {
        "none": None,
        "self-signed": self_signed(),
        "of another CA": clients.harness.authority.good(),
        "expired": clients.authority.expired(),
    }[kind]
    assert await clients.ask(identity, version) == b""
    await eventually(clients.harness.reactor, debug_lines)
    (line,) = debug_lines()
    assert line.startswith("debug: TLS with 127.0.0.1 failed: ")
    assert "certificate" in line
    assert clients.harness.events == []
    assert await clients.ask(clients.authority.good(), version) == b"HTTP/1.1 200 OK"


@pytest_twisted.ensureDeferred
async def test_without_client_ca_no_certificate_is_needed(clients: Clients) -> None:
    await clients.start(TLS_CLIENT_CA="")
    assert await clients.ask(None) == b"HTTP/1.1 200 OK"
    (event,) = await clients.harness.logged()
    assert "client_subject" not in event


@pytest_twisted.ensureDeferred
async def test_changed_client_ca_is_used_after_a_reload(clients: Clients) -> None:
    file = clients.directory / "ca.pem"
    file.write_bytes(clients.authority.pem.read_bytes())
    await clients.start(TLS_CLIENT_CA=str(file))
    identity = clients.authority.good()
    assert await clients.ask(identity) == b"HTTP/1.1 200 OK"
    file.write_bytes(clients.harness.authority.pem.read_bytes())
    assert clients.harness.daemon is not None
    clients.harness.daemon.listeners.renew_certificates()
    assert await clients.ask(identity) == b""
    assert await clients.ask(clients.harness.authority.good()) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_unusable_client_ca_ends_the_start(
    content: bytes | None, authority: Authority, tmp_path: Path
) -> None:
    from twisted.internet import reactor

    own, ca = tmp_path / "own.pem", tmp_path / "ca.pem"
    own.write_bytes(authority.good().pem)
    if content is not None:
        ca.write_bytes(content)
    description = f"ssl:0:interface=127.0.0.1:privateKey={own}"
    endpoints = parse_endpoints(reactor, (description,), client_ca=str(ca))
    factory: Any = Factory()
    with pytest.raises(ListenError, match=r"cannot listen on ssl:0:.*ca\.pem") as caught:
        Listeners(reactor, endpoints, factory).listen()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("listen", ["tcp:0", "haproxy:tcp:0", "unix:/ssl:"])
def test_client_ca_without_tls_is_refused(listen: str) -> None:
    with pytest.raises(SettingError, match=r"TLS_CLIENT_CA is 'ca.pem', expected an ssl: endpoint"):
        Settings.from_texts({"TLS_CLIENT_CA": "ca.pem", "LISTEN": listen})
    for listener in ("LISTEN", "ADMIN_LISTEN"):
        texts = {"TLS_CLIENT_CA": "ca.pem", listener: f"{listen} haproxy:ssl:0"}
        assert Settings.from_texts(texts).tls_client_ca == "ca.pem"
