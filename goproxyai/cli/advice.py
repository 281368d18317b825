"""What a failed step of the way to an upstream means, and what to do."""

from __future__ import annotations

from typing import Final

import attrs
from OpenSSL.SSL import Error as OpenSSLError
from service_identity import CertificateError, VerificationError
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import ConnectionRefusedError as RefusedError
from twisted.python.failure import Failure

from goproxyai.cli.findings import Finding, Result
from goproxyai.config.urls import ProxyURL, UpstreamURL
from goproxyai.egress.routes import Step
from goproxyai.http11.errors import Awaited, ConnectionBroken, ProtocolViolation, UpstreamTimeout
from goproxyai.messages.connect_errors import ConnectMalformed, ConnectRefused
from goproxyai.messages.redaction import mask_credentials
from goproxyai.messages.socks5 import SocksMalformed, SocksRefused
from goproxyai.proxy.error_response import proxy_error_for

_MAX_SHOWN_CHARACTERS: Final = 200

_GATEWAY_ERRORS: Final = (502, 503, 504)


@attrs.frozen
class Place:
    """Where a step failed.

    :ivar step: ``DNS``, ``TCP``, ``CONNECT``, ``SOCKS``, ``TLS`` or ``HTTP``.
    """

    step: str
    url: UpstreamURL
    proxy: ProxyURL | None

    @property
    def to_proxy(self) -> bool:
        """Whether the step leads to the egress proxy, and not beyond."""
        return self.proxy is not None and self.step in ("DNS", Step.TCP.value)

    @property
    def peer(self) -> str:
        """``host:port`` of the peer."""
        peer = self.proxy if self.proxy is not None and self.to_proxy else self.url
        return f"{peer.host}:{peer.port}"

    @property
    def variable(self) -> str:
        """The variable that has the peer."""
        return "PROXY_URL" if self.to_proxy else "OPENAI_API_URL"


def advice_for(failure: Failure, place: Place) -> tuple[str, str]:
    """Return what happened and what to do, each one sentence at most."""
    exception = failure.value
    while isinstance(exception, ConnectionBroken):
        exception = exception.reason.value
    match exception:
        case UpstreamTimeout():
            return _timeout(exception, place)
        case DNSLookupError():
            host = place.peer.rpartition(":")[0]
            return (
                f"{host} does not resolve",
                f"Check the name in {place.variable} and the name servers of this machine."
                + _without_dns(place),
            )
        case ConnectRefused():
            return _refused_tunnel(exception, place)
        case RefusedError():
            return (
                f"{place.peer} refuses connections",
                f"Check host and port in {place.variable}, and whether the server runs.",
            )
        case OpenSSLError() | VerificationError() | CertificateError():
            return _tls(exception, place)
        case ConnectError():
            return (
                f"connecting to {place.peer} failed: {exception.osError or exception}",
                f"Check the network, firewalls and {place.variable}.{_without_dns(place)}",
            )
        case ConnectionClosed():
            return (
                f"the connection was closed by {place.peer}",
                f"Check that {place.variable} has the right scheme and port; a firewall may close "
                "connections as well.",
            )
        case ConnectMalformed() | SocksRefused() | SocksMalformed() | ProtocolViolation():
            message, _, advice = proxy_error_for(failure).message.partition("; ")
            advice = advice or f"Check that {place.variable} has the URL of an HTTP API."
            return message, advice[:1].upper() + advice[1:]
    return _shown(f"{type(exception).__name__}: {exception}"), "Report this as a defect."


def _without_dns(place: Place) -> str:
    if place.proxy is not None:
        return ""
    return " A machine without a direct way to upstream needs an egress proxy (PROXY_URL)."


def _timeout(timeout: UpstreamTimeout, place: Place) -> tuple[str, str]:
    if timeout.awaited is not Awaited.CONNECTION:
        return (
            "no response within REQUEST_TIMEOUT",
            f"The server accepts requests and does not answer; check {place.variable}.",
        )
    if place.step == Step.TCP.value:
        return (
            f"no answer from {place.peer} within CONNECT_TIMEOUT",
            f"A firewall may drop the packets; check host and port in {place.variable}."
            + _without_dns(place),
        )
    if place.step in (Step.CONNECT.value, Step.SOCKS.value):
        return (
            "no answer from the egress proxy within CONNECT_TIMEOUT",
            "Check the scheme and port in PROXY_URL, and whether the proxy can reach "
            f"{place.url.host}:{place.url.port}.",
        )
    return (
        "no end of the TLS handshake within CONNECT_TIMEOUT",
        f"Check that {place.variable} has a port with TLS.",
    )


def _refused_tunnel(refused: ConnectRefused, place: Place) -> tuple[str, str]:
    target = f"{place.url.host}:{place.url.port}"
    detail = f"the egress proxy answers {refused.status}"
    if refused.schemes:
        return detail, proxy_error_for(Failure(refused)).message
    if refused.status == 407:
        given = place.proxy is not None and place.proxy.username is not None
        what = "Check the user and the password" if given else "Add a user and a password"
        return detail, f"{what} in PROXY_URL: http://user:password@host:port, percent-encoded."
    if refused.status in _GATEWAY_ERRORS:
        return detail, f"The proxy cannot reach {target}; check its log, network and DNS."
    if refused.status in (403, 405):
        return detail, f"Allow CONNECT to {target} in the rules of the proxy."
    return detail, f"Check that PROXY_URL has an HTTP proxy that allows CONNECT to {target}."


def _tls(exception: BaseException, place: Place) -> tuple[str, str]:
    side = "the egress proxy" if place.step == Step.CONNECT.value else place.url.host
    if isinstance(exception, VerificationError):
        return (
            f"the certificate is not for {side}",
            f"Check the host in {place.variable}: a proxy or DNS may lead to another server.",
        )
    if isinstance(exception, CertificateError):
        return (
            str(exception),
            "If a proxy of your organisation decrypts TLS, set SSL_CERT_FILE to its root "
            "certificate; else the server must renew its certificate or send the whole chain.",
        )
    reasons = _openssl_reasons(exception)
    return (
        f"the TLS handshake with {side} failed{f': {reasons}' if reasons else ''}",
        f"Check that {place.variable} has a port with TLS, and http:// for one without.",
    )


def _openssl_reasons(exception: BaseException) -> str:
    """Return the reasons in an exception of pyOpenSSL, a list of library, function and reason."""
    errors = exception.args[0] if exception.args else ()
    if not isinstance(errors, list | tuple):
        return ""
    return _shown(", ".join([str(error[-1]) for error in errors if isinstance(error, tuple)]))


def judge_status(status: int, target: str, location: str) -> Finding:
    """Return the finding about a response to a request without credentials.

    :param target: that was requested.
    :param location: where the response redirects to, if it does.
    """
    detail = f"GET {target}: {status}"
    if status == 401:
        return Finding("", Result.OK, f"{detail}, as expected without an API key")
    if status == 407:
        advice = "Check the user and the password in PROXY_URL."
        return Finding("", Result.FAILED, f"{detail} from the egress proxy", advice)
    if status >= 500:
        advice = "Upstream, or a proxy in front of it, fails; look at its status page or log."
        return Finding("", Result.FAILED, detail, advice)
    if 300 <= status < 400:
        shown = _shown(location) or "elsewhere"
        advice = "Set OPENAI_API_URL to the address that serves the API."
        return Finding("", Result.WARNING, f"{detail}, which redirects to {shown}", advice)
    if status == 404:
        advice = "Check the path in OPENAI_API_URL: the paths of requests are appended to it."
        return Finding("", Result.WARNING, detail, advice)
    if status == 403:
        advice = "Upstream may refuse this address or country; check with an API key."
        return Finding("", Result.WARNING, detail, advice)
    return Finding("", Result.OK, detail)


def _shown(text: str) -> str:
    """Return foreign text as a part of a line."""
    text = mask_credentials(text)[:_MAX_SHOWN_CHARACTERS]
    return text if text.isprintable() else ascii(text)[1:-1]
