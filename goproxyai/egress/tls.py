"""TLS to upstreams and to egress proxies.

Certificates are verified with service-identity against the roots that OpenSSL finds: the system's,
or those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``. Connections use TLS 1.2 or later, SNI, and ALPN
``http/1.1``.

Twisted's ``optionsForClientTLS`` is not used. It refuses host names that are not valid IDNA, such
as those of Docker Compose (``my_service``) or ``a1--b``. It sends a trailing dot in SNI, and it
accepts a certificate without any name for every host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from ssl import OP_NO_RENEGOTIATION
from typing import Any, Final

import attrs
from cryptography.x509 import DNSName, IPAddress, SubjectAlternativeName
from OpenSSL.crypto import FILETYPE_ASN1, X509, dump_certificate, load_certificate
from OpenSSL.SSL import VERIFY_FAIL_IF_NO_PEER_CERT, VERIFY_PEER, Connection
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import (
    DNS_ID,
    DNSPattern,
    IPAddress_ID,
    IPAddressPattern,
    verify_service_identity,
)
from service_identity.pyopenssl import extract_patterns
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions, platformTrust
from twisted.python.failure import Failure
from zope.interface import implementer

CERTIFICATE_ERRORS: Final = (VerificationError, CertificateError)
"""The certificate is for another host, or for none."""

_UNTRUSTED: Final = {
    9: "the certificate is not valid yet",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the chain ends in a root certificate that is not trusted",
    20: "the issuer of the certificate is unknown",
    21: "the certificate cannot be verified: the chain is incomplete",
    23: "the certificate is revoked",
    24: "a CA certificate of the chain is invalid",
    66: "the key of the certificate is too weak",
    67: "the key of a CA certificate is too weak",
    68: "the signature of the certificate is too weak",
}
"""What OpenSSL's verify errors mean (``x509_vfy.h``). OpenSSL's own exception does not say it."""


def server_name(host: str) -> str:
    """Return the name of *host* in ``Host``, SNI and certificates: without a trailing dot."""
    return host.removesuffix(".")


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """Creates the TLS connections to one host.

    :param host: a name in ASCII, or an address.
    :param trust_root: as in Twisted's ``CertificateOptions``.
    :param application: the protocol inside of TLS, for ALPN; empty to send none.
    :raises ValueError: if *host* is not a valid server name.
    """

    def __init__(self, host: str, trust_root: Any, application: bytes = b"http/1.1") -> None:
        host = server_name(host)
        is_address = isIPAddress(host) or isIPv6Address(host)
        identity = IPAddress_ID(host) if is_address else DNS_ID(host)
        self._identity = identity
        self._sent_name = None if is_address else host.encode("ascii")  # RFC 6066 section 3
        self._application = application
        self._context = CertificateOptions(
            trustRoot=trust_root, enableSessionTickets=True
        ).getContext()
        self._context.set_options(OP_NO_RENEGOTIATION)  # of TLS 1.2; pyOpenSSL lacks the name
        # One callback for all connections: one of their own took 2.5 KB of each.
        self._context.set_verify(
            VERIFY_PEER | VERIFY_FAIL_IF_NO_PEER_CERT, _verify_callback(identity)
        )

    def clientConnectionForTLS(self, tlsProtocol: Any) -> Connection:
        """Return a connection that accepts certificates of the host only."""
        connection = Connection(self._context)
        if self._application:
            connection.set_alpn_protos([self._application])
        if self._sent_name is not None:
            connection.set_tlsext_host_name(self._sent_name)
        return connection

    def verify_resumed(self, connection: Connection) -> None:
        """Verify the name in the certificate of a resumed session.

        OpenSSL calls no callback then: the chain was verified when the session began.

        :raises Exception: one of :data:`CERTIFICATE_ERRORS`, or why the certificate is unreadable.
        """
        certificate = connection.get_peer_certificate()
        if certificate is None:
            raise CertificateError("the resumed session has no certificate")
        verify_service_identity(_read(certificate).names, [self._identity], [])

    def valid_seconds(self, connection: Connection) -> float:
        """Return how long the certificate of *connection* is valid."""
        certificate = connection.get_peer_certificate()
        if certificate is None:
            return 0.0
        return (_read(certificate).ends_at - datetime.now(UTC)).total_seconds()


def _verify_callback(
    identity: DNS_ID | IPAddress_ID,
) -> Callable[[Connection, Any, int, int, int], bool]:
    """Return what OpenSSL calls with each certificate of the chain, the host's own one last.

    The data of a connection is its TLS layer, which is told why the certificate is rejected.
    """

    def verify(tls: Connection, certificate: Any, number: int, depth: int, trusted: int) -> bool:
        problem: Exception
        if not trusted:
            problem = CertificateError(_UNTRUSTED.get(number, f"OpenSSL's verify error {number}"))
        elif depth:
            return True
        else:
            try:
                verify_service_identity(_read(certificate).names, [identity], [])
                return True
            except CERTIFICATE_ERRORS as error:
                problem = error
            except Exception as error:  # OpenSSL would ignore an exception, and accept
                problem = CertificateError(f"the certificate is unreadable: {type(error)}")
        tls.get_app_data().failVerification(Failure(problem.with_traceback(None)))
        return False

    return verify


@attrs.frozen(eq=False)
class _Certificate:
    """What is read of a certificate.

    :ivar names: the patterns that service-identity verifies.
    :ivar ends_at: when the certificate expires.
    """

    names: Sequence[DNSPattern | IPAddressPattern | Any]
    ends_at: datetime


def _read(certificate: X509) -> _Certificate:
    """Read *certificate*.

    :raises CertificateError: if no name is valid.
    """
    return _decode(dump_certificate(FILETYPE_ASN1, certificate))


@lru_cache(maxsize=64)
def _decode(encoded: bytes) -> _Certificate:
    """Decode a certificate; cached, because it takes a tenth of a resumed handshake."""
    certificate = load_certificate(FILETYPE_ASN1, encoded)
    return _Certificate(_patterns(certificate), certificate.to_cryptography().not_valid_after_utc)


def _patterns(certificate: X509) -> Sequence[DNSPattern | IPAddressPattern | Any]:
    """Return the names of *certificate*, without those that are invalid patterns.

    service-identity refuses a certificate with any invalid pattern. Private CAs issue certificates
    with ``*.internal`` alongside other names, of which one has to match (RFC 9525 §6.3).

    :raises CertificateError: if no name is valid.
    """
    try:
        return extract_patterns(certificate)
    except CertificateError:
        patterns = _valid_patterns(certificate)
        if not patterns:
            raise
        return patterns


def _valid_patterns(certificate: X509) -> list[DNSPattern | IPAddressPattern]:
    extensions = certificate.to_cryptography().extensions
    names = extensions.get_extension_for_class(SubjectAlternativeName).value
    patterns: list[DNSPattern | IPAddressPattern] = []
    for name in names.get_values_for_type(DNSName):
        with suppress(CertificateError):
            patterns.append(DNSPattern.from_bytes(name.encode("utf-8")))
    for address in names.get_values_for_type(IPAddress):
        if isinstance(address, (IPv4Address, IPv6Address)):  # not a network
            patterns.append(IPAddressPattern(address))
    return patterns


@lru_cache(maxsize=64)
def tls_to(host: str) -> IOpenSSLClientConnectionCreator:
    """Return client TLS for *host* that trusts the roots of the system.

    Cached, because OpenSSL reads the root certificates for each new context.

    :raises ValueError: if *host* is not a valid server name.
    """
    return ClientTLS(host, platformTrust())


@lru_cache(maxsize=64)
def tls_without_alpn(host: str) -> IOpenSSLClientConnectionCreator:
    """Return client TLS for *host* as :func:`tls_to` does, for a protocol without a name in ALPN.

    :raises ValueError: if *host* is not a valid server name.
    """
    return ClientTLS(host, platformTrust(), b"")
