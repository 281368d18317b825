"""Endpoints with ``haproxy:`` before their description: the PROXY protocol.

Twisted's own ``haproxy:`` wrapper is not used. For the wrapped protocol, the load balancer is the
peer until the header is received, so the factory takes the address of the load balancer. The
wrapper refuses a bare ``PROXY UNKNOWN`` and headers in several reads, has no deadline, and takes
headers from any sender.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from zope.interface import implementer

from goproxyai.http11.announced_peer import AnnouncedPeerFactory

PREFIX = "haproxy:"


@implementer(IStreamServerEndpoint)
@attrs.define(eq=False)
class ProxyProtocolEndpoint:
    """Listens as *endpoint* does, for connections that begin with a header.

    :ivar description: with the prefix.
    """

    endpoint: IStreamServerEndpoint
    description: str

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:
        """Listen (``IStreamServerEndpoint``).

        :param protocolFactory: a :class:`.ServerFactory`.
        """
        factory: Any = AnnouncedPeerFactory(protocolFactory, protocolFactory, self.description)
        return self.endpoint.listen(factory)
