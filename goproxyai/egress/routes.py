"""Which endpoint and which form of target lead to an origin.

======== ============ ==========================================================
origin   egress proxy the connection
======== ============ ==========================================================
http     none         TCP; origin-form
https    none         TLS over TCP; origin-form
http     yes          TCP (or TLS) to the proxy; absolute-form, credentials on each request
https    yes          TLS to the origin, in a CONNECT tunnel through the proxy; origin-form
any      by NO_PROXY  as with none
======== ============ ==========================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint

from goproxyai.config.urls import ProxyURL
from goproxyai.egress.connect_endpoint import ConnectEndpoint
from goproxyai.upstream.no_proxy import bypasses_proxy


@attrs.frozen(eq=False)
class Route:
    """The way to one origin.

    :ivar host: the value of ``Host``.
    :ivar prefix: stands before the target in the request line; empty but for absolute-form.
    :ivar lines: header lines for this hop only; holds the proxy's credentials.
    :ivar secured: whether the connection is ready only after a TLS handshake of its own.
    """

    origin: bytes
    host: bytes
    endpoint: IStreamClientEndpoint
    secured: bool
    prefix: bytes = b""
    lines: bytes = attrs.field(default=b"", repr=False)

    def head(self, method: bytes, target: bytes) -> bytes:
        """Request line and the lines that are the route's own.

        :param target: path and query, as they are to be sent.
        """
        return b"%b %b%b HTTP/1.1\r\nHost: %b\r\n%b" % (
            method, self.prefix, target, self.host, self.lines,
        )  # fmt: skip


@attrs.frozen(eq=False)
class Routes:
    """Finds the :class:`Route` to an origin.

    :ivar tls: makes the client side of TLS for a host, see :func:`.tls.tls_to`.
    """

    reactor: Any
    proxy: ProxyURL | None
    no_proxy: tuple[str, ...]
    tls: Callable[[str], IOpenSSLClientConnectionCreator]

    def to(self, origin: bytes) -> Route:
        """The route to *origin*, ``scheme://authority`` and nothing behind it.

        :raises ValueError: where *origin* is not that.
        """
        parts = urlsplit(origin.decode("ascii"))
        host, secured = parts.hostname, parts.scheme == "https"
        if not host or parts.scheme not in ("http", "https") or parts.username is not None:
            raise ValueError(f"not an http origin: {parts.scheme}://{host}")
        port = parts.port or (443 if secured else 80)
        authority = parts.netloc.encode("ascii")
        proxy = self.proxy
        if proxy is not None and bypasses_proxy(self.no_proxy, host, port):
            proxy = None
        if proxy is None:
            endpoint = self._tcp(host, port)
        else:
            endpoint = self._tcp(proxy.host, proxy.port)
            if proxy.scheme == "https":
                endpoint = wrapClientTLS(self.tls(proxy.host), endpoint)
            credentials = proxy.basic_credentials()
            if not secured:
                line = b"Proxy-Authorization: %b\r\n" % credentials if credentials else b""
                return Route(origin, authority, endpoint, proxy.scheme == "https", origin, line)
            bracketed = f"[{host}]" if ":" in host else host
            fields = ((b"Proxy-Authorization", credentials),) if credentials else ()
            endpoint = ConnectEndpoint(endpoint, f"{bracketed}:{port}".encode("ascii"), fields)
        if secured:
            endpoint = wrapClientTLS(self.tls(host), endpoint)
        return Route(origin, authority, endpoint, secured)

    def _tcp(self, host: str, port: int) -> Any:
        if isIPAddress(host):
            return TCP4ClientEndpoint(self.reactor, host, port)
        if isIPv6Address(host):
            return TCP6ClientEndpoint(self.reactor, host, port)
        return HostnameEndpoint(self.reactor, host, port)
