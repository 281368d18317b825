"""Clients' certificates and failed handshakes, in the log."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL.crypto import X509
from OpenSSL.SSL import Error, SysCallError, ZeroReturnError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from goproxyai.http11.tls_peer import (
    MAX_SUBJECT_CHARACTERS,
    certificate_subject,
    log_tls_failure,
)
from tests.support.authority import self_signed
from tests.support.harness import lines


class CertifiedTransport:
    def __init__(self, certificate: Any) -> None:
        self._certificate = certificate

    def getPeerCertificate(self) -> Any:
        return self._certificate


def certificate(name: str) -> X509:
    from cryptography.x509 import load_pem_x509_certificate

    return X509.from_cryptography(load_pem_x509_certificate(self_signed(name).pem))


def test_subject_is_that_of_the_certificate() -> None:
    assert certificate_subject(CertifiedTransport(certificate("a.example"))) == "CN=a.example"
    assert certificate_subject(CertifiedTransport(None)) == ""


def test_subject_is_bounded() -> None:
    class Name:
        def to_cryptography(self) -> Name:
            return self

        @property
        def subject(self) -> Name:
            return self

        def rfc4514_string(self) -> str:
            return "CN=" + "a" * 1000

    assert len(certificate_subject(CertifiedTransport(Name()))) == MAX_SUBJECT_CHARACTERS


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (Error([("SSL", "f", "bad certificate"), ("SSL", "g", "h")]), "bad certificate, h"),
        (SysCallError(-1, "Unexpected EOF"), "(-1, 'Unexpected EOF')"),
        (ZeroReturnError(), None),
        (Error(), None),
        (ConnectionDone(), None),
        (ConnectionLost(), None),
    ],
)
def test_failure_of_tls_is_logged_at_the_level_debug(error: Exception, logged: str | None) -> None:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        log_tls_failure("192.0.2.7", Failure(error))
    finally:
        globalLogPublisher.removeObserver(events.append)
    expected = [] if logged is None else [f"debug: TLS with 192.0.2.7 failed: {logged}"]
    assert lines(events) == expected
