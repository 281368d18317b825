"""The one place that turns an exception into an answer."""

from __future__ import annotations

from OpenSSL.SSL import Error as OpenSSLError
from service_identity import VerificationError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.python.failure import Failure

from goproxyai.errors import ProxyError
from goproxyai.http11.errors import ConnectionBroken, ProtocolViolation, UpstreamTimeout
from goproxyai.messages.connect import ConnectMalformed, ConnectRefused
from goproxyai.messages.redaction import masked


def proxy_error_for(failure: Failure) -> ProxyError:
    """What the client is told about *failure*; ``internal_error`` where it is our own defect."""
    error = failure.value
    while isinstance(error, ConnectionBroken):
        error = error.reason.value
    detail = masked(f"{type(error).__name__}: {error}")[:500]
    if isinstance(error, ProxyError):
        return ProxyError(error.code, error.message, error.headers, error.detail or detail)
    code, message = _told(error)
    return ProxyError(code, message, detail=detail)


def _told(error: BaseException | None) -> tuple[str, str]:
    match error:
        case UpstreamTimeout():
            return "upstream_timeout", (
                f"Waiting for {error} took too long; try again, "
                "or raise REQUEST_TIMEOUT or CONNECT_TIMEOUT."
            )
        case ConnectTimeout() | DeferredTimeout():
            return "upstream_timeout", "Connecting to upstream took too long; try again."
        case ConnectRefused():
            return "egress_proxy_refused", (
                f"The egress proxy answered with status {error.status}; "
                "check PROXY_URL and its credentials."
            )
        case ConnectMalformed():
            return "egress_proxy_refused", (
                "The egress proxy's answer to CONNECT is none; check PROXY_URL."
            )
        case OpenSSLError() | VerificationError():
            return "upstream_tls_failed", (
                "TLS with upstream (or the egress proxy) failed: its certificate or the handshake "
                "did not hold; check OPENAI_API_URL, PROXY_URL and SSL_CERT_FILE."
            )
        case ProtocolViolation():
            return "upstream_protocol_error", f"Upstream did not speak HTTP/1.1: {error}."
        case DNSLookupError():
            return "upstream_unreachable", (
                "Upstream's name (or the egress proxy's) does not resolve; "
                "check OPENAI_API_URL, PROXY_URL and DNS."
            )
        case ConnectError():
            return "upstream_unreachable", (
                "No connection to upstream (or the egress proxy) could be made; try again."
            )
        case ConnectionClosed():
            return "upstream_unreachable", (
                "Upstream closed the connection before it answered; try again."
            )
    return "internal_error", "The proxy failed to handle this request; see its log."
