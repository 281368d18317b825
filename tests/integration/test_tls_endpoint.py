"""Certificates that are read again while the endpoint listens."""

from __future__ import annotations

import datetime
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
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import capturedLogs, eventAsText

from goproxyai.daemon.endpoints import parse_endpoints
from goproxyai.daemon.listeners import Listeners
from tests.support.authority import Authority
from tests.support.harness import ProxyHarness, RawClient, request

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

    async def served(self) -> Any:
        """Return the certificate of a new connection, on which a request is answered."""
        (address,) = self.listeners.addresses
        options = optionsForClientTLS("localhost", self.harness.authority.trust_root())
        endpoint = TCP4ClientEndpoint(self.harness.reactor, "127.0.0.1", address.port)
        client: Any = await connectProtocol(
            wrapClientTLS(options, endpoint), RawClient(self.harness.reactor)
        )
        client.send(request("/health"))
        assert (await client.answer()).status == 200
        certificate = client.transport.getPeerCertificate()
        client.abort()
        await client.wait_closed()
        return certificate.get_serial_number()

    def renew(self) -> list[str]:
        """Return what renewing logs."""
        with capturedLogs() as events:
            self.listeners.renew_certificates()
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
