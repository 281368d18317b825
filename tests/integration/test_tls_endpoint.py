"""``ssl:`` endpoints: the end of connections, and certificates that are read again."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import capturedLogs, eventAsText

from goproxyai.daemon.endpoints import parse_endpoints
from goproxyai.daemon.listeners import WATCH_SECONDS, Listeners
from goproxyai.daemon.tls_endpoint import certificate_files
from goproxyai.egress.tls import ClientTLS
from goproxyai.reactor.tls_transport import TLSClientEndpoint
from tests.integration.hashing_client import HashingClient
from tests.integration.proxied_connections import upstream_side
from tests.support.authority import Authority
from tests.support.harness import ProxyHarness, RawClient, eventually, lines, request
from tests.support.prompt import PROMPT_SECONDS
from tests.support.steps import Pause, Reset, Stream

# Twisted's parser of ``ssl:`` endpoints hands pyOpenSSL's deprecated types to pyOpenSSL.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects is deprecated")


@attrs.define(eq=False)
class TLSListener:
    """The daemon's factory on an ``ssl:`` endpoint of its own.

    :ivar file: the key and the certificate.
    """

    harness: ProxyHarness
    file: Path
    listeners: Listeners

    async def connect(self, client: RawClient | None = None) -> Any:
        """Return a new client, or *client*."""
        (address,) = self.listeners.addresses
        options = optionsForClientTLS("localhost", self.harness.authority.trust_root())
        endpoint = TCP4ClientEndpoint(self.harness.reactor, "127.0.0.1", address.port)
        connected: Any = await connectProtocol(
            wrapClientTLS(options, endpoint), client or RawClient(self.harness.reactor)
        )
        return connected

    async def served(self) -> Any:
        """Return the certificate of a new connection, on which a request is answered."""
        client = await self.connect()
        client.send(request("/health"))
        assert (await client.answer()).status == 200
        certificate = client.transport.getPeerCertificate()
        client.abort()
        await client.wait_closed()
        return certificate.get_serial_number()

    def route(self) -> TLSClientEndpoint:
        """Return an endpoint whose connections resume the sessions of earlier ones."""
        (address,) = self.listeners.addresses
        tcp = TCP4ClientEndpoint(self.harness.reactor, "127.0.0.1", address.port)
        return TLSClientEndpoint(ClientTLS("localhost", self.harness.authority.trust_root()), tcp)

    async def resumes(self, route: TLSClientEndpoint) -> bool:
        """Return whether a new connection by *route*, which is served, resumes a session."""
        client: Any = await connectProtocol(route, RawClient(self.harness.reactor))
        client.send(request("/health"))
        assert (await client.answer()).status == 200
        resumed = bool(SSL._lib.SSL_session_reused(client.transport.getHandle()._ssl))  # type: ignore[attr-defined]
        client.transport.loseConnection()  # OpenSSL forgets the session of an aborted connection
        await client.wait_closed()
        return resumed

    def renew(self, only_changed: bool = False) -> list[str]:
        """Return what renewing logs."""
        with capturedLogs() as events:
            self.listeners.renew_certificates(only_changed)
        return [f"{event['log_level'].name} {eventAsText(event)}" for event in events]


@pytest_twisted.async_yield_fixture
async def tls(harness: ProxyHarness, tmp_path: Path) -> AsyncIterator[TLSListener]:
    await harness.start()
    assert harness.daemon is not None
    file = tmp_path / "own.pem"
    file.write_bytes(harness.authority.good().pem)
    endpoints = parse_endpoints(harness.reactor, (f"ssl:0:interface=127.0.0.1:privateKey={file}",))
    listeners = Listeners(harness.reactor, endpoints, harness.daemon.listeners.factory)
    listeners.listen()
    yield TLSListener(harness, file, listeners)
    await listeners.close()


@pytest_twisted.ensureDeferred
async def test_body_that_breaks_off_is_a_lost_connection_for_the_client(
    tls: TLSListener,
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    tls.harness.upstream.script("/v1/models", [head + b"part", Reset()], times=1)
    client = await tls.connect()
    client.send(request().replace(b"HTTP/1.1", b"HTTP/1.0"))
    await client.wait_closed()
    assert client.received.endswith(b"part")
    assert client.reason.type is ConnectionLost


@pytest_twisted.ensureDeferred
async def test_complete_response_ends_with_close_notify(tls: TLSListener) -> None:
    client = await tls.connect()
    client.send(request().replace(b"HTTP/1.1", b"HTTP/1.0"))
    await client.wait_closed()
    assert client.reason.type is ConnectionDone


@pytest_twisted.ensureDeferred
async def test_slow_reader_over_tls_pauses_the_upstream_and_loses_nothing(
    tls: TLSListener,
) -> None:
    harness, sent = tls.harness, list[int]()
    piece, times = bytes(range(256)) * 256, 512
    size = len(piece) * times
    harness.upstream.script(
        "/v1/a",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size,
            Stream(piece, times, sent.append),
        ],
    )
    client = await tls.connect(HashingClient(harness.reactor))
    client.send(request("/v1/a"))
    await client.until(lambda: client.head)
    client.transport.pauseProducing()
    await eventually(
        harness.reactor, lambda: len(harness.pool) == 1 and upstream_side(harness).reading_paused
    )
    assert len(sent) < times
    client.transport.resumeProducing()
    await client.until(lambda: client.count == size)
    assert client.sha256 == hashlib.sha256(piece * times).hexdigest()


@pytest.mark.parametrize("orderly", [False, True], ids=["reset", "close_notify"])
@pytest_twisted.ensureDeferred
async def test_end_of_a_client_over_tls_ends_the_upstream_request(
    tls: TLSListener, orderly: bool
) -> None:
    tls.harness.upstream.script("/v1/a", [Pause()])
    client = await tls.connect()
    client.send(request("/v1/a"))
    await tls.harness.upstream.wait_for(lambda seen: seen.paused)
    (client.transport.loseConnection if orderly else client.abort)()
    await tls.harness.upstream.wait_for(lambda seen: seen.lost, timeout=PROMPT_SECONDS)
    assert [each["ended"] for each in await tls.harness.logged()] == ["client_gone"]


@pytest_twisted.ensureDeferred
async def test_clients_resume_sessions(tls: TLSListener) -> None:
    route = tls.route()
    assert [await tls.resumes(route) for _ in range(3)] == [False, True, True]


@pytest_twisted.ensureDeferred
async def test_sessions_end_with_the_certificate(tls: TLSListener, authority: Authority) -> None:
    route = tls.route()
    await tls.resumes(route)
    tls.file.write_bytes(authority.good().pem)
    tls.renew()
    assert not await tls.resumes(route)
    assert await tls.resumes(route)


@pytest_twisted.ensureDeferred
async def test_renewed_certificate_is_served_to_new_connections(
    tls: TLSListener, authority: Authority
) -> None:
    first = await tls.served()
    assert await tls.served() == first
    tls.file.write_bytes(authority.good().pem)
    assert await tls.served() == first
    (line,) = tls.renew()
    assert "info " in line
    assert "certificate reloaded for ssl:0:" in line
    assert await tls.served() != first


@pytest.mark.parametrize("content", [b"", b"text"])
@pytest_twisted.ensureDeferred
async def test_invalid_certificate_is_logged_and_the_previous_one_stays(
    tls: TLSListener, content: bytes
) -> None:
    first = await tls.served()
    tls.file.write_bytes(content)
    (line,) = tls.renew()
    assert "error " in line
    assert "certificate not reloaded, the previous one stays in use: OpenSSL: " in line
    assert await tls.served() == first
    tls.file.unlink()
    (line,) = tls.renew()
    assert "No such file or directory: " in line
    assert await tls.served() == first


@pytest_twisted.ensureDeferred
async def test_changed_file_is_read_once_it_is_left_alone(
    tls: TLSListener, authority: Authority
) -> None:
    first = await tls.served()
    assert tls.renew(only_changed=True) == []
    tls.file.write_bytes(authority.good().pem)
    assert tls.renew(only_changed=True) == []
    (line,) = tls.renew(only_changed=True)
    assert "certificate reloaded for ssl:0:" in line
    assert await tls.served() != first
    assert tls.renew(only_changed=True) == []


@pytest_twisted.ensureDeferred
async def test_file_that_cannot_be_used_is_reported_once(
    tls: TLSListener, authority: Authority
) -> None:
    first = await tls.served()
    for content, problem in ((b"text", "OpenSSL: "), (None, "No such file or directory: ")):
        if content is None:
            tls.file.unlink()
        else:
            tls.file.write_bytes(content)
        assert tls.renew(only_changed=True) == []
        (line,) = tls.renew(only_changed=True)
        assert "certificate not reloaded, the previous one stays in use" in line
        assert problem in line
        for _ in range(3):
            assert tls.renew(only_changed=True) == []
    assert await tls.served() == first
    replacement = tls.file.with_suffix(".new")
    replacement.write_bytes(authority.good().pem)
    replacement.rename(tls.file)
    logged = [line for _ in range(3) for line in tls.renew(only_changed=True)]
    assert len(logged) == 1
    assert await tls.served() != first


@pytest_twisted.ensureDeferred
async def test_files_that_are_hidden_from_the_user_are_not_read(
    tls: TLSListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("goproxyai.daemon.tls_endpoint.os.stat", refuse)
    for _ in range(3):
        assert tls.renew(only_changed=True) == []


@pytest_twisted.ensureDeferred
async def test_key_of_another_certificate_is_not_used(
    harness: ProxyHarness, tmp_path: Path
) -> None:
    await harness.start()
    assert harness.daemon is not None
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    identity = harness.authority.good().pem
    for file in (key, certificate):
        file.write_bytes(identity)
    string = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    listeners = Listeners(
        harness.reactor,
        parse_endpoints(harness.reactor, (string,)),
        harness.daemon.listeners.factory,
    )
    listeners.listen()
    tls = TLSListener(harness, key, listeners)
    first = await tls.served()
    key.write_bytes(key_of(harness.authority.good().pem))
    certificate.write_bytes(certificate_of(identity))
    logged = [line for _ in range(4) for line in tls.renew(only_changed=True)]
    assert len(logged) == 1
    assert "certificate not reloaded" in logged[0]
    assert await tls.served() == first
    await listeners.close()


def key_of(pem: bytes) -> bytes:
    return pem[: pem.index(b"-----BEGIN CERTIFICATE")]


def certificate_of(pem: bytes) -> bytes:
    return pem[pem.index(b"-----BEGIN CERTIFICATE") :]


@pytest_twisted.ensureDeferred
async def test_running_daemon_looks_at_the_files(
    skewed_harness: ProxyHarness, tmp_path: Path
) -> None:
    harness, file = skewed_harness, tmp_path / "own.pem"
    file.write_bytes(harness.authority.good().pem)
    await harness.start(LISTEN=f"ssl:0:interface=127.0.0.1:privateKey={file}")
    assert harness.daemon is not None
    watch = harness.daemon.listeners._watch
    assert watch.running
    assert watch.interval == WATCH_SECONDS
    file.write_bytes(harness.authority.good().pem)
    with capturedLogs() as events:
        watch.f(*watch.a, **watch.kw)
        watch.f(*watch.a, **watch.kw)
    assert any("certificate reloaded" in line for line in lines(events))


@pytest.mark.parametrize(
    ("description", "files"),
    [
        ("ssl:1", ("server.pem",)),
        ("ssl:1:privateKey=a", ("a",)),
        ("ssl:port=1:privateKey=/a/b.pem:certKey=c:interface=::", ("/a/b.pem", "c")),
        (r"ssl:1:privateKey=C\:\=\\a:extraCertChain=d:dhParameters=e", ("C:=\\a", "d", "e")),
        ("ssl:1:a:b", ("a", "b")),
    ],
)
def test_files_of_an_endpoint_string(description: str, files: tuple[str, ...]) -> None:
    assert certificate_files(description) == files


def weak_identity() -> bytes:
    """Return a key and a certificate that are valid, but too weak for OpenSSL."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return pem + certificate.public_bytes(Encoding.PEM)


def test_endpoint_that_does_not_listen_is_not_renewed(tmp_path: Path, authority: Authority) -> None:
    from twisted.internet import reactor

    file = tmp_path / "own.pem"
    file.write_bytes(authority.good().pem)
    ((_, endpoint),) = parse_endpoints(reactor, (f"ssl:0:privateKey={file}",))
    file.unlink()
    endpoint.renew()  # type: ignore[attr-defined]


@pytest_twisted.ensureDeferred
async def test_key_that_openssl_refuses_fails_when_listening(tmp_path: Path) -> None:
    from twisted.internet import reactor

    file = tmp_path / "weak.pem"
    file.write_bytes(weak_identity())
    ((_, endpoint),) = parse_endpoints(reactor, (f"ssl:0:privateKey={file}",))
    with pytest.raises(Exception, match="too small"):
        await endpoint.listen(Factory())
