"""The listening sockets of the parent process, in a worker.

The endpoint string of a socket is parsed in the worker as well, for its wrappers: ``haproxy:`` and
``ssl:``. The address in it is replaced, and the socket that the worker has inherited is adopted
instead of a new one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)

from goproxyai.daemon import proxy_protocol, tls_endpoint
from goproxyai.daemon.accept_balance import AcceptBalance, Counts
from goproxyai.daemon.endpoints import parse_endpoints
from goproxyai.reactor.unix_port import keep_socket_path
from goproxyai.state.messages import PassedSocket
from goproxyai.state.parent_link import ParentLink

_ANY_ADDRESS = "tcp:0"

Endpoints = tuple[tuple[str, IStreamServerEndpoint], ...]


class AdoptingReactor:
    """A reactor that listens on one inherited socket, whatever address it is given."""

    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, **_: Any) -> IListeningPort:
        """Adopt the socket, which may be a Unix socket too; the parent removes its path."""
        with socket.socket(fileno=os.dup(self._descriptor)) as copy:
            family = copy.family
        adopted = self._reactor.adoptStreamPort(self._descriptor, family, factory)
        os.close(self._descriptor)  # the reactor has duplicated it
        return keep_socket_path(adopted)


@attrs.frozen(eq=False)
class WorkerParts:
    """What makes a daemon one of several workers.

    :ivar link: to the parent.
    :ivar instance: identifies the service in ``Via``: of all workers the same, so that a loop is
        found in whichever worker it ends.
    :ivar counts: of the connections of each worker. :ivar index: of this one.
    """

    link: ParentLink
    instance: bytes
    sockets: tuple[PassedSocket, ...]
    admin_sockets: tuple[PassedSocket, ...]
    counts: Counts
    index: int

    def balance(self, connections: Callable[[], int]) -> AcceptBalance:
        """Return what decides whether this worker accepts.

        :param connections: returns the number of its connections.
        """
        return AcceptBalance(self.counts, self.index, connections)

    def endpoints(self, reactor: Any, client_ca: str | None) -> tuple[Endpoints, Endpoints]:
        """Return the endpoints of ``LISTEN`` and of ``ADMIN_LISTEN``, with their descriptions."""
        public, private = [
            tuple([_endpoint(reactor, each, client_ca) for each in sockets])
            for sockets in (self.sockets, self.admin_sockets)
        ]
        return public, private


def _endpoint(
    reactor: Any, passed: PassedSocket, client_ca: str | None
) -> tuple[str, IStreamServerEndpoint]:
    adopting = AdoptingReactor(reactor, passed.descriptor)
    description = without_address(passed.description)
    ((_, endpoint),) = parse_endpoints(adopting, (description,), client_ca=client_ca)
    return passed.description, endpoint


def without_address(description: str) -> str:
    """Return the endpoint string with its wrappers, for any address."""
    inner = description.removeprefix(proxy_protocol.PREFIX)
    if inner.startswith(tls_endpoint.PREFIX):
        return description
    return description.removesuffix(inner) + _ANY_ADDRESS
