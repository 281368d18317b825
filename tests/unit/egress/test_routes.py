"""Routes to origins: endpoint, request-target form and credentials."""

from __future__ import annotations

import base64

import pytest
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock

from goproxyai.config.urls import ProxyURL
from goproxyai.egress.routes import Routes
from goproxyai.egress.tls import tls_to
from goproxyai.upstream.no_proxy import parse_no_proxy

BASIC = b"Basic " + base64.b64encode(b"user:p@ss")
PROXY = ProxyURL("http", "192.0.2.9", 3128, "user", "p@ss")
SOCKS = ProxyURL("socks5", "192.0.2.9", 1080, "user", "p@ss")
LINE = b"Proxy-Authorization: " + BASIC + b"\r\n"


@pytest.mark.parametrize(
    ("origin", "proxy", "no_proxy", "prefix", "line", "secured", "connected_to"),
    [
        ("http://192.0.2.1", None, "", b"", b"", False, ("192.0.2.1", 80)),
        ("http://192.0.2.1:81", None, "", b"", b"", False, ("192.0.2.1", 81)),
        ("https://192.0.2.1", None, "", b"", b"", True, ("192.0.2.1", 443)),
        ("http://192.0.2.1", PROXY, "", b"http://192.0.2.1", LINE, False, ("192.0.2.9", 3128)),
        ("https://192.0.2.1", PROXY, "", b"", b"", True, ("192.0.2.9", 3128)),
        ("http://192.0.2.1", PROXY, "*", b"", b"", False, ("192.0.2.1", 80)),
        ("https://192.0.2.1", PROXY, "192.0.2.1", b"", b"", True, ("192.0.2.1", 443)),
        ("http://192.0.2.1", PROXY, "192.0.2.1:81", b"http://192.0.2.1", LINE, False,
         ("192.0.2.9", 3128)),
        ("http://192.0.2.1", ProxyURL("https", "192.0.2.9", 3128), "", b"http://192.0.2.1", b"",
         True, ("192.0.2.9", 3128)),
        ("http://192.0.2.1", SOCKS, "", b"", b"", False, ("192.0.2.9", 1080)),
        ("https://192.0.2.1", SOCKS, "", b"", b"", True, ("192.0.2.9", 1080)),
        ("https://192.0.2.1", SOCKS, "192.0.2.1", b"", b"", True, ("192.0.2.1", 443)),
        ("http://[2001:db8::1]:81", None, "", b"", b"", False, ("2001:db8::1", 81)),
    ],
)  # fmt: skip
def test_route_to_origin(
    origin: str,
    proxy: ProxyURL | None,
    no_proxy: str,
    prefix: bytes,
    line: bytes,
    secured: bool,
    connected_to: tuple[str, int],
) -> None:
    reactor = MemoryReactorClock()
    routes = Routes(reactor, proxy, parse_no_proxy(no_proxy), tls_to)
    route = routes.route_to(origin.encode())
    assert (route.prefix, route.lines, route.secured) == (prefix, line, secured)
    assert route.host == origin.partition("://")[2].encode()
    connecting = route.endpoint.connect(Factory.forProtocol(Protocol))
    assert [each[:2] for each in reactor.tcpClients] == [connected_to]
    assert "p@ss" not in repr(route)
    assert BASIC.decode() not in repr(route)
    connecting.addErrback(lambda _: None)
    connecting.cancel()


@pytest.mark.parametrize(
    "origin", [b"ftp://a", b"http://", b"https://user@host", b"api.openai.com", b""]
)
def test_invalid_origin_has_no_route(origin: bytes) -> None:
    routes = Routes(MemoryReactorClock(), None, (), tls_to)
    with pytest.raises(ValueError, match="not an http origin"):
        routes.route_to(origin)
