"""The one place that turns an exception into a response.

:func:`proxy_error_for` classifies the exception, :func:`send_error` writes the response. A response
that has begun cannot be replaced, so :func:`fail_exchange` breaks its connection instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from OpenSSL.SSL import Error as OpenSSLError
from service_identity import CertificateError, VerificationError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.logger import Logger
from twisted.python.failure import Failure

from goproxyai.errors import ProxyError
from goproxyai.http11.errors import Awaited, ConnectionBroken, ProtocolViolation, UpstreamTimeout
from goproxyai.http11.exchange import Exchange
from goproxyai.messages import socks5
from goproxyai.messages.connect_errors import ConnectMalformed, ConnectRefused
from goproxyai.messages.headers import Headers
from goproxyai.messages.redaction import mask_credentials
from goproxyai.messages.socks5 import SocksMalformed, SocksRefused
from goproxyai.proxy.response_head import cache_lines, own_lines, own_status_line
from goproxyai.proxy.upstream_failure import is_local_error
from goproxyai.telemetry.outcome import Ending

MAX_DETAIL_LENGTH = 500
"""Characters of an exception's text that go to the log."""

_RATE_LIMITED = (
    b'{"error":"Rate limit exceeded. Please try again later.","code":"RATE_LIMIT_EXCEEDED"}'
)

_TIMEOUT_SETTINGS: Final[Mapping[Awaited, str]] = {
    Awaited.CONNECTION: "CONNECT_TIMEOUT",
    Awaited.RESPONSE_HEAD: "GENERATION_TIMEOUT (POST requests) or REQUEST_TIMEOUT (others)",
    Awaited.RESPONSE_BODY: "IDLE_TIMEOUT",
    Awaited.REQUEST_PROGRESS: "IDLE_TIMEOUT",
}

_OVERLOADED = (
    "The machine of the proxy is short of file descriptors, ports or memory for a connection to "
    "upstream; try again in a second."
)
_RETRY_SOON = ((b"Retry-After", b"1"),)

_log = Logger(namespace="goproxyai.proxy")


def proxy_error_for(failure: Failure) -> ProxyError:
    """Return the error that a client is told about *failure*.

    An exception that is not classified here is a defect of the proxy: its traceback is logged, and
    the error is ``internal_error``.
    """
    exception = failure.value
    while isinstance(exception, ConnectionBroken):
        exception = exception.reason.value
    if isinstance(exception, ProxyError):
        return exception
    if is_local_error(failure):
        return ProxyError("overloaded", _OVERLOADED, _RETRY_SOON, _detail(exception))
    code, message = _classify(exception)
    if code == "internal_error":  # the text of an unknown exception may quote the request
        _log.failure("a defect while handling a request", failure)
        return ProxyError(code, message, detail=type(exception).__name__)
    return ProxyError(code, message, detail=_detail(exception))


def _detail(exception: BaseException | None) -> str:
    """Return the text of *exception* for the log."""
    return mask_credentials(f"{type(exception).__name__}: {exception}")[:MAX_DETAIL_LENGTH]


def _classify(exception: BaseException | None) -> tuple[str, str]:
    """Return the error code and the message for an exception of the egress or the engine."""
    match exception:
        case UpstreamTimeout():
            return "upstream_timeout", (
                f"Waiting for {exception} took too long; try again, or raise "
                f"{_TIMEOUT_SETTINGS[exception.awaited]}."
            )
        case ConnectTimeout() | DeferredTimeout():
            return "upstream_timeout", "Connecting to upstream took too long; try again."
        case ConnectRefused(schemes=(_, *_)):
            return "egress_proxy_refused", (
                f"The egress proxy asks for {' or '.join(exception.schemes)} authentication, but "
                "goproxyai supports only Basic; allow Basic for it on the egress proxy, or put a "
                "local proxy that supports the scheme between them."
            )
        case ConnectRefused():
            return "egress_proxy_refused", (
                f"The egress proxy answered with status {exception.status}; "
                "check PROXY_URL and its credentials."
            )
        case ConnectMalformed():
            return "egress_proxy_refused", (
                "The egress proxy's answer to CONNECT is not HTTP; check PROXY_URL."
            )
        case SocksRefused():
            return "egress_proxy_refused", (
                f"The SOCKS proxy refused the connection: {exception}; {_socks_advice(exception)}."
            )
        case SocksMalformed():
            return "egress_proxy_refused", (
                f"The egress proxy does not speak SOCKS 5: {exception}; check PROXY_URL."
            )
        case OpenSSLError() | VerificationError() | CertificateError():
            return "upstream_tls_failed", (
                "TLS with upstream (or the egress proxy) failed: the certificate or the handshake "
                "is invalid; check OPENAI_API_URL, PROXY_URL and SSL_CERT_FILE."
            )
        case ProtocolViolation():
            return "upstream_protocol_error", f"Upstream did not speak HTTP/1.1: {exception}."
        case DNSLookupError():
            return "upstream_unreachable", (
                "The host name of upstream (or of the egress proxy) does not resolve; "
                "check OPENAI_API_URL, PROXY_URL and DNS."
            )
        case ConnectError():
            return "upstream_unreachable", (
                "Connecting to upstream (or to the egress proxy) failed; try again."
            )
        case ConnectionClosed():
            return "upstream_unreachable", (
                "Upstream closed the connection before it answered; try again."
            )
    return "internal_error", "The proxy failed to handle this request; see its log."


def _socks_advice(refused: SocksRefused) -> str:
    match refused.reply:
        case socks5.NO_ACCEPTABLE_METHOD | socks5.WRONG_CREDENTIALS:
            return "check the user and the password in PROXY_URL"
        case socks5.NOT_ALLOWED:
            return "allow the host of OPENAI_API_URL in the rules of the proxy"
        case socks5.ADDRESS_TYPE_NOT_SUPPORTED:
            return "use socks5:// in place of socks5h:// in PROXY_URL, or the reverse"
    return "try again, and check OPENAI_API_URL and the network of the proxy"


def fail_exchange(exchange: Exchange, error: ProxyError, reason: str = "") -> Ending:
    """End *exchange* with *error*: by a response, or by an abort where one has begun.

    :param reason: as in :func:`send_error`.
    """
    if exchange.response_started:
        exchange.abort()
        return Ending.CUT
    send_error(exchange, error, reason)
    return Ending.COMPLETE


def send_error(
    exchange: Exchange, error: ProxyError, reason: str = "", relayed: bool = True
) -> None:
    """Answer *exchange* with one of the proxy's own errors.

    :param reason: why the request was forwarded; empty for a request that was not.
    :param relayed: whether the request was to be relayed; its response then has ``X-Cache``.
    """
    headers = list(error.headers)
    if relayed:
        lines = own_lines(
            exchange.request_id, headers, cache_lines(reason, error.code.replace("_", "-"))
        )
    else:
        lines = own_lines(exchange.request_id, headers)
    _send(exchange, error.status, lines, error.body())


def send_rate_limited(exchange: Exchange, headers: Headers) -> None:
    """Answer *exchange* with the 429 of the rate limit; *headers* say when to retry."""
    lines = own_lines(exchange.request_id, headers, cache_lines("", "rate-limit"))
    _send(exchange, 429, lines, _RATE_LIMITED)


def _send(exchange: Exchange, status: int, header_lines: bytes, body: bytes) -> None:
    exchange.start_response(status, own_status_line(status) + header_lines, len(body))
    exchange.write(body, True)
