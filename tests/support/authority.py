"""A throw-away certificate authority, and the certificates that go wrong in the usual ways."""

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
"""Whom :meth:`Authority.good` speaks for."""


@attrs.frozen
class Identity:
    """A private key and its certificate.

    :ivar pem: both, in PEM, the key first.
    """

    pem: bytes

    def options(self, alpn: Sequence[bytes] = (b"http/1.1",)) -> CertificateOptions:
        """A server's TLS context factory; *alpn* lists the protocols that it would speak."""
        # pyOpenSSL wants these types by now; Twisted's annotations still name the older ones.
        key: Any = load_pem_private_key(self.pem, None)
        certificate: Any = load_pem_x509_certificate(self.pem)
        return CertificateOptions(
            privateKey=key, certificate=certificate, acceptableProtocols=list(alpn)
        )


class Authority:
    """Issues certificates that are good for as long as somebody trusts :attr:`pem`.

    :param directory: where the root certificate's file is written.
    :ivar pem: that file, fit for ``SSL_CERT_FILE``.
    """

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.pem = directory / "throw-away-ca.pem"
        self._ca.cert_pem.write_to_path(self.pem)

    def trust_root(self) -> Certificate:
        """The ``trustRoot`` of Twisted clients that trust this authority and nobody else."""
        return Certificate.loadPEM(self._ca.cert_pem.bytes())

    def issue(self, *names: str, not_after: datetime.datetime | None = None) -> Identity:
        """A certificate for *names*: host names or IP addresses."""
        leaf = self._ca.issue_cert(*names, not_after=not_after)
        return Identity(leaf.private_key_and_cert_chain_pem.bytes())

    def good(self) -> Identity:
        """One that holds for each of :data:`NAMES`."""
        return self.issue(*NAMES)

    def wrong_name(self) -> Identity:
        """One for a host that is none of :data:`NAMES`."""
        return self.issue("somebody-else.test")

    def expired(self) -> Identity:
        """The right names, two decades late."""
        return self.issue(*NAMES, not_after=datetime.datetime(2005, 1, 1))


def self_signed(name: str = "localhost") -> Identity:
    """A certificate that no authority vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(2100, 1, 1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(private + certificate.public_bytes(Encoding.PEM))
