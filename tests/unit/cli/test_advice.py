"""The advice about failures that are hard to cause with real sockets."""

from __future__ import annotations

import pytest
from OpenSSL.SSL import Error as OpenSSLError
from twisted.internet.error import ConnectError, ConnectionLost, TCPTimedOutError
from twisted.python.failure import Failure

from goproxyai.cli.advice import Place, advice_for, judge_status
from goproxyai.cli.findings import Result
from goproxyai.config.urls import ProxyURL, UpstreamURL
from goproxyai.http11.errors import Awaited, ConnectionBroken, UpstreamTimeout

URL = UpstreamURL("https", "a.test", 443)
PROXY = ProxyURL("http", "proxy.test", 3128, "me", "hunter2")


def advice(exception: Exception, step: str, proxy: ProxyURL | None = None) -> str:
    detail, advised = advice_for(Failure(exception), Place(step, URL, proxy))
    return f"{detail}. {advised}"


@pytest.mark.parametrize(
    ("exception", "step", "proxy", "words"),
    [
        (UpstreamTimeout(Awaited.CONNECTION), "TCP", None, "no answer from a.test:443"),
        (UpstreamTimeout(Awaited.CONNECTION), "TCP", PROXY, "no answer from proxy.test:3128"),
        (UpstreamTimeout(Awaited.CONNECTION), "TLS", None, "TLS handshake within CONNECT_TIMEOUT"),
        (TCPTimedOutError(osError="timed out"), "TCP", None, "a.test:443 failed: timed out"),
        (ConnectError(osError="No route"), "TCP", PROXY, "proxy.test:3128 failed: No route"),
        (ConnectionBroken(Failure(ConnectionLost())), "HTTP", None, "closed by a.test:443"),
        (OpenSSLError([("ssl", "", "wrong version number")]), "TLS", None,
         "handshake with a.test failed: wrong version number"),
        (OpenSSLError(), "TLS", None, "the TLS handshake with a.test failed."),
        (OpenSSLError("odd"), "TLS", None, "the TLS handshake with a.test failed."),
        (RuntimeError("Bearer sk-secret1234\n"), "HTTP", None, "Report this as a defect"),
    ],
)  # fmt: skip
def test_advice_names_the_peer_and_the_variable(
    exception: Exception, step: str, proxy: ProxyURL | None, words: str
) -> None:
    told = advice(exception, step, proxy)
    assert words in told
    assert told.isprintable()
    assert "sk-secret" not in told
    assert ("PROXY_URL" in told) or proxy is None


def test_machine_without_a_direct_way_is_told_about_the_proxy() -> None:
    timeout = UpstreamTimeout(Awaited.CONNECTION)
    assert "needs an egress proxy" in advice(timeout, "TCP")
    assert "needs an egress proxy" not in advice(timeout, "TCP", PROXY)


@pytest.mark.parametrize(("status", "result"), [(200, "ok"), (429, "ok"), (308, "warning")])
def test_status_that_shows_a_reachable_upstream_is_no_failure(status: int, result: str) -> None:
    assert judge_status(status, "/v1/models", "").result is Result(result)
