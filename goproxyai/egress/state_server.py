"""The server of ``STATE_URL``: TCP, TLS, a Unix socket, or the master that Sentinels know.

Names are resolved, and certificates verified, as for upstreams. The egress proxy is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from goproxyai.config.state_url import StateURL
from goproxyai.egress.name_endpoint import endpoint_to
from goproxyai.egress.tls import tls_without_alpn
from goproxyai.reactor.socket_state import set_tcp_options
from goproxyai.reactor.tls_transport import TLSClientEndpoint
from goproxyai.state.redis.lanes import Login, Server
from goproxyai.state.redis.servers import FixedServer, SentinelServers


@implementer(IStreamClientEndpoint)
@attrs.frozen(eq=False)
class _WithTCPOptions:
    """Sends commands at once: a pipelined one would wait for the reply to the one before."""

    endpoint: IStreamClientEndpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        connecting: Deferred[Any] = self.endpoint.connect(protocolFactory)
        return connecting.addCallback(_with_options)


def _with_options(protocol: Any) -> Any:
    set_tcp_options(protocol.transport)
    return protocol


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
        plain = _WithTCPOptions(endpoint_to(reactor, host, port))
        return TLSClientEndpoint(tls(host), plain) if url.secured else plain

    if url.socket:
        return FixedServer(UNIXClientEndpoint(reactor, url.socket, timeout=None))
    if not url.service:
        return FixedServer(endpoint(*url.addresses[0]))
    password = () if url.password is None else login_of(url).commands()[0][1:]
    return SentinelServers(reactor, url.addresses, url.service, password, endpoint)
