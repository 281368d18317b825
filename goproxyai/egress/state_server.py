"""The server of ``STATE_URL``: TCP, TLS, a Unix socket, or the master that Sentinels know.

Names are resolved, and certificates verified, as for upstreams. The egress proxy is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint

from goproxyai.config.state_url import StateURL
from goproxyai.egress.name_endpoint import endpoint_to
from goproxyai.egress.tls import tls_without_alpn
from goproxyai.reactor.tls_transport import TLSClientEndpoint
from goproxyai.state.redis.client import Login, Server
from goproxyai.state.redis.servers import FixedServer, SentinelServers


def login_of(url: StateURL) -> Login:
    """Return how connections to the server begin."""
    return Login(url.username, url.password, url.database)


def state_server(
    reactor: Any,
    url: StateURL,
    tls: Callable[[str], IOpenSSLClientConnectionCreator] = tls_without_alpn,
) -> Server:
    """Return the server of *url*.

    :param tls: returns client TLS for a host.
    """

    def endpoint(host: str, port: int) -> IStreamClientEndpoint:
        plain = endpoint_to(reactor, host, port)
        return TLSClientEndpoint(tls(host), plain) if url.secured else plain

    if url.socket:
        return FixedServer(UNIXClientEndpoint(reactor, url.socket, timeout=None))
    if not url.service:
        return FixedServer(endpoint(*url.addresses[0]))
    password = () if url.password is None else login_of(url).commands()[0][1:]
    return SentinelServers(reactor, url.addresses, url.service, password, endpoint)
