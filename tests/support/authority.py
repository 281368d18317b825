"""A temporary certificate authority, and certificates that are valid or invalid in common ways."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import NameOID
from twisted.internet.ssl import Certificate, CertificateOptions

NAMES = ("localhost", "127.0.0.1", "::1", "api.openai.test", "proxy.test")
"""The subjects of :meth:`Authority.good`."""


@attrs.frozen
class Identity:
    """A private key and its certificate.

    :ivar pem: both in PEM, the key first.
    """

    pem: bytes

    def options(self, alpn: Sequence[bytes] = (b"http/1.1",)) -> CertificateOptions:
        """A server's TLS context factory that offers the protocols in *alpn*."""
        # pyOpenSSL takes cryptography's types; Twisted's annotations still name its own.
        key: Any = load_pem_private_key(self.pem, None)
        certificate: Any = load_pem_x509_certificate(self.pem)
        return CertificateOptions(
            privateKey=key, certificate=certificate, acceptableProtocols=list(alpn)
        )


class Authority:
    """Issues certificates for tests.

    :param directory: where the root certificate's file is written.
    :ivar pem: that file, for ``SSL_CERT_FILE``.
    """

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.pem = directory / "test-ca.pem"
        self._ca.cert_pem.write_to_path(self.pem)

    def trust_root(self) -> Certificate:
        """The ``trustRoot`` of Twisted clients that trust this authority only."""
        return Certificate.loadPEM(self._ca.cert_pem.bytes())

    def issue(self, *names: str, not_after: datetime.datetime | None = None) -> Identity:
        """A certificate for *names*, which are host names or IP addresses."""
        leaf = self._ca.issue_cert(*names, not_after=not_after)
        return Identity(leaf.private_key_and_cert_chain_pem.bytes())

    def issue_unchecked(self, *names: str) -> Identity:
        """A certificate for *names*, which need be no IDNA; without any for no host."""
        key = ec.generate_private_key(ec.SECP256R1())
        ca = load_pem_x509_certificate(self._ca.cert_pem.bytes())
        builder = _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")]), ca.subject)
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        ca_key: Any = load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        return _identity(key, builder.public_key(key.public_key()).sign(ca_key, hashes.SHA256()))

    def good(self) -> Identity:
        """A certificate for all of :data:`NAMES`."""
        return self.issue(*NAMES)

    def wrong_name(self) -> Identity:
        """A certificate for a host that is not in :data:`NAMES`."""
        return self.issue("other-host.test")

    def expired(self) -> Identity:
        """A certificate for :data:`NAMES` that expired in 2005."""
        return self.issue(*NAMES, not_after=datetime.datetime(2005, 1, 1))


def self_signed(name: str = "localhost") -> Identity:
    """A self-signed certificate for *name*."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = _builder(subject, subject).public_key(key.public_key())
    certificate = builder.add_extension(alternatives, critical=False).sign(key, hashes.SHA256())
    return _identity(key, certificate)


def _builder(subject: x509.Name, issuer: x509.Name) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(2100, 1, 1))
    )


def _identity(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Identity:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(private + certificate.public_bytes(Encoding.PEM))
