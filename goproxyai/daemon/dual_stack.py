"""The endpoint ``tcp46:PORT``, which listens on IPv6 and IPv4.

One IPv6 socket accepts both, if ``IPV6_V6ONLY`` is off. The kernel's default for that is the sysctl
``net.ipv6.bindv6only``, so the option is set here. Twisted has no endpoint that sets it. An IPv4
client then has an IPv4-mapped address, which :class:`.ServerFactory` converts back.

A host without IPv6 gets an IPv4 socket.
"""

from __future__ import annotations

import errno
import re
import socket
from typing import Any

import attrs
from twisted.internet.defer import Deferred, execute
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

PREFIX = "tcp46:"

_DESCRIPTION = re.compile(r"tcp46:(?:port=)?([0-9]{1,5})(?::backlog=([0-9]{1,5}))?")
_DEFAULT_BACKLOG = 1024
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


@implementer(IStreamServerEndpoint)
@attrs.define(eq=False)
class DualStackEndpoint:
    """Listens on all IPv6 and IPv4 addresses of the host.

    :param port: 0 for a free port.
    """

    reactor: Any
    port: int
    backlog: int = _DEFAULT_BACKLOG

    @classmethod
    def parse(cls, reactor: Any, description: str) -> DualStackEndpoint:
        """Parse ``tcp46:PORT`` or ``tcp46:PORT:backlog=N``.

        :raises ValueError: if *description* is anything else.
        """
        match = _DESCRIPTION.fullmatch(description)
        if match is None or int(match[1]) > 65535:
            raise ValueError("expected tcp46:PORT or tcp46:PORT:backlog=N")
        return cls(reactor, int(match[1]), int(match[2] or _DEFAULT_BACKLOG))

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen; fails with ``CannotListenError``."""
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        try:
            listening = self._socket()
        except OSError as error:
            raise CannotListenError("any", self.port, error) from None
        with listening:  # the reactor duplicates it
            port: IListeningPort = self.reactor.adoptStreamPort(
                listening.fileno(), listening.family, factory
            )
        return port

    def _socket(self) -> socket.socket:
        try:
            return _listening_socket(socket.AF_INET6, "::", self.port, self.backlog)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
        return _listening_socket(socket.AF_INET, "0.0.0.0", self.port, self.backlog)  # noqa: S104  # as the endpoint's description says


def _listening_socket(
    family: socket.AddressFamily, address: str, port: int, backlog: int
) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((address, port))
        listening.listen(backlog)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
