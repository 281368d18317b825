"""What TLS tells about a client: its certificate, and why its handshake failed."""

from __future__ import annotations

from typing import Any, Final

from OpenSSL.SSL import Error
from twisted.logger import Logger
from twisted.python.failure import Failure

MAX_SUBJECT_CHARACTERS: Final = 256

_log = Logger(namespace="goproxyai")


def certificate_subject(transport: Any) -> str:
    """Return the subject of the client's certificate as RFC 4514 writes it.

    Longer ones are cut off after :data:`MAX_SUBJECT_CHARACTERS`. Empty without a certificate.
    """
    certificate = transport.getPeerCertificate()
    if certificate is None:
        return ""
    subject: str = certificate.to_cryptography().subject.rfc4514_string()
    return subject[:MAX_SUBJECT_CHARACTERS]


def log_tls_failure(peer: str, reason: Failure) -> None:
    """Log at the level debug that TLS with *peer* failed, if *reason* says so."""
    error = reason.value
    if not isinstance(error, Error) or not error.args:
        return
    stack = error.args[0]  # tuples of library, function and reason
    problem = ", ".join([each for *_, each in stack]) if isinstance(stack, list) else str(error)
    _log.debug("TLS with {peer} failed: {problem}", peer=peer, problem=problem)
