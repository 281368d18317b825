"""The endpoint and the request-target form for each origin.

====== ==================== ======================================================================
origin egress proxy         connection
====== ==================== ======================================================================
http   none                 TCP; origin-form
https  none                 TLS; origin-form
http   HTTP                 TCP or TLS to the proxy; absolute-form, credentials in each request
https  HTTP                 TLS to the origin in a CONNECT tunnel through the proxy; origin-form
any    SOCKS 5              as without an egress proxy, in a tunnel through the proxy
any    bypassed (NO_PROXY)  as without an egress proxy
====== ==================== ======================================================================

A WebSocket handshake to an http origin goes through an HTTP proxy in a CONNECT tunnel, as RFC 6455
§4.1 asks: few proxies relay ``Upgrade`` in a request of their own.

Host names are used as they are. A trailing dot makes a name absolute for the resolver, and is sent
to no peer: not in ``Host``, nor in CONNECT, nor in SNI.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint

from goproxyai.config.urls import ProxyURL
from goproxyai.egress.name_endpoint import endpoint_to
from goproxyai.egress.tls import server_name
from goproxyai.reactor.tls_transport import TLSClientEndpoint
from goproxyai.upstream.no_proxy import bypasses_proxy

_TRAILING_DOT = re.compile(r"\.(?=(?::[0-9]*)?$)")


class Step(StrEnum):
    """A step of connecting that has an endpoint of its own."""

    TCP = "TCP"
    CONNECT = "CONNECT"
    SOCKS = "SOCKS"


Observe = Callable[[Step, IStreamClientEndpoint], IStreamClientEndpoint]
"""Returns the endpoint of a step, or one that observes it."""


def not_observed(_: Step, endpoint: IStreamClientEndpoint) -> IStreamClientEndpoint:
    """Return *endpoint*: an :data:`Observe`."""
    return endpoint


@attrs.frozen(eq=False)
class Route:
    """How to connect to one origin, and how requests to it begin.

    :ivar origin: ``scheme://authority``.
    :ivar host: the value of ``Host``.
    :ivar secured: whether a connection is ready only after a TLS handshake of its own.
    :ivar prefix: precedes the target in the request line; empty for origin-form.
    :ivar lines: header lines for this hop; they may contain the proxy's credentials.
    :ivar proxy: the egress proxy; ``None`` for a direct connection.
    :ivar pool_key: what the connections of the route are pooled by.
    :ivar for_handshakes: the route of WebSocket handshakes, where they have another one.
    """

    origin: bytes
    host: bytes
    endpoint: IStreamClientEndpoint
    secured: bool
    prefix: bytes = b""
    lines: bytes = attrs.field(default=b"", repr=False)
    proxy: ProxyURL | None = None
    pool_key: bytes = attrs.field(
        default=attrs.Factory(lambda route: route.origin, takes_self=True)
    )
    for_handshakes: Route | None = None

    def head(self, method: bytes, target: bytes) -> bytes:
        """Return the request line, ``Host``, and the header lines for this hop.

        :param target: path and query, byte for byte as they are to be sent.
        """
        return b"%b %b%b HTTP/1.1\r\nHost: %b\r\n%b" % (
            method, self.prefix, target, self.host, self.lines,
        )  # fmt: skip


def proxy_to(
    proxy: ProxyURL | None, no_proxy: tuple[str, ...], host: str, port: int
) -> ProxyURL | None:
    """Return the egress proxy of connections to *host*; ``None`` for direct connections.

    :param no_proxy: of ``NO_PROXY``.
    """
    if proxy is None or bypasses_proxy(no_proxy, host, port):
        return None
    return proxy


@attrs.frozen(eq=False)
class Routes:
    """Makes the :class:`Route` to each origin.

    :ivar tls: returns client TLS for a host, see :func:`.tls.tls_to`.
    :ivar observe: for a check of the steps.
    """

    reactor: Any
    proxy: ProxyURL | None
    no_proxy: tuple[str, ...]
    tls: Callable[[str], IOpenSSLClientConnectionCreator]
    observe: Observe = not_observed

    def route_to(self, origin: bytes) -> Route:
        """Return the route to *origin*.

        :param origin: ``scheme://authority``, without path or credentials.
        :raises ValueError: if *origin* is anything else.
        """
        parts = urlsplit(origin.decode("ascii"))
        host, secured = parts.hostname, parts.scheme == "https"
        if not host or parts.scheme not in ("http", "https") or parts.username is not None:
            raise ValueError(
                f"not an http origin: {parts.scheme}://{host}; expected http://host or https://host"
            )
        port = parts.port or (443 if secured else 80)
        authority = _TRAILING_DOT.sub("", parts.netloc).encode("ascii")
        proxy = proxy_to(self.proxy, self.no_proxy, host, port)
        endpoint: IStreamClientEndpoint
        if proxy is None:
            endpoint = self._tcp(host, port)
        elif proxy.is_socks:
            endpoint = self._socks_tunnel(proxy, host, port)
        elif secured:
            endpoint = self._tunnel(proxy, host, port)
        else:
            credentials = proxy.basic_credentials()
            line = b"Proxy-Authorization: %b\r\n" % credentials if credentials else b""
            tls_to_proxy, prefix = proxy.scheme == "https", b"http://" + authority
            tunnel = Route(
                origin,
                authority,
                self._tunnel(proxy, host, port),
                secured=False,
                proxy=proxy,
                pool_key=b"tunnel " + origin,
            )
            return Route(
                origin,
                authority,
                self._hop(proxy),
                tls_to_proxy,
                prefix,
                line,
                proxy,
                for_handshakes=tunnel,
            )
        if secured:
            endpoint = TLSClientEndpoint(self.tls(host), endpoint)
        return Route(origin, authority, endpoint, secured, proxy=proxy)

    def _tunnel(self, proxy: ProxyURL, host: str, port: int) -> IStreamClientEndpoint:
        # Imported late: h11 takes 0.4 MB, which a daemon without an egress proxy does not need.
        from goproxyai.egress.tunnel_endpoint import ConnectEndpoint

        credentials = proxy.basic_credentials()
        fields = ((b"Proxy-Authorization", credentials),) if credentials else ()
        bracketed = f"[{host}]" if ":" in host else server_name(host)
        authority = f"{bracketed}:{port}".encode("ascii")
        return self.observe(Step.CONNECT, ConnectEndpoint(self._hop(proxy), authority, fields))

    def _socks_tunnel(self, proxy: ProxyURL, host: str, port: int) -> IStreamClientEndpoint:
        from goproxyai.egress.tunnel_endpoint import SocksEndpoint  # as above

        endpoint = SocksEndpoint(
            self._hop(proxy),
            self.reactor,
            host if proxy.resolves_here else server_name(host),
            port,
            proxy.resolves_here,
            proxy.socks_credentials(),
        )
        return self.observe(Step.SOCKS, endpoint)

    def _hop(self, proxy: ProxyURL) -> Any:
        """Return the endpoint of *proxy* itself."""
        endpoint = self._tcp(proxy.host, proxy.port)
        if proxy.scheme == "https":
            endpoint = TLSClientEndpoint(self.tls(proxy.host), endpoint)
        return endpoint

    def _tcp(self, host: str, port: int) -> Any:
        return self.observe(Step.TCP, endpoint_to(self.reactor, host, port))
